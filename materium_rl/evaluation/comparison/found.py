"""What a run has come across on its way: distinct S.U.N. things against reward calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.comparison.entries import FinetuneRun
from materium_rl.evaluation.comparison.rarefaction import sample_sizes
from materium_rl.evaluation.definitions import NEW_FORMULA_TIERS, NOVELTY, STABILITY, STABLE_BELOW
from materium_rl.rewards.base import Outcome

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"formula": "formulas", "prototype": "prototypes", "framework": "frameworks"}
"""Column of a table of samples -> what it tells apart."""
ENERGY, TIER = f"{STABILITY}.value", f"{NOVELTY}.tier"
COLUMNS = ("outcome", ENERGY, TIER, *KINDS)


@dataclass(frozen=True)
class Found:
    """Distinct things among all samples that were stable and of a new formula, as the run itself scored them.

    Args:
        reward_calls: Samples so far, at P points (P,).
        distinct: By the keys of ``KINDS``, at those points (P,).
    """

    reward_calls: NDArray[np.int64]
    distinct: dict[str, NDArray[np.float64]]


def found_in(batches: Iterable[pd.DataFrame]) -> Found | None:
    """Count over batches of samples in the order in which they were drawn.

    Args:
        batches: Tables of ``ScoreTable.to_frame``.

    Returns:
        None if there is no batch, or one that was not scored by ``stability`` and ``novelty``.
    """
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    calls, counts = [0], []
    for frame in batches:
        if ENERGY not in frame or TIER not in frame:
            return None
        new = frame[TIER].isin([tier.value for tier in NEW_FORMULA_TIERS])
        those = frame[(frame["outcome"] == Outcome.OK) & (frame[ENERGY] < STABLE_BELOW) & new]
        for kind, known in seen.items():
            known.update(those[kind].dropna())
        calls.append(calls[-1] + len(frame))
        counts.append([len(known) for known in seen.values()])
    if not counts:
        return None
    points = sample_sizes(len(counts)) - 1
    table = np.array(counts, dtype=np.float64)[points]
    return Found(np.array(calls[1:])[points], dict(zip(KINDS, table.T, strict=True)))


def found_by(run: FinetuneRun) -> Found | None:
    """Count over the recorded samples of a run up to the step of its checkpoint."""
    import pandas as pd
    import pyarrow.parquet as parquet

    tables = [path for step, path in run.folder.sample_tables().items() if step <= run.step]
    return found_in(
        pd.read_parquet(path, columns=[c for c in COLUMNS if c in parquet.read_schema(path).names])
        for path in tables
    )


def quarters(points: int) -> list[int]:
    """Places of a curve of so many points that a table gives: a quarter, half, three quarters, the end."""
    return sorted({(points - 1) * quarter // 4 for quarter in range(1, 5)})


def mean_found(runs: Sequence[Found | None]) -> Found | None:
    """Mean over the runs of one recipe; None if one of them tells nothing, or has lost tables of samples."""
    known = [found for found in runs if found is not None]
    if not known or len(known) < len(runs):
        return None
    if any(not np.array_equal(found.reward_calls, known[0].reward_calls) for found in known):
        return None
    return Found(
        known[0].reward_calls,
        {kind: np.mean([found.distinct[kind] for found in known], axis=0) for kind in KINDS},
    )
