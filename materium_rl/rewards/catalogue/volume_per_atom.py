"""The ``volume_per_atom`` reward: volume of the cell over its sites, close to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import TargetWindow
from materium_rl.rewards.symmetry import SMALLEST_VOLUME

if TYPE_CHECKING:
    from pymatgen.core import Structure


class VolumePerAtom(Reward):
    """Volume in Å³ per site, of the cell as it is written.

    Nothing is predicted, so the value is exact; but a policy can reach a volume by writing a cell too large
    or too small. Keep the stability gate on.
    """

    name: ClassVar[str] = "volume_per_atom"
    unit: ClassVar[str] = "Å³"

    target: float = Field(default=20.0, gt=0, description="wanted volume per atom, Å³")
    width: float = Field(default=4.0, gt=0, description="distance from it at which the score is 1/2, Å³")

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Volumes per atom in Å³ of N structures."""
        return [_volume(structure) for structure in structures]


def _volume(structure: Structure) -> Result:
    if len(structure) == 0:
        return Invalid("the structure has no sites")
    volume = abs(float(structure.volume))
    if not math.isfinite(volume):
        return Invalid("a lattice vector is not finite")
    if volume < SMALLEST_VOLUME:
        return Invalid(f"the cell has less than {SMALLEST_VOLUME:g} Å³")
    return Measurement(volume / len(structure))
