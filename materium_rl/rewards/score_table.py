"""The table of scores of one batch: a row per structure asked for, a block of columns per reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.rewards.base import Outcome
from materium_rl.rewards.execution.measuring import RESERVED_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

SKIPPED = "skipped"
"""Outcome of a term that was not measured because a gate had already turned the structure down."""


@dataclass(frozen=True, slots=True)
class TermScore:
    """One reward on one structure.

    Args:
        outcome: ``ok``, ``invalid``, ``failed`` or ``skipped``.
        value: Raw value in the reward's unit; NaN unless ok.
        score: In [0, 1]; NaN unless ok.
        uncertainty: One standard deviation of the value; NaN if unknown.
        contribution: Its part of the reward, see ``rewards.aggregation``; 0 for monitors, NaN unless the
            whole row is ok.
        reason: Why it is not ok.
        details: Further columns.
    """

    outcome: str
    value: float = float("nan")
    score: float = float("nan")
    uncertainty: float = float("nan")
    contribution: float = float("nan")
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One structure of a batch.

    Args:
        index: Position in the batch.
        outcome: Of the whole row.
        reason: Why it is invalid or failed, with the reward's name in front.
        reward: In [0, 1]; 0 if invalid, NaN if failed.
        gate: Product of the gates' scores; 0 if invalid, NaN if failed.
        terms: By reward name, gates first.
        labels: formula, prototype, framework and so on; None where unknown.
        shared: Results of shared work by name (a ``Prototype`` under ``prototype``).
    """

    index: int
    outcome: Outcome
    reason: str
    reward: float
    gate: float
    terms: dict[str, TermScore]
    labels: dict[str, Any]
    shared: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """N rows for N structures, in order."""

    rows: tuple[ScoredSample, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ScoredSample]:
        return iter(self.rows)

    @property
    def rewards(self) -> np.ndarray:
        """float64 (N,); NaN where failed."""
        return np.array([row.reward for row in self.rows], dtype=np.float64)

    @property
    def outcomes(self) -> np.ndarray:
        """Str (N,): ok, invalid or failed."""
        return np.array([row.outcome.value for row in self.rows], dtype=str)

    def scores(self, name: str) -> np.ndarray:
        """Scores of one reward, float64 (N,); NaN where it gave none."""
        return np.array([row.terms[name].score for row in self.rows], dtype=np.float64)

    def values(self, name: str) -> np.ndarray:
        """Raw values of one reward, float64 (N,); NaN where it gave none."""
        return np.array([row.terms[name].value for row in self.rows], dtype=np.float64)

    def gated_scores(self, names: Sequence[str]) -> np.ndarray:
        """Scores of K rewards times the gates, float64 (N, K); 0 where a row is invalid, NaN where failed."""
        gates = np.array([row.gate for row in self.rows], dtype=np.float64).reshape(-1, 1)
        scores = np.stack([self.scores(name) for name in names], axis=1)
        return np.where(gates == 0, 0.0, scores * gates)

    def to_frame(self) -> pd.DataFrame:
        """Flat columns: index, outcome, reason, reward, gate, the labels, then ``<reward>.<column>``."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows])


def _flat(row: ScoredSample) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "index": row.index,
        "outcome": row.outcome.value,
        "reason": row.reason,
        "reward": row.reward,
        "gate": row.gate,
        **row.labels,
    }
    for name, term in row.terms.items():
        flat |= {f"{name}.{column}": getattr(term, column) for column in RESERVED_COLUMNS}
        flat |= {f"{name}.{key}": value for key, value in term.details.items()}
    return flat
