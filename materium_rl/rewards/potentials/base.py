"""What a potential is: cells in, one energy per cell out, with forces and stress if asked for.

A potential extrapolates without warning, so unphysical cells are turned away before it and absurd energies
after it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from materium_rl.rewards.base import Failure, Invalid

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

Scale = Literal["mp2020", "uncorrected"]
"""Which energies a potential gives: with the MP2020 corrections in them, or those of plain PBE(+U)."""

ENERGY_RANGE = (-20.0, 50.0)
"""eV/atom; the Materials Project spans about -14 to 0, CHGNet's worst junk cells rise to tens of eV."""
VOLUME_RANGE = (2.0, 500.0)
"""Å³ per site; diamond has 5.7. Below, the neighbour list grows without bound."""
MINIMUM_DISTANCE = 0.5
"""Å; the H-H bond is 0.74. Closer sites are outside everything a potential was trained on."""
DISORDERED = "partially occupied sites"
EV_PER_A3 = 160.21766208
"""GPa in 1 eV/Å³."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A crystal as plain arrays.

    Args:
        numbers: Atomic numbers (N,).
        positions: Cartesian coordinates (N, 3) in Å, of any periodic image.
        lattice: Lattice vectors in the rows (3, 3), Å.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    lattice: NDArray[np.float64]

    @classmethod
    def of(cls, structure: Structure) -> Cell:
        """The cell of an ordered structure; oxidation states are ignored."""
        numbers = np.array([site.specie.Z for site in structure])
        return cls(numbers, np.array(structure.cart_coords), np.array(structure.lattice.matrix))

    @property
    def volume(self) -> float:
        """Volume in Å³."""
        return float(abs(np.linalg.det(self.lattice)))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a potential says about one cell of N sites.

    Args:
        energy_per_atom: eV/atom.
        magmoms: Magnitude of the magnetic moment of each site in µB, where the potential knows it.
        forces: Forces (N, 3) in eV/Å, if asked for.
        stress: Stress tensor (3, 3) in GPa, if asked for; its trace is negative in a squeezed cell.
    """

    energy_per_atom: float
    magmoms: tuple[float, ...] = ()
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None


Predicted = Prediction | Invalid | Failure


class Potential(ABC):
    """One interatomic potential.

    ``name`` is what the user wrote; ``scale`` says what has to be added to compare with the hull;
    ``heaviest`` is the largest atomic number that it knows.
    """

    name: str
    scale: Scale
    heaviest: int = 118

    @abstractmethod
    def load(self) -> None:
        """Load the weights, once per process.

        Raises:
            RewardError: The package or the weights are not there; says how to get them.
        """

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version of what computes, for the record."""

    @abstractmethod
    def calculate(self, cells: Sequence[Cell], *, forces: bool) -> list[Predicted]:
        """Predictions for N physical cells; a cell that makes it raise fails alone."""

    def predict(self, structures: Sequence[Structure], *, forces: bool = False) -> list[Predicted]:
        """Predictions for N structures as they are written.

        Args:
            structures: N structures.
            forces: Whether to give forces and stress as well, which costs about twice the time.

        Returns:
            N predictions, or why there is none.
        """
        todo = {i: Cell.of(s) for i, s in enumerate(structures) if s.is_ordered}
        predicted = dict(zip(todo, self.predict_cells(list(todo.values()), forces=forces), strict=True))
        return [predicted.get(i, Invalid(DISORDERED)) for i in range(len(structures))]

    def predict_cells(self, cells: Sequence[Cell], *, forces: bool = False) -> list[Predicted]:
        """As ``predict``, for N cells."""
        refused = [self.refused(cell) for cell in cells]
        todo = [i for i, reason in enumerate(refused) if reason is None]
        results = dict(zip(todo, self.calculate([cells[i] for i in todo], forces=forces), strict=True))
        return [reason or self._checked(results[i]) for i, reason in enumerate(refused)]

    def refused(self, cell: Cell) -> Invalid | Failure | None:
        """Why the potential must not see this cell, if so."""
        if len(cell.numbers) == 0:
            return Invalid("the structure has no sites")
        if unknown := {int(z) for z in cell.numbers if not 1 <= z <= self.heaviest}:
            return Failure(
                f"{self.name} knows no element of atomic number {max(unknown)} (1 to {self.heaviest})"
            )
        return unphysical(cell)

    def _checked(self, result: Predicted) -> Predicted:
        """The prediction, if its numbers can be one."""
        if not isinstance(result, Prediction):
            return result
        low, high = ENERGY_RANGE
        energy = result.energy_per_atom
        if not (math.isfinite(energy) and low <= energy <= high):
            return Invalid(
                f"{self.name} energy {energy:.4g} eV/atom, outside {low:g} to {high:g}: an unphysical cell"
            )
        if not np.isfinite(result.magmoms).all():
            return Failure(f"{self.name} returned a magnetic moment that is not finite")
        for kind, values in (("force", result.forces), ("stress", result.stress)):
            if values is not None and not np.isfinite(values).all():
                return Failure(f"{self.name} returned a {kind} that is not finite")
        return replace(result, energy_per_atom=float(energy))


def unphysical(cell: Cell) -> Invalid | None:
    """What is wrong with the geometry of a cell, if anything."""
    if not (np.isfinite(cell.positions).all() and np.isfinite(cell.lattice).all()):
        return Invalid("coordinates or cell are not finite")
    volume = cell.volume / len(cell.numbers)
    if not VOLUME_RANGE[0] <= volume <= VOLUME_RANGE[1]:
        return Invalid(f"{volume:.3g} Å³ per site, outside {VOLUME_RANGE[0]:g} to {VOLUME_RANGE[1]:g}")
    distances = neighbours(cell, 1.0)[3]
    if len(distances) and distances.min() < MINIMUM_DISTANCE:
        return Invalid(f"two sites are {distances.min():.3g} Å apart")
    return None


def neighbours(cell: Cell, cutoff: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Pairs of sites within a distance, in both directions; a site is no neighbour of itself.

    Args:
        cell: N sites.
        cutoff: Å.

    Returns:
        Site (P,), neighbour (P,), cell of the neighbour (P, 3) in lattice vectors, distance (P,) in Å.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    positions, lattice = np.ascontiguousarray(cell.positions), np.ascontiguousarray(cell.lattice)
    periodic = np.ones(3, dtype=np.int64)
    centre, other, images, distances = find_points_in_spheres(
        positions, positions, r=float(cutoff), pbc=periodic, lattice=lattice, tol=1e-8
    )
    itself = (centre == other) & (images == 0).all(axis=1)
    return centre[~itself], other[~itself], images[~itself], distances[~itself]
