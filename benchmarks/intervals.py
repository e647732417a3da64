"""Figures of a benchmark with their 95 % intervals, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from materium_rl.evaluation.statistics import Bootstrap, share
from materium_rl.evaluation.statistics import mean as average

N_BOOT = 2000
TAILS = (0.025, 0.975)


class Estimate(NamedTuple):
    """A figure and the ends of its interval; NaN or infinite where it has no meaning."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "-"
        interval = "" if np.isnan(self.low) else f" ({self.low:.3g} to {self.high:.3g})"
        return f"{self.value:.4g}{interval}"


def percentage(flags: ArrayLike) -> Estimate:
    """Mean of N flags or shares in %; of flags that are all alike the interval is exact."""
    values = np.asarray(flags)
    if len(values) == 0:
        return Estimate(np.nan)
    everything = np.ones(len(values), dtype=bool)
    found = share(values, everything) if np.isin(values, (0, 1)).all() else average(values, everything)
    interval = Bootstrap(len(values), n_boot=N_BOOT, seed=0).interval(found)
    return Estimate(*(100 * float(x) for x in (values.mean(), *interval)))


def quantile(values: ArrayLike, q: float = 0.5) -> Estimate:
    """Quantile of the finite ones of N values, resampled over them."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return Estimate(np.nan)
    resampled = np.random.default_rng(0).choice(numbers, (N_BOOT, len(numbers)))
    ends = np.quantile(np.quantile(resampled, q, axis=1), TAILS)
    return Estimate(float(np.quantile(numbers, q)), *(float(end) for end in ends))


def mean(values: ArrayLike) -> Estimate:
    """Mean of N values, resampled over them."""
    return quotient(values)


def quotient(top: ArrayLike, *bottoms: ArrayLike) -> Estimate:
    """Mean of ``top`` over the product of the means of ``bottoms``, each resampled on its own."""
    rng = np.random.default_rng(0)
    parts = [np.asarray(part, dtype=float) for part in (top, *bottoms)]
    means = [rng.multinomial(len(p), np.full(len(p), 1 / len(p)), N_BOOT) @ p / len(p) for p in parts]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = parts[0].mean() / np.prod([part.mean() for part in parts[1:]])
        ratios = means[0] / np.prod(means[1:], axis=0)
    if value == 0 or not np.isfinite(value):  # resampling says nothing about what never happened
        return Estimate(float(value))
    return Estimate(float(value), *(float(x) for x in np.nanquantile(ratios, TAILS, method="nearest")))


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """A Markdown table whose columns are the keys of the first row."""
    print(f"| {' | '.join(rows[0])} |\n|---|{'--:|' * (len(rows[0]) - 1)}")
    for row in rows:
        print(f"| {' | '.join('-' if v is None else str(v) for v in row.values())} |", flush=True)


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Write a record; estimates as value, low and high, null for what is not finite."""
    path.write_text(json.dumps(_plain(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
