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
from materium_rl.rewards.potentials.catalogue import SCALES, check_name, find_potential
from materium_rl.rewards.relaxation import Relaxed, relaxation, rmsd
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
    relaxer: str | None = Field(
        default=None, description="potential that relaxes, such as chgnet; without it the calculator does"
    )
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
            if self.relaxer is not None:
                check_name(self.relaxer, self._scale_of_relaxer())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.relaxer is not None and not self.relax:
            raise ValueError("relaxer needs relax=N, the most steps")
        return self

    def load(self) -> None:
        """Load the potential and the hull."""
        find_potential(self.calculator, self.scale).load()
        if self.relaxer is not None:
            find_potential(self.relaxer, self._scale_of_relaxer()).load()
        load_hull()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Energy above the hull of N structures, relaxed first when ``relax`` is set."""
        if not self.relax:
            energies = energies_of(self.calculator, self.scale)(structures)
            return [self._result(s, energy, {}) for s, energy in zip(structures, energies, strict=True)]
        relaxer = self.relaxer or self.calculator
        ends = relaxation(self.relax, calculator=relaxer, scale=self._scale_of_relaxer())(structures)
        found = iter(self._energies([end for end in ends if isinstance(end, Relaxed)]))
        return [
            self._relaxed(structure, end, next(found)) if isinstance(end, Relaxed) else end
            for structure, end in zip(structures, ends, strict=True)
        ]

    def shaping(self) -> SoftDecay:
        """A flat top, 1/2 at ``half_score``, a long tail."""
        return SoftDecay(full=self.full_score, half=self.half_score)

    def _scale_of_relaxer(self) -> Scale | None:
        """The scale matters to its energies only, which nothing is made of unless it is the calculator."""
        if self.relaxer in (None, self.calculator):
            return self.scale
        return None if self.relaxer in SCALES else "uncorrected"

    def _energies(self, ends: Sequence[Relaxed]) -> list[float | Invalid | Failure]:
        """Energies of N relaxed structures on the scale of the hull."""
        if self.relaxer not in (None, self.calculator):
            return energies_of(self.calculator, self.scale)([end.structure for end in ends])
        scale = find_potential(self.calculator, self.scale).scale
        return [on_hull_scale(scale, end.structure, end.energy_per_atom) for end in ends]

    def _relaxed(self, structure: Structure, end: Relaxed, energy: float | Invalid | Failure) -> Result:
        details = {
            "relax_steps": end.steps,
            "relax_converged": end.converged,
            "relax_rmsd": rmsd(structure, end.structure),
            "relaxed_cif": str(end.structure.to(fmt="cif")),
        }
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
