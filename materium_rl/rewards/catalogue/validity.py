"""The ``validity`` reward: is this a physical, three-dimensional crystal at all?

The limits were set on 15,990 Materials Project crystals of at most 20 sites so that 99.5 % pass; most
of those turned down are slabs or molecules in vacuum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.catalogue.charge_neutrality import least_charge
from materium_rl.rewards.shaping import Identity

if TYPE_CHECKING:
    from pymatgen.core import Structure

HEAVIEST = 118
SMALLEST_VOLUME = 1e-3
"""Å³; a cell below it is flat."""


class Validity(Reward):
    """1 for a physical crystal; anything else is invalid, with the value and the limit in the reason.

    Checked in this order: finite numbers and a cell with volume, volume per atom, density, shape of
    the cell, empty space, distances, and charge if asked for.
    """

    name: ClassVar[str] = "validity"
    citation: ClassVar[str] = "Covalent radii: Cordero et al., Dalton Trans. 2832 (2008)"
    screening: ClassVar[bool] = True

    min_distance: float = Field(
        default=0.65, ge=0, description="Least distance over the sum of the two covalent radii"
    )
    density: tuple[float, float] = Field(default=(0.5, 25.0), description="Range of the density in g/cm³")
    volume_per_atom: tuple[float, float] = Field(default=(5.0, 150.0), description="Range in Å³")
    max_gap: float = Field(
        default=4.5,
        gt=0,
        description="Widest empty layer in Å, from surface to surface of atoms with covalent radii",
    )
    max_aspect: float = Field(
        default=15.0, gt=1, description="Longest edge over smallest height of the reduced cell"
    )
    charge_neutrality: bool = Field(
        default=False,
        description="Ask for oxidation states that add up to zero; alloys and elements always pass",
    )

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Check N structures (about 0.4 ms each)."""
        return [self._check(structure) for structure in structures]

    def _check(self, structure: Structure) -> Result:
        from ase.data import atomic_masses, covalent_radii
        from moyopy import minkowski_reduce

        from materium_rl.structures import G_PER_CM3, minimum_distance_ratio

        matrix = structure.lattice.matrix
        problem = _unreadable(structure)
        if problem:
            return Invalid(problem)
        volume = abs(float(np.linalg.det(matrix)))
        per_atom = volume / len(structure)
        numbers = [site.specie.Z for site in structure]
        density = G_PER_CM3 * float(atomic_masses[numbers].sum()) / volume
        problem = _outside("volume per atom", per_atom, self.volume_per_atom, "Å³")
        problem = problem or _outside("density", density, self.density, "g/cm³")
        if problem:
            return Invalid(problem)
        try:
            reduced = np.array(minkowski_reduce(matrix.tolist())[0])
        except ValueError as error:
            return Invalid(f"the cell cannot be reduced ({error})")
        heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=0)
        aspect = float(np.linalg.norm(reduced, axis=1).max() / heights.min())
        if aspect > self.max_aspect:
            return Invalid(f"needle or plate cell: edge over height {aspect:.1f}; limit {self.max_aspect:g}")
        positions = (structure.cart_coords @ np.linalg.inv(reduced)) % 1.0
        gap = widest_gap(positions * heights, covalent_radii[numbers], heights)
        if gap > self.max_gap:
            return Invalid(f"empty layer of {gap:.1f} Å; limit {self.max_gap:g} Å")
        ratio = minimum_distance_ratio(structure)
        if ratio < self.min_distance:
            return Invalid(
                f"closest sites at {ratio:.2f} of their covalent radii; limit {self.min_distance:g}"
            )
        formula = structure.composition.reduced_formula
        if self.charge_neutrality and least_charge(formula) != 0:
            return Invalid(f"no oxidation states make {formula} neutral")
        return Measurement(1.0, details={"min_distance_ratio": ratio, "density": density, "widest_gap": gap})


def widest_gap(centres: np.ndarray, radii: np.ndarray, heights: np.ndarray) -> float:
    """Widest layer in Å, parallel to a face of the cell, that no atom's covalent sphere reaches into.

    Args:
        centres: (N, 3) heights in Å of the sites above each of the three faces of a reduced cell
            (a slab's vacuum lies along one of its vectors).
        radii: (N,) covalent radii in Å.
        heights: (3,) distances in Å between opposite faces.
    """
    return max(_gap(centres[:, axis], radii, float(heights[axis])) for axis in range(3))


def _gap(centres: np.ndarray, radii: np.ndarray, period: float) -> float:
    """Widest uncovered stretch of a circle of length ``period`` covered by N intervals."""
    order = np.argsort(centres - radii)
    starts, ends = (centres - radii)[order], (centres + radii)[order]
    reach = np.maximum.accumulate(np.concatenate([ends - period, ends]))
    later = np.concatenate([starts, starts[:1] + period])
    return max(0.0, float((later[1:] - reach[len(starts) :]).max()))


def _unreadable(structure: Structure) -> str:
    if len(structure) == 0:
        return "no sites"
    matrix = structure.lattice.matrix
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        return "a lattice vector or a coordinate is not finite"
    if abs(np.linalg.det(matrix)) < SMALLEST_VOLUME:
        return f"the cell is flat: {abs(np.linalg.det(matrix)):.2g} Å³"
    if not structure.is_ordered:
        return "disordered sites"
    for site in structure:
        if not 1 <= site.specie.Z <= HEAVIEST:  # a dummy species has a hash for Z
            return f"{site.specie} is no element"
    return ""


def _outside(what: str, value: float, limits: tuple[float, float], unit: str) -> str:
    low, high = limits
    return "" if low <= value <= high else f"{what} {value:.3g} {unit}; limits {low:g} to {high:g}"
