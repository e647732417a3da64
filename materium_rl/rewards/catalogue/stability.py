"""Thermodynamic stability: energy above the convex hull of known phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from materium_rl.errors import ConfigError
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.energies import energies_of, on_hull_scale
from materium_rl.rewards.hull import MissingReferenceError, load_hull
from materium_rl.rewards.potentials.base import Scale
from materium_rl.rewards.potentials.catalogue import check_name, find_potential
from materium_rl.rewards.relaxation import Relaxed, relaxation
from materium_rl.rewards.shaping import SoftDecay

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOO_FAR_BELOW = "beyond the suspicious limit"
"""In the reason of a failure that ``suspicious`` makes."""


class Stability(Reward):
    """Energy above the Materials Project hull in eV/atom, 0 on or below it; energies from CHGNet by default.

    Any other potential can give the energies: ``calculator`` is ``chgnet``, ``sevenn``, ``mace``,
    ``matgl:NAME_OR_FOLDER`` or ``package.module:factory``, which returns an ASE calculator. Plain PBE(+U)
    energies get the MP2020 corrections that the hull is made with.

    The score is 1 up to ``full_score`` and 1/2 at ``half_score``. Its top is flat, since the error of
    these energies is about 0.03 eV/atom, and its tail never reaches 0, so that unstable structures can still
    be told apart. A structure far below the hull is more often a blind spot of the potential than a
    discovery: below ``suspicious`` it counts as not measured.
    """

    name: ClassVar[str] = "stability"
    unit: ClassVar[str] = "eV/atom"
    citation: ClassVar[str] = (
        "CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); MP2020 corrections: Wang et al., Sci. Rep. "
        "11, 15496 (2021); hull: Jain et al., APL Mater. 1, 011002 (2013)"
    )
    requires: ClassVar[tuple[str, ...]] = ("energy",)

    calculator: str = Field(default="chgnet", description="the potential that gives the energies")
    scale: Scale | None = Field(
        default=None,
        description="energies of a matgl or imported calculator: uncorrected PBE(+U), or mp2020 as the hull",
    )
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

    @model_validator(mode="after")
    def _check_calculator(self) -> Stability:
        try:
            check_name(self.calculator, self.scale)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def load(self) -> None:
        """Load the potential and the hull."""
        find_potential(self.calculator, self.scale).load()
        load_hull()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Energy above the hull of N structures, relaxed first when ``relax`` is set."""
        if not self.relax:
            energies = energies_of(self.calculator, self.scale)(structures)
            return [self._result(s, energy, {}) for s, energy in zip(structures, energies, strict=True)]
        relaxed = relaxation(self.relax, calculator=self.calculator, scale=self.scale)(structures)
        return [self._relaxed(end) for end in relaxed]

    def shaping(self) -> SoftDecay:
        """A flat top, 1/2 at ``half_score``, a long tail."""
        return SoftDecay(full=self.full_score, half=self.half_score)

    def _relaxed(self, end: Relaxed | Invalid | Failure) -> Result:
        if not isinstance(end, Relaxed):
            return end
        scale = find_potential(self.calculator, self.scale).scale
        energy = on_hull_scale(scale, end.structure, end.energy_per_atom)
        details = {"relax_steps": end.steps, "relax_converged": end.converged}
        return self._result(end.structure, energy, details)

    def _result(
        self, structure: Structure, energy: float | Invalid | Failure, details: dict[str, Any]
    ) -> Result:
        if isinstance(energy, Invalid | Failure):
            return energy
        hull = load_hull()
        try:
            formation_energy = hull.formation_energy(structure.composition, energy)
            raw = hull.e_above_hull(structure.composition, formation_energy)
        except MissingReferenceError as error:
            return Failure(str(error))
        if not math.isfinite(raw):
            return Failure(f"energy above the hull is {raw} (energy {energy} eV/atom)")
        if raw < self.suspicious:
            return Failure(
                f"{-raw:.3f} eV/atom below the hull, {TOO_FAR_BELOW} of {-self.suspicious:g}: "
                f"more likely an error of {self.calculator} than a discovery"
            )
        details |= {"e_above_hull_raw": raw, "formation_energy": formation_energy, "energy_per_atom": energy}
        if self.calculator != "chgnet":
            details["calculator"] = find_potential(self.calculator, self.scale).version
        return Measurement(max(0.0, raw), details=details)
