"""Symmetry of structures: one search for each, shared by every reward that needs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from moyopy import minkowski_reduce

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.shared import shared_work
from materium_rl.structures import minimum_distance_ratio

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 0.1
"""Å. The tolerance of every label; coordinates written on a token grid keep their symmetry at it."""
FALLBACK_SYMPRECS = (0.03, 0.01, 0.001)
"""Å. Tried in turn where the search fails, as it does when sites are closer than the tolerance."""

SMALLEST_VOLUME = 1e-3
"""Å³. Cells below it have no inverse worth computing."""

SMALLEST_DISTANCE_RATIO = 0.25
"""Nearest distance over the sum of covalent radii; below it the tolerance of the symmetry search joins
atoms, and the search may take hours."""

SMALLEST_TRANSLATION = 1.0
"""Å. The symmetry search did not come back from a cell with a translation of 0.61 Å, six times its tolerance;
no crystal at ordinary pressure has one below 2 Å."""


@dataclass(frozen=True, slots=True)
class Symmetry:
    """What the symmetry search says about a cell of N sites.

    Args:
        space_group_number: 1 to 230.
        n_sites_primitive: Sites in the primitive cell.
        n_sites_conventional: Sites in the conventional cell.
        orbits: For each of the N sites, one site that symmetry maps it on.
        site_symmetries: Site-symmetry symbol of each of the N sites.
        symprec: Tolerance at which the search succeeded, Å.
    """

    space_group_number: int
    n_sites_primitive: int
    n_sites_conventional: int
    orbits: tuple[int, ...]
    site_symmetries: tuple[str, ...]
    symprec: float


@shared_work("symmetry")
def symmetries(structures: Sequence[Structure]) -> list[Symmetry | Invalid | Failure]:
    """Symmetry of N structures at the first tolerance that works, ``SYMPREC`` first (about 0.2 ms each).

    Returns:
        N symmetries; ``Invalid`` for what ``unreadable`` refuses, ``Failure`` where every search failed.
    """
    return [_of_structure(structure, (SYMPREC, *FALLBACK_SYMPRECS)) for structure in structures]


def symmetry(structure: Structure, symprec: float) -> Symmetry | Invalid | Failure:
    """Symmetry at one tolerance.

    Args:
        structure: Any structure.
        symprec: Å, at most ``SYMPREC``: what ``unreadable`` refuses was chosen for that tolerance.
    """
    return _of_structure(structure, (symprec,))


def search(
    basis: np.ndarray,
    positions: np.ndarray,
    kinds: Sequence[str],
    symprecs: Sequence[float] = (SYMPREC, *FALLBACK_SYMPRECS),
) -> Symmetry | None:
    """Symmetry of a cell at the first tolerance at which the search succeeds.

    Args:
        basis: Lattice vectors as rows, Å, shape (3, 3).
        positions: Fractional coordinates, shape (N, 3).
        kinds: What stands on the N sites; equal names are like.
        symprecs: Tolerances, Å.
    """
    import moyopy

    _quieten_moyopy()
    names = sorted(set(kinds))
    numbers = [names.index(kind) + 1 for kind in kinds]
    cell = moyopy.Cell(basis.tolist(), positions.tolist(), numbers)
    for symprec in symprecs:
        try:
            data = moyopy.MoyoDataset(cell, symprec=symprec, rotate_basis=False)
        except ValueError:  # moyopy's error for every search that does not close
            continue
        return Symmetry(
            data.number,
            len(data.prim_std_cell.numbers),
            len(data.std_cell.numbers),
            tuple(data.orbits),
            tuple(data.site_symmetry_symbols),
            symprec,
        )
    return None


@cache
def point_group_order(space_group: int) -> int:
    """Number of operations in the point group of a space group: 1 to 48."""
    import moyopy

    return len(moyopy.operations_from_number(space_group, primitive=True))


def unreadable(structure: Structure) -> str | None:
    """Why neither symmetry nor fingerprint of a structure can be told; None if they can."""
    from pymatgen.core import DummySpecies

    basis = structure.lattice.matrix
    if len(structure) == 0:
        return "the structure has no sites"
    if not (np.isfinite(basis).all() and np.isfinite(structure.frac_coords).all()):
        return "a lattice vector or coordinate is not finite"
    if abs(np.linalg.det(basis)) < SMALLEST_VOLUME:
        return f"the cell has less than {SMALLEST_VOLUME} Å³"
    if not structure.is_ordered:
        return "a site is shared by several species"
    unknown = {str(site.specie) for site in structure if isinstance(site.specie, DummySpecies)}
    if unknown:
        return f"{', '.join(sorted(unknown))}: not an element"
    if minimum_distance_ratio(structure) < SMALLEST_DISTANCE_RATIO:
        return f"atoms overlap: nearer than {SMALLEST_DISTANCE_RATIO} of the sum of their covalent radii"
    shortest = float(np.linalg.norm(np.array(minkowski_reduce(basis.tolist())[0]), axis=1).min())
    if shortest < SMALLEST_TRANSLATION:
        return f"a lattice translation of {shortest:.2f} Å; limit {SMALLEST_TRANSLATION:g} Å"
    return None


def _of_structure(structure: Structure, symprecs: Sequence[float]) -> Symmetry | Invalid | Failure:
    problem = unreadable(structure)
    if problem is not None:
        return Invalid(problem)
    symbols = [site.specie.symbol for site in structure]
    found = search(structure.lattice.matrix, structure.frac_coords, symbols, symprecs)
    return found or Failure(f"no symmetry search succeeded at symprec {symprecs[-1]:g} Å")


@cache
def _quieten_moyopy() -> None:
    """Silence moyopy's warning about each supercell: it says nothing that a label needs."""
    logging.getLogger("moyo").setLevel(logging.ERROR)
