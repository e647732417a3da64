"""The ``symmetry_order`` reward: how many symmetry operations the point group has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.shaping import Shaping, SoftStep
from materium_rl.rewards.symmetry import Symmetry, point_group_order, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGEST = 48
"""Operations of m-3m."""


class SymmetryOrder(TargetedReward):
    """Order of the crystal's point group: 1 for P1, 16 for rutile, 48 for rock salt.

    Lattice translations do not count, so neither cell nor supercell matters. Without a target, high is
    good: linear from 0 at 1 to 1 at 48. Invalid and failed as in ``space_group``.
    """

    name: ClassVar[str] = "symmetry_order"
    citation: ClassVar[str] = (
        "Method: Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024), as in moyo"
    )
    requires: ClassVar[tuple[str, ...]] = ("symmetry",)
    untargeted: ClassVar[Shaping] = SoftStep(full=float(LARGEST), zero=1.0)

    target: float | None = Field(
        default=None, ge=1, le=LARGEST, description="wanted order; none: high is good"
    )
    width: float = Field(default=4.0, gt=0, description="distance from the target at which the score is 1/2")

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Orders of N structures; oxidation states are ignored."""
        return [
            Measurement(float(point_group_order(item.space_group_number)))
            if isinstance(item, Symmetry)
            else item
            for item in symmetries(structures)
        ]
