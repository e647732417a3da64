"""How many distinct things a part of the samples holds: the honest picture of a collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from materium_rl.evaluation.statistics import TAILS, Floats
from materium_rl.evaluation.variety import sun_kinds

if TYPE_CHECKING:
    import pandas as pd

POINTS = 40
"""Numbers of samples at which a curve is given."""


@dataclass(frozen=True)
class Curve:
    """Distinct things against samples drawn, with a 95 % band; each of K values."""

    expected: Floats
    low: Floats
    high: Floats


def sample_sizes(n: int) -> NDArray[np.int64]:
    """Up to ``POINTS`` numbers of samples from 1 to n, evenly spread."""
    return np.unique(np.linspace(1, n, min(n, POINTS)).round().astype(np.int64))


def sun_curves(runs: Sequence[pd.DataFrame], sizes: NDArray[np.int64]) -> dict[str, Curve]:
    """Curves of the distinct S.U.N. samples by each of ``variety.KINDS``, mean over the runs of a recipe.

    Args:
        runs: Of each run a table from ``metrics.add_verdicts``, one row per structure requested.
        sizes: K numbers of samples, none above the rows of a table.
    """
    kinds = [sun_kinds(frame) for frame in runs]
    return {kind: mean_curve([rarefaction(found[kind], sizes) for found in kinds]) for kind in kinds[0]}


def rarefaction(codes: ArrayLike, sizes: ArrayLike) -> tuple[Floats, Floats]:
    """Expected number of distinct codes in a random part of N samples, and its standard error.

    A code that c samples have is missing from k of N samples with probability C(N - c, k) / C(N, k). The
    standard error is that of other N samples (delete-one jackknife); for all N that for N - 1.

    Args:
        codes: N codes; negative for a sample that shows nothing.
        sizes: K numbers of samples from 1 to N.

    Returns:
        Expectation and standard error, (K,) each.

    Source: Hurlbert, Ecology 52, 577 (1971).
    """
    kinds, k = np.asarray(codes), np.asarray(sizes, dtype=np.float64)
    n = len(kinds)
    counts = np.unique(kinds[kinds >= 0], return_counts=True)[1]
    expected = _present(counts, n, k).sum(axis=1)
    if n < 2:
        return expected, np.zeros_like(expected)
    k = np.minimum(k, n - 1)
    lost = _present(counts, n - 1, k) - _present(counts - 1, n - 1, k)
    variance = (n - 1) / n * ((lost**2 @ counts) - (lost @ counts) ** 2 / n)
    return expected, np.sqrt(np.maximum(variance, 0.0))


def mean_curve(runs: Sequence[tuple[Floats, Floats]]) -> Curve:
    """Mean of the curves of M runs; its band is over samples for one run, from two runs on over runs."""
    from scipy.stats import norm, t

    curves, errors = (np.array(part) for part in zip(*runs, strict=True))
    m, expected = len(curves), curves.mean(axis=0)
    if m == 1:
        half = norm.ppf(TAILS[1]) * errors[0]
    else:
        half = t.ppf(TAILS[1], m - 1) * curves.std(axis=0, ddof=1) / np.sqrt(m)
    return Curve(expected, np.maximum(expected - half, 0.0), expected + half)


def _present(counts: NDArray[np.int64], n: int, k: Floats) -> Floats:
    """Probability that k of n samples hold a thing that ``counts`` of them have, (K, kinds)."""
    from scipy.special import gammaln

    rest, drawn = (n - counts)[None, :], k[:, None]
    with np.errstate(invalid="ignore"):
        log_missing = gammaln(rest + 1) - gammaln(rest - drawn + 1) - gammaln(n + 1) + gammaln(n - drawn + 1)
    return np.where(drawn > rest, 1.0, -np.expm1(log_missing))
