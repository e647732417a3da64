"""What a comparison found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from materium_rl.config import CompareConfig
from materium_rl.evaluation.comparison.costs import Cost
from materium_rl.evaluation.comparison.differences import Changes, Statistics, changes, recipe_figures
from materium_rl.evaluation.comparison.found import Found
from materium_rl.evaluation.comparison.rarefaction import Curve, sample_sizes, sun_curves
from materium_rl.evaluation.comparison.verdict_line import verdict
from materium_rl.evaluation.evaluate.judges import Panel
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.scored import Evaluation
from materium_rl.evaluation.statistics import Bootstrap
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.scoring import Scorer


@dataclass(frozen=True)
class Judged:
    """One policy, sampled and evaluated."""

    source: str
    evaluation: Evaluation
    statistics: Statistics
    sampling_seconds: float


@dataclass(frozen=True)
class Compared:
    """One entry of a comparison: a policy, or the runs of a recipe.

    Args:
        name: Short name.
        text: As it was given.
        runs: What each run wrote.
        cost: Mean over the runs; None if it was not fine-tuned.
        seeds: Training seeds; 0 if it was not fine-tuned.
        found: What was stable and new among all that it cost, mean over the runs; None if that is unknown.
    """

    name: str
    text: str
    runs: tuple[Judged, ...]
    cost: Cost | None = None
    seeds: int = 0
    found: Found | None = None

    @property
    def samples_file(self) -> str:
        """Name of the file with its samples."""
        return f"samples_{self.name}.parquet"

    @property
    def statistics(self) -> list[Statistics]:
        """Of each run."""
        return [run.statistics for run in self.runs]

    def figures(self, bootstrap: Bootstrap) -> Mapping[str, Figure]:
        """Those of the policy, or the mean over the runs of the recipe."""
        first = self.runs[0].evaluation.figures
        return first if len(self.runs) == 1 else {**first, **recipe_figures(self.statistics, bootstrap)}


@dataclass(frozen=True)
class Control:
    """What the baseline reaches otherwise.

    Args:
        kind: How.
        compared: What it wrote.
        temperature: Of its sampling.
        of: Name of the recipe that it stands against; None for all.
        equal_calls: Reward calls that would equal those of the recipe.
    """

    kind: Literal["hotter", "best-of-n"]
    compared: Compared
    temperature: float
    of: str | None
    equal_calls: int

    def renamed(self, name: str) -> Control:
        """The same under another name."""
        return replace(self, compared=replace(self.compared, name=name))


@dataclass(frozen=True)
class Point:
    """A checkpoint of a trajectory; step 0 is the baseline."""

    step: int
    source: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Trajectory:
    """A run over its checkpoints, n samples each."""

    name: str
    source: str
    n: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured; the rest is computed from it."""

    config: CompareConfig
    scorer: Scorer
    gap: BandGap
    policies: Sequence[Compared]
    controls: Sequence[Control]
    trajectories: Sequence[Trajectory]
    panel: Panel
    bootstrap: Bootstrap

    @property
    def everything(self) -> list[Compared]:
        """Policies and controls."""
        return [*self.policies, *(control.compared for control in self.controls)]

    @cached_property
    def figures(self) -> dict[str, Mapping[str, Figure]]:
        """Name -> figures, of policies and controls."""
        return {c.name: c.figures(self.bootstrap) for c in self.everything}

    @cached_property
    def changes(self) -> dict[str, Changes]:
        """Name of all but the baseline -> how it differs from that."""
        baseline, *others = self.everything
        return {c.name: changes(baseline.statistics, c.statistics, self.bootstrap) for c in others}

    @cached_property
    def against_controls(self) -> dict[str, dict[str, Changes]]:
        """Name of a control -> name of each recipe it stands against -> what the recipe has over it."""
        return {
            control.compared.name: {
                policy.name: changes(control.compared.statistics, policy.statistics, self.bootstrap)
                for policy in self.policies[1:]
                if control.of in (None, policy.name)
            }
            for control in self.controls
        }

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """Name of each policy after the baseline -> one line."""
        before = self.figures[self.policies[0].name]
        return {
            c.name: verdict(before, self.figures[c.name], self.changes[c.name], seeds=c.seeds or None)
            for c in self.policies[1:]
        }

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Numbers of samples of the rarefaction curves."""
        return sample_sizes(self.config.n)

    @cached_property
    def curves(self) -> dict[str, dict[str, Curve]]:
        """Name -> kind -> rarefaction curve."""
        return {c.name: sun_curves([r.evaluation.frame for r in c.runs], self.sizes) for c in self.everything}
