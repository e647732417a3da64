"""How far apart two crystals are, as a number that changes continuously: AMD and PDD.

The k-th average minimum distance is the mean over the sites of a cell of the distance to the k-th nearest
neighbour, periodic images included. The pointwise distance distribution keeps the sites apart: one row of k
rising distances per site, and the mean over the rows is the AMD. Both ignore the elements, and neither
depends on the cell, the origin, the orientation or the order of the sites. Lengths are in Å, so a swelling of
the cell counts.

Sources: Widdowson, Mosca, Pulido, Cooper and Kurlin, MATCH Commun. Math. Comput. Chem. 87, 529 (2022), for
the AMD; Widdowson and Kurlin, NeurIPS (2022), for the PDD and the earth mover's distance between two of them.
"""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

import numpy as np
from moyopy import minkowski_reduce
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core import Structure

K = 100
"""Neighbours that are counted: what the authors compare crystals with."""

_MAX_POINTS = 4_000_000  # atoms listed at once; only needles, and sheets with vacuum, exceed it
_MAX_PAIRED = 400  # rows up to which pairing whole rows is faster than a linear programme

Floats = NDArray[np.float64]


def pdd(structure: Structure, k: int = K) -> Floats:
    """Pointwise distance distribution: row i holds the distances from site i to its k nearest neighbours.

    Args:
        structure: N >= 1 sites; elements do not count.
        k: Neighbours.

    Returns:
        (N, k) in Å, each row rising; every row weighs 1/N.

    Raises:
        ValueError: The cell is a needle or a sheet in so much vacuum that its neighbours cannot be listed.
    """
    return cell_pdd(structure.lattice.matrix, structure.frac_coords, k)


def cell_pdd(lattice: Floats, frac_coords: Floats, k: int = K) -> Floats:
    """``pdd`` of a lattice, vectors as rows in Å (3, 3), and the coordinates of N sites (N, 3)."""
    basis = np.array(minkowski_reduce(lattice.tolist())[0])
    home = (frac_coords @ lattice @ np.linalg.inv(basis) % 1.0) @ basis
    density = len(home) / abs(np.linalg.det(basis))
    radius = 1.2 * (3 * (k + 1) / (4 * np.pi * density)) ** (1 / 3)
    while True:
        distances = _nearest(home, _cloud(basis, home, radius), k)
        farthest = float(distances[:, -1].max())
        if farthest <= radius:
            return distances
        # the k-th nearest of some atoms is never nearer than that of all
        radius = farthest if np.isfinite(farthest) else 1.5 * radius


def amd(structure: Structure, k: int = K) -> Floats:
    """Average minimum distances, (k,) in Å: the mean of the rows of ``pdd``.

    Raises:
        ValueError: As ``pdd``.
    """
    return pdd(structure, k).mean(axis=0)  # type: ignore[no-any-return]


def amd_distance(a: Floats, b: Floats) -> float:
    """Largest difference of two AMDs of equal k, in Å."""
    return float(np.abs(a - b).max())


def pdd_distance(a: Floats, b: Floats) -> float:
    """Earth mover's distance between two PDDs of equal k, in Å.

    Rows are moved at the cost of the largest difference of their entries. It is never below the distance of
    the AMDs.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(a, b, "chebyshev")
    size = lcm(*cost.shape)
    if size > _MAX_PAIRED:
        return _transport(cost)
    # rows of equal weight: among the cheapest ways to move them one moves whole rows
    cost = cost.repeat(size // len(a), axis=0).repeat(size // len(b), axis=1)
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def _cloud(basis: Floats, home: Floats, radius: float) -> Floats:
    """All atoms (M, 3) within ``radius`` of any of the N sites ``home``, and some farther ones."""
    centre = home.mean(axis=0)
    spread = float(np.linalg.norm(home - centre, axis=1).max())
    heights = 1.0 / np.linalg.norm(np.linalg.inv(basis), axis=0)
    reach = np.ceil((radius + spread) / heights) + 1
    if np.prod(2 * reach + 1) * len(home) > _MAX_POINTS:
        raise ValueError("the cell is a needle or a sheet: its neighbours cannot be listed")
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    points = (images.reshape(-1, 1, 3) @ basis + home).reshape(-1, 3)
    return points[((points - centre) ** 2).sum(axis=1) <= (radius + spread) ** 2 * (1 + 1e-9)]  # type: ignore[no-any-return]


def _nearest(home: Floats, cloud: Floats, k: int) -> Floats:
    """Distances (N, k) to the k nearest atoms but the site itself; infinite where there are fewer."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(cloud).query(home, k=k + 1)
    return distances[:, 1:]  # type: ignore[no-any-return]


def _transport(cost: Floats) -> float:
    """Least cost of moving N rows of weight 1/N onto M of weight 1/M; cost (N, M)."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = cost.shape
    leaving, arriving = kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    found = linprog(cost.ravel(), A_eq=vstack([leaving, arriving]), b_eq=weights, method="highs")
    return float(found.fun)
