"""What changed between policies, with paired intervals over samples and over training seeds.

A recipe is trained once or with several seeds; its figure is the mean over the runs. The samples of a
single run are resampled (row i of every table has the same sampling seed, and the rows are drawn for all
tables alike); what it says of its recipe is not known, so its intervals cover the sampling only. Of two runs
or more the differences between them are drawn (``Bootstrap.between_runs``), in which their sampling shows
too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.statistics import Bootstrap, Floats, Role, Statistic, percentiles
from materium_rl.evaluation.variety import COLOURING, FAMILY_SWAP, NO_SWAP, RARE_EARTH_SWAP

Statistics = Mapping[str, Statistic]
Runs = Sequence[Statistics]
"""Of each run of a recipe its statistics by key."""

GAIN_KEYS = {
    NO_SWAP: "sun_new",
    COLOURING: "sun_colourings",
    FAMILY_SWAP: "sun_family_swaps",
    RARE_EARTH_SWAP: "sun_rare_earth_swaps",
}
"""What a gain in S.U.N. is made of; the figures add up to ``sun``."""
_MOST = {definition.key: 1.0 for definition in DEFINITIONS if definition.unit == "%"}


@dataclass(frozen=True, slots=True)
class Change:
    """After minus before, and after over before (NaN where before is 0)."""

    difference: Figure
    ratio: Figure

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the difference leaves 0 out."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Changes:
    """How a policy differs from another.

    Args:
        figures: By the key of the figure.
        gain: Kind of substitution (``variety``) -> its share of the gain in S.U.N.; empty if there is no
            certain gain.
        n_runs: Training runs before and after.
    """

    figures: Mapping[str, Change]
    gain: Mapping[str, Figure]
    n_runs: tuple[int, int]


def recipe_figures(runs: Runs, bootstrap: Bootstrap) -> dict[str, Figure]:
    """Mean of every figure over two runs or more, with an interval over samples and runs."""
    figures = {}
    for key in _common(runs):
        low, high = percentiles(_draws(runs, key, "after", bootstrap))
        figures[key] = Figure(_mean(runs, key), max(low, 0.0), min(high, _MOST.get(key, math.inf)))
    return figures


def changes(before: Runs, after: Runs, bootstrap: Bootstrap) -> Changes:
    """Compare two recipes, each of one run or more, on the same N rows."""
    keys = [key for key in _common(after) if key in _common(before)]
    figures = {key: _change(before, after, key, bootstrap) for key in keys}
    sun = figures.get("sun")
    gain = {}
    if sun and sun.difference.low > 0:
        gain = {kind: _share_of_gain(before, after, key, bootstrap) for kind, key in GAIN_KEYS.items()}
    return Changes(figures, gain, (len(before), len(after)))


def _change(before: Runs, after: Runs, key: str, bootstrap: Bootstrap) -> Change:
    old, new = _mean(before, key), _mean(after, key)
    olds, news = _draws(before, key, "before", bootstrap), _draws(after, key, "after", bootstrap)
    ratio = Figure(math.nan)
    if old > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(olds > 0, np.maximum(news, 0.0) / olds, np.inf)
        ratio = Figure(new / old, *percentiles(ratios))
    return Change(Figure(new - old, *percentiles(news - olds)), ratio)


def _share_of_gain(before: Runs, after: Runs, key: str, bootstrap: Bootstrap) -> Figure:
    """Difference of a part of S.U.N. over that of all of it."""

    def gained(key: str) -> Floats:
        olds = _resampled(before, key, "before", bootstrap, smooth=False)
        return _resampled(after, key, "after", bootstrap, smooth=False) - olds

    def of(runs: Runs) -> float:
        return (_mean(runs, key) - _mean(before, key)) / (_mean(runs, "sun") - _mean(before, "sun"))

    with np.errstate(divide="ignore", invalid="ignore"):
        draws = gained(key) / gained("sun") + bootstrap.between_runs([of([run]) for run in after])
    return Figure(of(after), *percentiles(draws))


def _draws(runs: Runs, key: str, role: Role, bootstrap: Bootstrap) -> Floats:
    values = [run[key].value for run in runs]
    return _resampled(runs, key, role, bootstrap, smooth=True) + bootstrap.between_runs(values, role)


def _resampled(runs: Runs, key: str, role: Role, bootstrap: Bootstrap, *, smooth: bool) -> Floats:
    """A single run on the resampled rows; the mean of several, whose spread holds that of their rows."""
    if len(runs) == 1:
        return bootstrap.values(runs[0][key], role, smooth=smooth)
    return np.full(bootstrap.n_boot, _mean(runs, key))


def _mean(runs: Runs, key: str) -> float:
    return float(np.mean([run[key].value for run in runs]))


def _common(runs: Runs) -> list[str]:
    return [key for key in runs[0] if all(key in run for run in runs)]
