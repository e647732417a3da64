"""What goes with a structure that leaves the program: where it comes from and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl import __version__
from materium_rl.evaluation.discoveries.filters import ELEMENTS
from materium_rl.evaluation.discoveries.sources import CIF, Samples
from materium_rl.rewards.base import Outcome
from materium_rl.structure_parsers import clean_properties

if TYPE_CHECKING:
    from pymatgen.core import Structure

LEFT_OUT = frozenset({CIF, ELEMENTS, "contribution", "advantage", "reason"})
"""Columns that say nothing of an accepted structure, also behind a name as in ``bandgap.contribution``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One structure to write.

    Args:
        name: Name of its file or folder: number and formula.
        structure: Ordered structure.
        properties: Plain values by name, without missing ones.
    """

    name: str
    structure: Structure
    properties: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, number: str, structure: Structure, properties: Mapping[str, Any]) -> Entry:
        """An entry named by its number and formula."""
        formula = structure.composition.element_composition.reduced_formula
        return cls(f"{number}_{re.sub('[^A-Za-z0-9]', '', formula)}", structure, dict(properties))


def properties_of(samples: Samples, row: int) -> dict[str, Any]:
    """Where a sample comes from, then every value and score that is known of it.

    ``policy`` is the policy that the run began with; a sample of step n was written by it after n-1 updates
    (``policy_updates``). With ``seed``, ``step`` and ``sample`` the run writes it again.
    """
    record = samples.frame.iloc[row].to_dict()
    origin = {**samples.origin, "exported_with": f"materium-rl {__version__}"}
    if "index" in record:
        record = {"sample": record.pop("index"), **record}
    if "step" in record:
        step = int(record.pop("step"))
        record = {"step": step, "policy_updates": step - 1, **record}
    kept = {key: value for key, value in record.items() if _is_kept(str(key), value)}
    return clean_properties({**origin, **kept})


def _is_kept(column: str, value: Any) -> bool:
    """Whether a column goes along: one plain value that says something of the structure."""
    name = column.rpartition(".")[2]
    if name in LEFT_OUT or (name == "outcome" and value == Outcome.OK):
        return False
    return isinstance(value, str | int | float | np.generic)
