"""The graph that CHGNet sees: bonds up to 6 Å, and angles between bonds up to 3 Å, of many cells at once.

Each bond stands once, with one vector, and serves both directions; the short bonds of all cells come first.
A direction is numbered by its bond, from the second site plus the number of bonds. Everything is sorted and
paired with numpy: 0.1 ms a structure, where CHGNet's own converter takes 4 ms (so nothing is gained by
keeping neighbour lists from one step of a relaxation to the next).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materium_rl.rewards.potentials.base import Cell, neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOND_CUTOFF = 6.0
ANGLE_CUTOFF = 3.0
"""Å; bonds up to here form angles."""


@dataclass(frozen=True, slots=True)
class Bonds:
    """The U bonds of one cell.

    Args:
        first, second: Sites (U,).
        vectors: From the second to the first (U, 3), Å.
        lengths: (U,), Å.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    vectors: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @property
    def cost(self) -> int:
        """Directions and angles: what the network's time and memory grow with."""
        short = self.lengths < ANGLE_CUTOFF
        counts = np.bincount(np.concatenate([self.first[short], self.second[short]]))
        return 2 * len(self.first) + int((counts * (counts - 1)).sum())


@dataclass(frozen=True, slots=True)
class Graph:
    """N sites of C cells, U bonds of which the first S are short, A angles.

    Args:
        cells: C.
        numbers: Atomic numbers (N,).
        owners: Cell of each site (N,).
        first, second: Sites of each bond (U,).
        vectors: From the second to the first site (U, 3), Å.
        short: S.
        centres: Site in which each short direction starts (2S,).
        left, right: Short directions of each angle (A,), both from the same site.
    """

    cells: int
    numbers: NDArray[np.int64]
    owners: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    vectors: NDArray[np.float64]
    short: int
    centres: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]


def find_bonds(cell: Cell) -> Bonds | None:
    """The bonds of a cell; None if a site has none."""
    first, second, images, lengths = neighbours(cell, BOND_CUTOFF)
    if len(np.unique(first)) < len(cell.numbers):
        return None
    # Of the two directions of a bond the one with the smaller site, or with the first image index above 0.
    ahead = (images[:, 0] > 0) | (
        (images[:, 0] == 0) & ((images[:, 1] > 0) | ((images[:, 1] == 0) & (images[:, 2] > 0)))
    )
    once = (first < second) | ((first == second) & ahead)
    first, second, images = first[once], second[once], images[once]
    vectors = cell.positions[first] - cell.positions[second] - images @ cell.lattice
    return Bonds(first, second, vectors, lengths[once])


def join(cells: Sequence[Cell], bonds: Sequence[Bonds]) -> Graph:
    """One graph of C cells and their bonds."""
    sizes = np.array([len(cell.numbers) for cell in cells])
    starts = np.cumsum(sizes) - sizes
    lengths = np.concatenate([b.lengths for b in bonds])
    order = np.argsort(lengths >= ANGLE_CUTOFF, kind="stable")
    short = int((lengths < ANGLE_CUTOFF).sum())
    first = np.concatenate([b.first + start for b, start in zip(bonds, starts, strict=True)])[order]
    second = np.concatenate([b.second + start for b, start in zip(bonds, starts, strict=True)])[order]
    centres = np.concatenate([first[:short], second[:short]])
    left, right = _pairs(centres)
    return Graph(
        cells=len(cells),
        numbers=np.concatenate([cell.numbers for cell in cells]),
        owners=np.repeat(np.arange(len(cells)), sizes),
        first=first,
        second=second,
        vectors=np.concatenate([b.vectors for b in bonds])[order],
        short=short,
        centres=centres,
        left=left,
        right=right,
    )


def _pairs(centres: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ordered pairs of different entries with the same centre."""
    order = np.argsort(centres, kind="stable")
    counts = np.bincount(centres)
    starts = np.cumsum(counts) - counts
    partners = counts[centres[order]]  # of each entry, itself included
    left = np.repeat(np.arange(len(centres)), partners)
    place = np.arange(len(left)) - np.repeat(np.cumsum(partners) - partners, partners)
    right = place + starts[centres[order]][left]
    different = left != right
    return order[left[different]], order[right[different]]
