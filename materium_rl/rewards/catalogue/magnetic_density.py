"""The ``magnetic_density`` reward: magnetic moment per volume, from CHGNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.energies import chgnet_predictions
from materium_rl.rewards.potentials.base import Prediction
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.shaping import Shaping, SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Structure


class MagneticDensity(TargetedReward):
    """Sum of the magnitudes of the site moments over the volume of the cell, in µB/Å³.

    CHGNet predicts the magnitude of each moment and neither its sign nor the order. So the value is the
    magnetisation that the crystal would have if all moments were parallel: near the truth for bcc iron
    (0.21; PBE 0.19), while antiferromagnetic MnO gets as much, though its magnetisation is 0. Moments are
    those of the Materials Project's PBE(+U): the 4f shells of most lanthanides but Eu and Gd are part of
    the core there and count nothing. Weak itinerant magnets are missed (Ni: 0.07 instead of 0.6 µB).
    A crystal without magnetism gets about 0.001, seldom exactly 0.

    Without a target, high is good: the score rises linearly to 1 at 0.2.
    """

    name: ClassVar[str] = "magnetic_density"
    prompted_by: ClassVar[tuple[str, ...]] = ("magnetic_density",)
    unit: ClassVar[str] = "µB/Å³"
    citation: ClassVar[str] = "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023)"
    requires: ClassVar[tuple[str, ...]] = ("chgnet",)
    untargeted: ClassVar[Shaping] = SoftStep(full=0.2, zero=0.0)

    target: float | None = Field(
        default=None, ge=0, description="wanted magnetic density, µB/Å³; none: high is good"
    )
    width: float = Field(
        default=0.02, gt=0, description="distance from the target at which the score is 1/2, µB/Å³"
    )

    def load(self) -> None:
        """Load CHGNet."""
        find_potential("chgnet").load()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Magnetic densities of N structures as they are written."""
        predictions = chgnet_predictions(structures)
        return [
            _density(structure, item) if isinstance(item, Prediction) else item
            for structure, item in zip(structures, predictions, strict=True)
        ]


def _density(structure: Structure, prediction: Prediction) -> Measurement:
    density = sum(prediction.magmoms) / structure.volume
    return Measurement(density, details={"largest_magmom": max(prediction.magmoms)})
