"""The rewards ``force``, ``stress`` and ``displacement``: how far CHGNet sees a crystal from equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.energies import CHGNET_FORCES, chgnet_forces
from materium_rl.rewards.potentials.base import Prediction
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.relaxation import Relaxed, relaxation, rmsd
from materium_rl.rewards.shaping import SoftDecay

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHGNET = "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023)"


class _Unrelaxed(Reward):
    """What forces and stress of the cell as it is written say; low is good."""

    citation: ClassVar[str] = CHGNET
    requires: ClassVar[tuple[str, ...]] = (CHGNET_FORCES,)

    half_score: float

    def load(self) -> None:
        """Load CHGNet."""
        find_potential("chgnet").load()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Values of N structures as they are written."""
        return [
            self._value(item) if isinstance(item, Prediction) else item for item in chgnet_forces(structures)
        ]

    def shaping(self) -> SoftDecay:
        """1 at 0, 1/2 at ``half_score``, a long tail."""
        return SoftDecay(full=0.0, half=self.half_score)

    def _value(self, prediction: Prediction) -> Measurement:
        raise NotImplementedError


class Force(_Unrelaxed):
    """Force on the sites of the structure as it is written, in eV/Å; 0 in equilibrium.

    Sites whose place the symmetry fixes have none, so a cell of the wrong volume can have a force of 0 on
    every site: ``stress`` sees that.
    """

    name: ClassVar[str] = "force"
    unit: ClassVar[str] = "eV/Å"

    kind: Literal["max", "mean"] = Field(default="max", description="largest or mean over the sites")
    half_score: float = Field(default=0.5, gt=0, description="force at which the score is 1/2, eV/Å")

    def _value(self, prediction: Prediction) -> Measurement:
        sizes = np.linalg.norm(np.asarray(prediction.forces), axis=1)
        return Measurement(float(sizes.max() if self.kind == "max" else sizes.mean()))


class Stress(_Unrelaxed):
    """Largest principal stress of the structure as it is written, in GPa and without its sign.

    The pressure, in the details, is positive where the cell is squeezed and would rather be larger.
    """

    name: ClassVar[str] = "stress"
    unit: ClassVar[str] = "GPa"

    half_score: float = Field(default=5.0, gt=0, description="stress at which the score is 1/2, GPa")

    def _value(self, prediction: Prediction) -> Measurement:
        tensor = np.asarray(prediction.stress)
        largest = float(np.abs(np.linalg.eigvalsh(tensor)).max())
        return Measurement(largest, details={"pressure": float(-np.trace(tensor) / 3)})


class Displacement(Reward):
    """Root mean square distance in Å that the sites move when CHGNet relaxes positions and cell.

    Both structures are compared in the relaxed cell without their mean displacement, so a change of the cell
    alone, and a structure of one site, count 0. A relaxation that has not converged after ``steps`` counts
    with the way that it has gone so far, which the details tell. Shares its relaxation with
    ``stability(relax=...)`` of as many steps.
    """

    name: ClassVar[str] = "displacement"
    unit: ClassVar[str] = "Å"
    citation: ClassVar[str] = CHGNET

    steps: int = Field(default=100, ge=1, description="most steps of the relaxation")
    half_score: float = Field(default=0.2, gt=0, description="distance at which the score is 1/2, Å")

    def load(self) -> None:
        """Load CHGNet."""
        find_potential("chgnet").load()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Distances of N structures from what they relax to."""
        ends = relaxation(self.steps)(structures)
        return [_distance(structure, end) for structure, end in zip(structures, ends, strict=True)]

    def shaping(self) -> SoftDecay:
        """1 at 0, 1/2 at ``half_score``, a long tail."""
        return SoftDecay(full=0.0, half=self.half_score)


def _distance(structure: Structure, end: Relaxed | Invalid | Failure) -> Result:
    if not isinstance(end, Relaxed):
        return end
    details = {"relax_steps": end.steps, "relax_converged": end.converged, "relax_max_force": end.max_force}
    return Measurement(rmsd(structure, end.structure), details=details)
