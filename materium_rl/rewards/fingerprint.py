"""A continuous geometric fingerprint: sorted neighbour distances, averaged over the sites.

The first ``N_ALL`` entries are the average minimum distances AMD_k of Widdowson et al., MATCH Commun.
Math. Comput. Chem. 87, 529 (2022): entry k is the mean over sites of the distance to the k-th nearest
neighbour. They ignore the species. The last ``N_LIKE`` entries are the same to the k-th nearest
neighbour of the site's own element, all rare earths being one; they tell two decorations of one
framework apart without naming an element. Lengths are in units of (volume per atom)^(1/3), so density
does not count. Both parts are independent of cell, origin, site order and orientation, and change
continuously when atoms move.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.prototypes import RARE_EARTH
from materium_rl.rewards.shared import shared_work
from materium_rl.rewards.symmetry import unreadable

if TYPE_CHECKING:
    from pymatgen.core import Element, Species, Structure

N_ALL = 60
N_LIKE = 12
SIZE = N_ALL + N_LIKE
_FIRST_RADIUS = 3.2  # holds about 137 neighbours of a homogeneous crystal
_GROWTH = 1.4
_MAX_DISTANCES = 4_000_000  # held at once; only needles, and sheets with vacuum, exceed it

Fingerprint = NDArray[np.float32]


@shared_work("fingerprint")
def fingerprints(structures: Sequence[Structure]) -> list[Fingerprint | None]:
    """Fingerprints of N structures, each of shape (SIZE,); about 0.5 ms each.

    None for an unreadable structure, and where the cell is so thin or so empty that the neighbours
    cannot be listed.
    """
    return [_of_structure(structure) for structure in structures]


def _of_structure(structure: Structure) -> Fingerprint | None:
    if unreadable(structure) is not None:
        return None
    kinds = [_kind(site.specie) for site in structure]
    return fingerprint(structure.lattice.matrix, structure.frac_coords, kinds)


def _kind(specie: Element | Species) -> str:
    return RARE_EARTH if specie.symbol in RARE_EARTHS else specie.symbol


def fingerprint(basis: np.ndarray, positions: np.ndarray, kinds: Sequence[str]) -> Fingerprint | None:
    """Fingerprint of one cell.

    Args:
        basis: Lattice vectors as rows, Å, shape (3, 3).
        positions: Fractional coordinates, shape (N, 3).
        kinds: What stands on the N sites; equal names are like.
    """
    n_sites = len(kinds)
    scaled = basis * (n_sites / abs(np.linalg.det(basis))) ** (1 / 3)
    species = np.asarray(kinds)
    radius = _FIRST_RADIUS
    while (cloud := _cloud(scaled, positions, radius)) is not None:
        squared, owner = cloud
        like = np.where(species[owner][None, :] == species[:, None], squared, np.inf)
        near_all, near_like = _smallest(squared, N_ALL), _smallest(like, N_LIKE)
        farthest = max(near_all[:, -1].max(), near_like[:, -1].max())
        if farthest <= radius**2:
            rows = np.concatenate([np.sqrt(near_all).mean(axis=0), np.sqrt(near_like).mean(axis=0)])
            return rows.astype(np.float32)
        radius *= _GROWTH
    return None


def _cloud(basis: np.ndarray, positions: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Squared distances (N, M) from each site to all atoms within ``radius``, and the atoms' sites (M,).

    The site itself is at infinity. Atoms beyond the radius may be among the M, never fewer than all
    atoms within it.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(basis), axis=0)
    reach = np.ceil(radius / heights).astype(int) + 1
    if np.prod(2.0 * reach + 1) * len(positions) ** 2 > _MAX_DISTANCES:
        return None
    images = np.array(list(product(*(range(-n, n + 1) for n in reach))), dtype=float)
    home = (positions % 1.0) @ basis
    points = ((images @ basis)[:, None, :] + home[None, :, :]).reshape(-1, 3)
    owner = np.tile(np.arange(len(home)), len(images))
    centre = home.mean(axis=0)
    spread = np.sqrt(((home - centre) ** 2).sum(axis=1).max())
    close = ((points - centre) ** 2).sum(axis=1) <= (radius + spread) ** 2
    points, owner = points[close], owner[close]
    squared = np.maximum(
        (home**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)[None, :] - 2.0 * home @ points.T, 0.0
    )
    first = int(np.count_nonzero(close[: len(images) // 2 * len(home)]))  # the undisplaced image
    squared[np.arange(len(home)), first + np.arange(len(home))] = np.inf
    return squared, owner


def _smallest(squared: np.ndarray, k: int) -> np.ndarray:
    """The k smallest entries of each row in rising order; infinite where a row has fewer."""
    if squared.shape[1] < k:
        squared = np.pad(squared, ((0, 0), (0, k - squared.shape[1])), constant_values=np.inf)
    return np.sort(np.partition(squared, k - 1, axis=1)[:, :k], axis=1)
