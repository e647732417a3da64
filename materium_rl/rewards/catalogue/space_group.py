"""The ``space_group`` reward: a wanted space group or crystal system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import Interval
from materium_rl.rewards.symmetry import SYMPREC, Symmetry, symmetries, symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]
FIRST_AND_LAST: dict[CrystalSystem, tuple[int, int]] = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}
"""Space groups of each crystal system."""


class SpaceGroup(Reward):
    """Number of the space group, 1 to 230; the score is 1 in the wanted group or system, else 0.

    The two members of an enantiomorphic pair (P4_1 and P4_3) are different groups here. A cell with
    overlapping sites or a tiny translation is invalid: the search may not return from it. Where the
    search fails the structure counts as not measured.

    The score has no slope, so it starts nothing: the policy must already write the group now and then.
    """

    name: ClassVar[str] = "space_group"
    citation: ClassVar[str] = (
        "Method: Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024), as in moyo"
    )
    requires: ClassVar[tuple[str, ...]] = ("symmetry",)
    prompted_by: ClassVar[tuple[str, ...]] = ("space_group", "crystal_system")

    target: Annotated[int, Field(ge=1, le=230)] | CrystalSystem = Field(
        default="cubic", description="wanted space group number or crystal system"
    )
    symprec: float = Field(default=SYMPREC, gt=0, le=SYMPREC, description="tolerance of the search, Å")

    def shaping(self) -> Interval:
        """1 for the wanted group or any group of the wanted system."""
        low, high = (self.target,) * 2 if isinstance(self.target, int) else FIRST_AND_LAST[self.target]
        return Interval(low=low, high=high)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Space group numbers of N structures; oxidation states are ignored."""
        shared = self.symprec == SYMPREC
        found = symmetries(structures) if shared else [symmetry(s, self.symprec) for s in structures]
        return [self._result(item) for item in found]

    def _result(self, found: Symmetry | Invalid | Failure) -> Result:
        if isinstance(found, Invalid | Failure):
            return found
        if found.symprec != self.symprec:
            return Failure(f"no symmetry search succeeded at symprec {self.symprec:g} Å")
        return Measurement(float(found.space_group_number))
