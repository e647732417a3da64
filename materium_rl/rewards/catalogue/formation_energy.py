"""The ``formation_energy`` reward: energy of formation from the elements, from CHGNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.energies import chgnet_energies
from materium_rl.rewards.hull import MissingReferenceError, load_hull
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.shaping import Shaping, SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

LOWEST = -6.0
"""eV/atom; the lowest phases of the bundled hull, rare-earth fluorides and thorium oxides, have -4.6."""


class FormationEnergy(TargetedReward):
    """Formation energy in eV/atom of the structure as it is written, on the scale of ``stability``.

    Without a target, low is good: the score rises linearly from 0 at 0 to 1 at -2. That favours oxides
    and fluorides whatever their stability; to ask for crystals that do not decompose, use ``stability``.

    An element without a reference energy (Yb, Po, At, Rn, Fr, Ra and beyond Pu) is a failure, and so is
    an energy lower than any known: there CHGNet's error is likelier than a discovery.
    """

    name: ClassVar[str] = "formation_energy"
    prompted_by: ClassVar[tuple[str, ...]] = ("formation_energy",)
    unit: ClassVar[str] = "eV/atom"
    citation: ClassVar[str] = (
        "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); MP2020 corrections: Wang et al., Sci. Rep. "
        "11, 15496 (2021)"
    )
    requires: ClassVar[tuple[str, ...]] = ("energy",)
    untargeted: ClassVar[Shaping] = SoftStep(full=-2.0, zero=0.0)

    target: float | None = Field(
        default=None, ge=LOWEST, description="wanted formation energy, eV/atom; none: low is good"
    )
    width: float = Field(
        default=0.2, gt=0, description="distance from the target at which the score is 1/2, eV/atom"
    )

    def load(self) -> None:
        """Load CHGNet and the element references."""
        find_potential("chgnet").load()
        load_hull()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Formation energies of N structures; oxidation states are ignored."""
        energies = chgnet_energies(structures)
        return [_result(s.composition, energy) for s, energy in zip(structures, energies, strict=True)]


def _result(composition: Composition, energy: float | Invalid | Failure) -> Result:
    if isinstance(energy, Invalid | Failure):
        return energy
    try:
        value = load_hull().formation_energy(composition, energy)
    except MissingReferenceError as error:
        return Failure(str(error))
    if value < LOWEST:
        return Failure(f"{value:.3f} eV/atom, below {LOWEST:g}: more likely an error of CHGNet")
    return Measurement(value, details={"energy_per_atom": energy})
