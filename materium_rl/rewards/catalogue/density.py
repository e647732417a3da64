"""The ``density`` reward: mass density close to a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import TargetWindow

if TYPE_CHECKING:
    from pymatgen.core import Structure

SMALLEST_VOLUME = 1e-3
"""Å³; a cell below it is flat."""


class Density(Reward):
    """Mass density in g/cm³, of the cell as it is written.

    Nothing is predicted, so the value is exact; but a policy can reach a density by writing a cell too
    large or too small. Keep the stability gate on.
    """

    name: ClassVar[str] = "density"
    prompted_by: ClassVar[tuple[str, ...]] = ("density",)
    unit: ClassVar[str] = "g/cm³"

    target: float = Field(default=5.0, gt=0, description="wanted density, g/cm³")
    width: float = Field(default=1.0, gt=0, description="distance from it at which the score is 1/2, g/cm³")

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Densities in g/cm³ of N structures."""
        return [_density(structure) for structure in structures]


def _density(structure: Structure) -> Result:
    from pymatgen.core import DummySpecies

    volume = structure.volume
    if len(structure) == 0:
        return Invalid("the structure has no sites")
    if not np.isfinite(volume):
        return Invalid("a lattice vector is not finite")
    if volume < SMALLEST_VOLUME:
        return Invalid(f"the cell has less than {SMALLEST_VOLUME:g} Å³")
    unknown = [str(specie) for specie in structure.composition if isinstance(specie, DummySpecies)]
    if unknown:
        return Failure(f"{', '.join(sorted(unknown))}: not an element, so without a mass")
    return Measurement(float(structure.density))
