"""The ``crystal_system`` reward: from triclinic to cubic, as a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from materium_rl.conditions import CRYSTAL_SYSTEMS, crystal_system
from materium_rl.errors import did_you_mean
from materium_rl.rewards.base import Measurement, Result, Reward
from materium_rl.rewards.shaping import Interval, Shaping, SoftStep
from materium_rl.rewards.symmetry import Symmetry, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure


def ranks(text: str) -> tuple[int, int]:
    """First and last rank of a system or a range: ``"cubic"`` -> (7, 7), ``"tetragonal..cubic"`` -> (4, 7).

    Raises:
        ValueError: An unknown system, or a range that falls.
    """
    first, _, last = (part.strip() for part in text.partition(".."))
    names, systems = (first, last or first), [str(system) for system in CRYSTAL_SYSTEMS]
    for name in names:
        if name not in systems:
            known = ", ".join(systems)
            raise ValueError(f"no crystal system {name!r}{did_you_mean(name, systems)}; known: {known}")
    low, high = (systems.index(name) + 1 for name in names)
    if low > high:
        raise ValueError(f"{text!r}: the less symmetric system stands first")
    return low, high


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

    target: str | None = Field(
        default=None,
        description="wanted system, or a range such as tetragonal..cubic; none: a high rank is good",
    )

    @field_validator("target")
    @classmethod
    def _is_known(cls, target: str | None) -> str | None:
        if target is not None:
            ranks(target)
        return target

    def shaping(self) -> Shaping:
        """1 in the wanted systems, or a rise from triclinic to cubic."""
        if self.target is None:
            return SoftStep(full=float(len(CRYSTAL_SYSTEMS)), zero=1.0)
        low, high = ranks(self.target)
        return Interval(low=low, high=high)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Ranks of N structures; oxidation states are ignored."""
        return [_rank(item) if isinstance(item, Symmetry) else item for item in symmetries(structures)]


def _rank(symmetry: Symmetry) -> Measurement:
    system = crystal_system(symmetry.space_group_number)
    return Measurement(float(CRYSTAL_SYSTEMS.index(system) + 1), details={"crystal_system": system})
