"""The ``n_sites`` and ``n_elements`` rewards: how large and how complex a crystal is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Measurement, Result, Reward
from materium_rl.rewards.elements import element_amounts
from materium_rl.rewards.shaping import TargetWindow
from materium_rl.rewards.symmetry import Symmetry, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure


class NumberOfSites(Reward):
    """Sites of the primitive cell, close to a target. Invalid and failed as in ``space_group``."""

    name: ClassVar[str] = "n_sites"
    requires: ClassVar[tuple[str, ...]] = ("symmetry",)
    prompted_by: ClassVar[tuple[str, ...]] = ("n_sites",)

    target: float = Field(default=8.0, ge=1, description="wanted number of sites")
    width: float = Field(default=4.0, gt=0, description="distance from it at which the score is 1/2")

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Numbers of sites of N structures."""
        return [
            Measurement(float(item.n_sites_primitive)) if isinstance(item, Symmetry) else item
            for item in symmetries(structures)
        ]


class NumberOfElements(Reward):
    """Distinct elements, close to a target; isotopes and oxidation states are no elements of their own."""

    name: ClassVar[str] = "n_elements"
    prompted_by: ClassVar[tuple[str, ...]] = ("n_elements",)

    target: float = Field(default=3.0, ge=1, description="wanted number of elements")
    width: float = Field(default=1.0, gt=0, description="distance from it at which the score is 1/2")

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Numbers of elements of N structures."""
        found = (element_amounts(structure) for structure in structures)
        return [Measurement(float(len(item))) if isinstance(item, dict) else item for item in found]
