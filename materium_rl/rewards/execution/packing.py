"""Structures as a few arrays, to send them to a worker: a quarter of the cost of pickling them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure


class PackedStructures(NamedTuple):
    """N structures of S sites in all.

    Args:
        lattices: Lattice vectors as rows in Å, (N, 3, 3).
        periodic: Along which vectors the cell repeats, (N, 3).
        n_sites: Sites of each structure, (N,).
        coords: Fractional coordinates, (S, 3).
        symbols: The elements that occur.
        codes: Place of each site's element in ``symbols``, (S,).
    """

    lattices: NDArray[np.float64]
    periodic: NDArray[np.bool_]
    n_sites: NDArray[np.int64]
    coords: NDArray[np.float64]
    symbols: tuple[str, ...]
    codes: NDArray[np.int16]


def pack(structures: Sequence[Structure]) -> PackedStructures:
    """Pack N structures as ``strip_oxidation_states`` returns them: elements, no site properties."""
    codes: dict[str, int] = {}
    coded = [codes.setdefault(site.specie.symbol, len(codes)) for s in structures for site in s]
    coords = [s.frac_coords for s in structures if len(s)]
    return PackedStructures(
        lattices=np.array([s.lattice.matrix for s in structures], dtype=np.float64).reshape(-1, 3, 3),
        periodic=np.array([s.lattice.pbc for s in structures], dtype=np.bool_).reshape(-1, 3),
        n_sites=np.array([len(s) for s in structures], dtype=np.int64),
        coords=np.concatenate(coords) if coords else np.empty((0, 3)),
        symbols=tuple(codes),
        codes=np.array(coded, dtype=np.int16),
    )


def unpack(packed: PackedStructures) -> list[Structure]:
    """The structures that were packed, every number equal to the last bit."""
    from pymatgen.core import Lattice, Structure

    species: Any = [_species(symbol) for symbol in packed.symbols]
    structures, first = [], 0
    for matrix, periodic, n in zip(packed.lattices, packed.periodic.tolist(), packed.n_sites, strict=True):
        sites = slice(first, first + int(n))
        lattice = Lattice(matrix.copy(), pbc=tuple(periodic))  # arrays that were sent are read-only
        coords = packed.coords[sites].copy()
        structures.append(Structure(lattice, [species[code] for code in packed.codes[sites]], coords))
        first = sites.stop
    return structures


@cache
def _species(symbol: str) -> Composition:
    """One composition for all sites of an element: to parse its symbol for each doubles the cost."""
    from pymatgen.core import Composition, get_el_sp

    return Composition({get_el_sp(symbol): 1})
