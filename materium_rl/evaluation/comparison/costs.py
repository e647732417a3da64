"""What a fine-tuning run cost, and what a gain cost of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from materium_rl.evaluation.comparison.differences import Changes
from materium_rl.evaluation.comparison.entries import FinetuneRun
from materium_rl.evaluation.metrics import Figure

GAINS = ("sun", "sun_new", "sun_on_target", "sun_prototypes", "sun_frameworks")
"""Figures whose gain is given per cost."""
CALLS = 1000


@dataclass(frozen=True)
class Cost:
    """What it took to make a policy, or a control.

    Args:
        reward_calls: Structures that were handed to the reward.
        hours: Time of the steps, start-up not counted.
        processors: That the process could use; 0 if unknown.
    """

    reward_calls: float
    hours: float
    processors: int

    @property
    def processor_hours(self) -> float:
        """Hours times processors: an upper bound, as none need be busy all the time."""
        return self.hours * self.processors


def run_cost(run: FinetuneRun) -> Cost:
    """Cost of a run up to the step of its checkpoint, from its metrics, samples and environment."""
    import pyarrow.parquet as parquet

    rows = [row for row in run.folder.read_metrics() if row["step"] <= run.step]
    tables = {step: path for step, path in run.folder.sample_tables().items() if step <= run.step}
    calls = sum(parquet.read_metadata(path).num_rows for path in tables.values())
    calls += run.config.rl.batch_size * len({row["step"] for row in rows} - set(tables))
    seconds = sum(row.get("step_time") or 0.0 for row in rows)
    return Cost(calls, seconds / 3600, _processors(run))


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Of the runs of one recipe."""
    return Cost(
        float(np.mean([cost.reward_calls for cost in costs])),
        float(np.mean([cost.hours for cost in costs])),
        max(cost.processors for cost in costs),
    )


def gain_per(changes: Changes, amount: float) -> dict[str, Figure]:
    """Difference of each of ``GAINS`` over an amount spent; empty if nothing was."""
    if not amount > 0:
        return {}
    return {
        key: Figure(*(end / amount for end in (found.value, found.low, found.high)))
        for key in GAINS
        if key in changes.figures
        for found in [changes.figures[key].difference]
    }


def _processors(run: FinetuneRun) -> int:
    """The most of any start of the run; older runs recorded those of the machine only."""
    path = run.folder.path / "environment.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return max((int(s.get("usable_processors") or s.get("processors") or 0) for s in starts), default=0)
