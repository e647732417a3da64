"""The reward ``cathode_capacity``: how much charge a host can give back per mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAH_PER_MOL = 96485.33212 / 3.6
"""Faraday's constant (CODATA 2018) in mAh/mol."""
CHARGES = {"Li": 1, "Na": 1, "K": 1, "Mg": 2, "Ca": 2, "Zn": 2, "Al": 3}
REDOX_METALS = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Nb", "Mo", "W")
"""Metals that cathodes use as redox couples."""


class CathodeCapacity(Reward):
    """Theoretical gravimetric capacity in mAh/g of a cathode in its discharged state.

    Faraday's law, Q = n F / M: n is the charge of the working ions in the cell, or, if that is less, of the
    electrons that its redox metals can give. So neither the pure alkali metal nor an oxide without a redox
    couple pays. LiFePO4 has 170, LiCoO2 274. A crystal without working ions has 0.
    """

    name: ClassVar[str] = "cathode_capacity"
    unit: ClassVar[str] = "mAh/g"
    citation: ClassVar[str] = "Goodenough and Park, J. Am. Chem. Soc. 135, 1167 (2013)"

    ion: Literal["Li", "Na", "K", "Mg", "Ca", "Zn", "Al"] = Field(default="Li", description="working ion")
    electrons: float = Field(default=1.0, gt=0, le=3, description="electrons that one redox metal gives")
    full: float = Field(default=300.0, gt=0, description="capacity from which the score is 1, mAh/g")

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Capacities in mAh/g of N structures; oxidation states are ignored."""
        return [self._capacity(structure) for structure in structures]

    def shaping(self) -> SoftStep:
        """High is good, from 0 at 0."""
        return SoftStep(full=self.full, zero=0.0)

    def _capacity(self, structure: Structure) -> Result:
        from pymatgen.core import DummySpecies

        if len(structure) == 0:
            return Invalid("the structure has no sites")
        if any(isinstance(species, DummySpecies) for species in structure.composition):
            return Failure("a species is no element, so without a mass")
        amounts = structure.composition.get_el_amt_dict()
        ions = amounts.get(self.ion, 0.0) * CHARGES[self.ion]
        electrons = self.electrons * sum(amounts.get(metal, 0.0) for metal in REDOX_METALS)
        capacity = min(ions, electrons) * MAH_PER_MOL / float(structure.composition.weight)
        limited_by = "ions" if ions <= electrons else "electrons"
        return Measurement(capacity, details={"limited_by": limited_by})
