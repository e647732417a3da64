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

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core import Structure

K = 100
"""Neighbours that are counted: what the authors compare crystals with."""

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
    raise NotImplementedError


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
    raise NotImplementedError
