"""Thermodynamic stability: energy above the convex hull of known phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.energies import Relaxed, chgnet_energies, load_chgnet, relaxation
from materium_rl.rewards.hull import MissingReferenceError, load_hull
from materium_rl.rewards.shaping import SoftDecay

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure


class Stability(Reward):
    """Energy above the Materials Project hull in eV/atom, from CHGNet energies; 0 on or below the hull.

    The score is 1 up to ``full_score`` and 1/2 at ``half_score``. Its top is flat, since CHGNet's error is
    about 0.03 eV/atom, and its tail never reaches 0, so that unstable structures can still be told apart.
    A structure far below the hull is more often a blind spot of the potential than a discovery: below
    ``suspicious`` it counts as not measured.
    """

    name: ClassVar[str] = "stability"
    unit: ClassVar[str] = "eV/atom"
    citation: ClassVar[str] = (
        "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); MP2020 corrections: Wang et al., Sci. Rep. "
        "11, 15496 (2021); hull: Jain et al., APL Mater. 1, 011002 (2013)"
    )
    requires: ClassVar[tuple[str, ...]] = ("energy",)

    relax: int = Field(default=0, ge=0, description="most FIRE steps of positions and cell before measuring")
    full_score: float = Field(
        default=0.0, ge=0, description="e_above_hull up to which the score is 1, eV/atom"
    )
    half_score: float = Field(
        default=0.1, gt=0, description="e_above_hull at which the score is 1/2, eV/atom"
    )
    suspicious: float = Field(default=-0.2, lt=0, description="below this e_above_hull not measured, eV/atom")

    @model_validator(mode="after")
    def _check_scores(self) -> Stability:
        if self.half_score <= self.full_score:
            raise ValueError(f"half_score ({self.half_score}) must be above full_score ({self.full_score})")
        return self

    def load(self) -> None:
        """Load CHGNet and the hull."""
        load_chgnet()
        load_hull()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Energy above the hull of N structures, relaxed first when ``relax`` is set."""
        energies = relaxation(self.relax)(structures) if self.relax else chgnet_energies(structures)
        return [self._result(s.composition, energy) for s, energy in zip(structures, energies, strict=True)]

    def shaping(self) -> SoftDecay:
        """A flat top, 1/2 at ``half_score``, a long tail."""
        return SoftDecay(full=self.full_score, half=self.half_score)

    def _result(self, composition: Composition, energy: float | Relaxed | Invalid | Failure) -> Result:
        if isinstance(energy, Invalid | Failure):
            return energy
        details: dict[str, Any] = {}
        if isinstance(energy, Relaxed):
            details = {"relax_steps": energy.steps, "relax_converged": energy.converged}
            energy = energy.energy_per_atom
        hull = load_hull()
        try:
            formation_energy = hull.formation_energy(composition, energy)
            raw = hull.e_above_hull(composition, formation_energy)
        except MissingReferenceError as error:
            return Failure(str(error))
        if not math.isfinite(raw):
            return Failure(f"energy above the hull is {raw} (energy {energy} eV/atom)")
        if raw < self.suspicious:
            return Failure(
                f"{-raw:.3f} eV/atom below the hull, beyond the suspicious limit of {-self.suspicious:g}: "
                f"more likely an error of CHGNet than a discovery"
            )
        details |= {"e_above_hull_raw": raw, "formation_energy": formation_energy, "energy_per_atom": energy}
        return Measurement(max(0.0, raw), details=details)
