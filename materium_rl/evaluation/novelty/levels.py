"""The rungs of the novelty ladder: what counts as new at each, and what that does not depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from materium_rl.structures import structure_matcher

if TYPE_CHECKING:
    from pymatgen.core.structure_matcher import StructureMatcher


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerances of StructureMatcher, see ``structures.structures_match``."""

    ltol: float
    stol: float
    angle_tol: float

    def matcher(self) -> StructureMatcher:
        """The matcher of ``structures.structures_match`` with these tolerances."""
        return structure_matcher(self.ltol, self.stol, self.angle_tol)

    def __str__(self) -> str:
        return f"ltol {self.ltol:g}, stol {self.stol:g}, angle {self.angle_tol:g}°"


TOLERANCES = {
    "loose": Tolerance(0.3, 0.5, 10.0),
    "standard": Tolerance(0.2, 0.3, 5.0),
    "strict": Tolerance(0.1, 0.1, 2.0),
}
"""Standard is that of the whole package; loose is what counts as a hit in structure prediction."""

FAR = 0.1
"""Å. Earth mover's distance to the closest known structure beyond which one counts as far."""


@dataclass(frozen=True, slots=True)
class Level:
    """One rung.

    Args:
        key: Its name in files: the column holds whether a structure is new at it.
        title: Its name in tables.
        text: When a structure is new at it.
        ignores: What the verdict does not depend on.
    """

    key: str
    title: str
    text: str
    ignores: tuple[str, ...]


WRITING = ("cell", "origin", "orientation", "site order", "oxidation states")
"""What no level depends on: how a crystal is written down."""
LEVELS = (
    Level(
        "new_formula",
        "formula",
        "its reduced formula is not there",
        (*WRITING, "volume", "positions"),
    ),
    *(
        Level(
            key,
            f"structure, {name}",
            f"matches none by StructureMatcher ({TOLERANCES[name]})",
            (*WRITING, "volume"),
        )
        for key, name in (
            ("new_structure_strict", "strict"),
            ("new_structure", "standard"),
            ("new_structure_loose", "loose"),
        )
    ),
    Level(
        "not_substitution",
        "not a substitution",
        "matches none by standard tolerances, and none of its prototype has an element of the same chemical "
        "family on every place",
        (*WRITING, "volume", "elements of one family"),
    ),
    Level(
        "new_prototype",
        "prototype",
        "not a substitution, and none has its prototype, distortions and the choice of rare earths aside",
        (*WRITING, "volume", "elements"),
    ),
    Level(
        "new_framework",
        "framework",
        "a new prototype, and none has its arrangement of sites, all elements being one, distortions aside",
        (*WRITING, "volume", "elements"),
    ),
    Level(
        "far",
        "far",
        f"PDD distance to the closest one above {FAR} Å, elements ignored",
        (*WRITING, "elements"),
    ),
)
"""From the weakest claim to the strongest; the last stands by itself."""
