"""The ``energy_per_atom`` reward: energy of the structure as it is written, from CHGNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.energies import chgnet_energies
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.shaping import Shaping, SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Structure


class EnergyPerAtom(TargetedReward):
    """Total energy in eV/atom on the Materials Project's scale (PBE(+U) with MP2020 corrections).

    Without a target, low is good: the score rises linearly from 0 at 0 to 1 at -10. Total energies of
    different compositions cannot be compared: tungsten has -13 whatever it is made into. It is meant as a
    monitor, or for runs of one composition; else use ``formation_energy`` or ``stability``.
    """

    name: ClassVar[str] = "energy_per_atom"
    unit: ClassVar[str] = "eV/atom"
    citation: ClassVar[str] = (
        "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); MP2020 corrections: Wang et al., Sci. Rep. "
        "11, 15496 (2021)"
    )
    requires: ClassVar[tuple[str, ...]] = ("energy",)
    untargeted: ClassVar[Shaping] = SoftStep(full=-10.0, zero=0.0)

    target: float | None = Field(default=None, description="wanted energy, eV/atom; none: low is good")
    width: float = Field(
        default=0.1, gt=0, description="distance from the target at which the score is 1/2, eV/atom"
    )

    def load(self) -> None:
        """Load CHGNet."""
        find_potential("chgnet").load()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Energies of N structures; oxidation states are ignored."""
        energies = chgnet_energies(structures)
        return [Measurement(item) if isinstance(item, float) else item for item in energies]
