"""The ``crystal_system`` reward: from triclinic to cubic, as a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from materium_rl.conditions import CRYSTAL_SYSTEMS, CrystalSystem, crystal_system
from materium_rl.errors import did_you_mean
from materium_rl.rewards.base import Measurement, Result, Reward
from materium_rl.rewards.shaping import Interval, Shaping, SoftStep
from materium_rl.rewards.symmetry import Symmetry, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure


def _systems(value: Any) -> Any:
    """``"cubic"`` -> ``("cubic", "cubic")``, ``"tetragonal..cubic"`` -> both; other values as they are."""
    if not isinstance(value, str):
        return value
    first, _, last = (part.strip() for part in value.partition(".."))
    for name in (first, last or first):
        if name not in CRYSTAL_SYSTEMS:
            known = ", ".join(CRYSTAL_SYSTEMS)
            raise ValueError(
                f"no crystal system {name!r}{did_you_mean(name, CRYSTAL_SYSTEMS)}; known: {known}"
            )
    if CRYSTAL_SYSTEMS.index(first) > CRYSTAL_SYSTEMS.index(last or first):
        raise ValueError(f"{value!r}: the less symmetric system stands first")
    return first, last or first


class CrystalSystemRank(Reward):
    """Crystal system as its rank: 1 triclinic, 2 monoclinic, 3 orthorhombic, 4 tetragonal, 5 trigonal, ...

    6 is hexagonal, 7 cubic. Without a target, a high rank is good, so that each step towards a more
    symmetric cell pays. With one, the score is 1 in the system or range of systems, else 0. Invalid and
    failed as in ``space_group``.
    """

    name: ClassVar[str] = "crystal_system"
    citation: ClassVar[str] = (
        "Method: Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024), as in moyo"
    )
    requires: ClassVar[tuple[str, ...]] = ("symmetry",)

    target: Annotated[tuple[CrystalSystem, CrystalSystem], BeforeValidator(_systems)] | None = Field(
        default=None,
        description="wanted system, or a range such as tetragonal..cubic; none: a high rank is good",
    )

    def shaping(self) -> Shaping:
        """1 in the wanted systems, or a rise from triclinic to cubic."""
        if self.target is None:
            return SoftStep(full=float(len(CRYSTAL_SYSTEMS)), zero=1.0)
        low, high = (CRYSTAL_SYSTEMS.index(system) + 1 for system in self.target)
        return Interval(low=low, high=high)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Ranks of N structures; oxidation states are ignored."""
        return [_rank(item) if isinstance(item, Symmetry) else item for item in symmetries(structures)]


def _rank(symmetry: Symmetry) -> Measurement:
    system = crystal_system(symmetry.space_group_number)
    return Measurement(float(CRYSTAL_SYSTEMS.index(system) + 1), details={"crystal_system": system})
