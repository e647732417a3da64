"""One setting out of the equivalent ones, so that a crystal has one token sequence.

A reduced cell can be described with other axes of equal metric (a cubic one in 24 ways) and from other
origins. Databases choose among them by habit; a policy would have to learn that habit by heart.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from pymatgen.core import Lattice, Structure

LENGTH_TOLERANCE = 0.005
"""Å; cells whose edges differ by less count as equal."""
ANGLE_TOLERANCE = 0.05
"""Degrees, likewise."""
SITE_TOLERANCE = 0.02
"""Å; how far a site may be from the inverted image of another."""
_HALF_POINTS = np.array(list(product((0.0, 0.5), repeat=3)))


def canonical_setting(structure: Structure, rank: np.ndarray, grid: int) -> Structure:
    """The same crystal with the axes and the origin that give the smallest sorted coordinates.

    Axes: every proper rotation of the cell onto itself; a chiral crystal keeps its hand. Origins: the
    eight inversion centres where there are any, else the sites of the lowest rank. The latter move the
    crystal by whole grid points, so that coordinates that mirror each other round alike before and after.

    Args:
        structure: Ordered structure of N sites in a primitive, reduced cell.
        rank: Place of each site's species in the site order, (N,).
        grid: Points per axis that coordinates are rounded to.
    """
    frac_coords = structure.frac_coords
    rotations = _rotations(structure.lattice)
    centre = _inversion_centre(frac_coords, np.asarray(rank), structure.lattice.matrix)
    if centre is None:
        origins = np.rint(frac_coords[rank == np.min(rank)] * grid) / grid
    else:
        origins = centre + _HALF_POINTS
    moved = frac_coords[None] - origins[:, None]
    settings = np.einsum("oni,kij->konj", moved, np.linalg.inv(rotations)).reshape(-1, len(rank), 3)
    settings %= 1.0
    points = np.rint(settings * grid).astype(np.int64) % grid
    keys = ((np.asarray(rank, dtype=np.int64) * grid + points[..., 0]) * grid + points[..., 1]) * grid
    keys = np.sort(keys + points[..., 2], axis=1)
    best = int(np.lexsort(keys.T[::-1])[0])
    matrix = rotations[best // len(origins)] @ structure.lattice.matrix
    return Structure(Lattice(matrix), structure.species, settings[best])


def _rotations(lattice: Lattice) -> np.ndarray:
    """Integer matrices (K, 3, 3) whose new axes have the old lengths and angles; the identity first."""
    candidates = _unimodular()
    axes = candidates @ lattice.matrix
    lengths = np.linalg.norm(axes, axis=2)
    same = (np.abs(lengths - np.array(lattice.abc)) < LENGTH_TOLERANCE).all(axis=1)
    candidates, axes, lengths = candidates[same], axes[same], lengths[same]
    unit = axes / lengths[..., None]
    cosines = np.stack([(unit[:, i] * unit[:, j]).sum(axis=1) for i, j in ((1, 2), (0, 2), (0, 1))], axis=1)
    angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
    same = (np.abs(angles - np.array(lattice.angles)) < ANGLE_TOLERANCE).all(axis=1)
    rotations: np.ndarray = candidates[same]
    return rotations


@lru_cache(maxsize=1)
def _unimodular() -> np.ndarray:
    """Matrices of -1, 0 and 1 with determinant 1: all that can map a reduced cell onto itself."""
    matrices = np.array(list(product((-1, 0, 1), repeat=9)), dtype=float).reshape(-1, 3, 3)
    matrices = matrices[np.rint(np.linalg.det(matrices)) == 1]
    order = np.abs(matrices - np.eye(3)).sum(axis=(1, 2)).argsort(kind="stable")
    ordered: np.ndarray = matrices[order]
    return ordered


def _inversion_centre(frac_coords: np.ndarray, rank: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """A point through which the crystal is its own inverse, in fractional coordinates, or None."""
    first = np.flatnonzero(rank == rank.min())
    other_species = rank[:, None] != rank[None]
    for j in first:
        total = frac_coords[first[0]] + frac_coords[j]
        difference = (total - frac_coords)[:, None] - frac_coords[None]
        difference -= np.round(difference)
        distance = np.linalg.norm(difference @ matrix, axis=2)
        distance[other_species] = np.inf
        partner = distance.argmin(axis=1)
        if (distance[np.arange(len(rank)), partner] < SITE_TOLERANCE).all():
            off = difference[np.arange(len(rank)), partner].mean(axis=0)
            centre: np.ndarray = (total - off) / 2
            return centre
    return None
