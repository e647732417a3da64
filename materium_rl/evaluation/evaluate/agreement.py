"""How far two judges agree about the same structures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.definitions import Flags
from materium_rl.evaluation.metrics import Figure, ratio_of
from materium_rl.evaluation.statistics import Bootstrap

LEAST = 2
"""Structures that both have measured, below which there is nothing to say."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Two judges on N structures.

    Args:
        first: Who they are, the reward's own first.
        second: The other.
        unit: Of the values.
        n: Structures that both have measured.
        median_difference: Second minus first.
        mean_absolute_difference: Of the two.
        agree: Title of a yes-or-no verdict -> share of the n on which both say the same.
        confirmed: Title -> of those that the first says yes to, the share to which the second does.
    """

    first: str
    second: str
    unit: str
    n: int
    median_difference: Figure
    mean_absolute_difference: Figure
    agree: dict[str, Figure]
    confirmed: dict[str, Figure]


def agreement(
    first: tuple[str, Floats],
    second: tuple[str, Floats],
    unit: str,
    verdicts: dict[str, tuple[Flags, Flags]],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement | None:
    """Compare two judges where both have a value.

    Args:
        first: Title and N values, NaN where there is none.
        second: The other.
        unit: Of the values.
        verdicts: Title -> N verdicts of the first, N of the second.
        n_boot: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        None if both have measured fewer than two structures.
    """
    both = np.isfinite(first[1]) & np.isfinite(second[1])
    n = int(both.sum())
    if n < LEAST:
        return None
    bootstrap = Bootstrap(n, n_boot=n_boot, seed=seed)
    everything = np.ones(n, dtype=np.bool_)
    difference = second[1][both] - first[1][both]
    flags = {title: (a[both], b[both]) for title, (a, b) in verdicts.items()}
    return Agreement(
        first=first[0],
        second=second[0],
        unit=unit,
        n=n,
        median_difference=_median(difference, n_boot, seed),
        mean_absolute_difference=ratio_of(bootstrap, np.abs(difference), everything),
        agree={title: ratio_of(bootstrap, a == b, everything) for title, (a, b) in flags.items()},
        confirmed={title: ratio_of(bootstrap, a & b, a) for title, (a, b) in flags.items()},
    )


def _median(values: Floats, n_boot: int, seed: int) -> Figure:
    rows = np.random.default_rng(seed).integers(0, len(values), (n_boot, len(values)))
    low, high = np.quantile(np.median(values[rows], axis=1), [0.025, 0.975])
    return Figure(float(np.median(values)), float(low), float(high))
