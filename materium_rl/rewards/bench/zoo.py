"""The zoo: textbook crystals, the same crystals in disguise, near relatives, junk and the unmeasurable.

Lattice constants are textbook values at room temperature; where a structure is invented its docstring
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import cycle

import numpy as np
from pymatgen.core import Element, Lattice, Structure

ORIGIN_SHIFT = (0.137, 0.291, 0.413)
"""Fractional; no site of the zoo falls onto a special position by it."""
STRAIN = (0.01, 0.0, -0.01)
"""Along x, y and z."""
VACUUM = 25.0
"""Å."""

PRIMITIVE = ((0.0, 0.0, 0.0),)
BODY = (*PRIMITIVE, (0.5, 0.5, 0.5))
FACE = (*PRIMITIVE, (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
PEROVSKITE = np.array([*BODY, (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)])

Motif = Sequence[tuple[str, Sequence[float]]]


# Built once; ``Subject.measure`` hands out copies.
@cache
def crystals() -> dict[str, Structure]:
    """Real, common crystals, in conventional cells; every one has another framework than the others."""
    return {
        "Si": _diamond(5.431, "Si"),
        "NaCl": rock_salt("Na", "Cl", 5.640),
        "TiO2": _rutile(),
        "SrTiO3": _perovskite("Sr", "Ti", 3.905),
        "CsCl": _filled(Lattice.cubic(4.123), PRIMITIVE, [("Cs", (0, 0, 0)), ("Cl", (0.5, 0.5, 0.5))]),
        "CaF2": _filled(
            Lattice.cubic(5.463),
            FACE,
            [("Ca", (0, 0, 0)), ("F", (0.25, 0.25, 0.25)), ("F", (0.75, 0.75, 0.75))],
        ),
        "Mg": _hexagonal(3.209, 5.211, [("Mg", 0.25)]),
        "ZnO": _hexagonal(3.250, 5.207, [("Zn", 0.0), ("O", 0.382)], screw=True),
    }


@cache
def elements() -> dict[str, Structure]:
    """Crystals of a single element."""
    return {
        "Fe": _filled(Lattice.cubic(2.866), BODY, [("Fe", (0, 0, 0))]),
        "Cu": _filled(Lattice.cubic(3.615), FACE, [("Cu", (0, 0, 0))]),
        "Si": _diamond(5.431, "Si"),
        "C": _diamond(3.567, "C"),
    }


@cache
def noble_gases() -> dict[str, Structure]:
    """The fcc crystals of neon, argon, krypton and xenon."""
    lengths = {"Ne": 4.46, "Ar": 5.31, "Kr": 5.71, "Xe": 6.13}
    return {name: _filled(Lattice.cubic(a), FACE, [(name, (0, 0, 0))]) for name, a in lengths.items()}


@cache
def common_oxides() -> dict[str, Structure]:
    """Rock-salt oxides of common metals, all with the lattice constant of the rare ones (invented)."""
    return {symbol: rock_salt(symbol, "O", 5.0) for symbol in ("Mg", "Ca", "Sr", "Mn", "Fe", "Ni", "Cd")}


@cache
def rare_oxides() -> dict[str, Structure]:
    """The same with elements that tables and training sets lack: no reference energy, no price (invented)."""
    symbols = ("Yb", "Po", "At", "Rn", "Fr", "Ra", "Pm", "Ac", "Am", "Cf", "Lr")
    return {symbol: rock_salt(symbol, "O", 5.0) for symbol in symbols}


def disguises() -> dict[str, Callable[[Structure], Structure]]:
    """Ways to write the same crystal again."""
    return {
        "exact duplicate": Structure.copy,
        "supercell": lambda structure: structure.make_supercell([2, 1, 1], in_place=False),
        "site order": _other_order,
        "origin": _other_origin,
        "oxidation states": _relabelled,
    }


def strained(structure: Structure) -> Structure:
    """The crystal under a strain of 1 % that keeps the volume."""
    matrix = structure.lattice.matrix @ np.diag(1 + np.array(STRAIN))
    return Structure(matrix, structure.species, structure.frac_coords)


@cache
def rare_earth_swap() -> tuple[Structure, Structure]:
    """LaAlO3 and NdAlO3 in the cubic perovskite's cell."""
    return _perovskite("La", "Al", 3.81), _perovskite("Nd", "Al", 3.81)


@cache
def ordering_variant() -> tuple[Structure, Structure]:
    """Body-centred iron, and Fe2MnSi: the Heusler alloy on the same framework, of real lattice constant."""
    motif = [("Mn", (0, 0, 0)), ("Si", (0.5, 0.5, 0.5)), ("Fe", (0.25,) * 3), ("Fe", (0.75,) * 3)]
    return elements()["Fe"], _filled(Lattice.cubic(5.67), FACE, motif)


@cache
def polymorph() -> tuple[Structure, Structure]:
    """Rutile, and anatase: the same formula, another crystal."""
    z = 0.2081
    oxygens = [(0, 0, z), (0, 0, -z), (0, 0.5, 0.25 + z), (0, 0.5, 0.25 - z)]
    motif = [("Ti", (0, 0, 0)), ("Ti", (0, 0.5, 0.25)), *(("O", place) for place in oxygens)]
    return _rutile(), _filled(Lattice.tetragonal(3.785, 9.514), BODY, motif)


@cache
def junk() -> dict[str, tuple[Structure, Structure]]:
    """Unphysical cells, each after the crystal that it was made of."""
    rutile, salt, perovskite = (crystals()[name] for name in ("TiO2", "NaCl", "SrTiO3"))
    return {
        "vacuum cell": (rutile, _with_vacuum(rutile)),
        "needle cell": (perovskite, Structure(Lattice.tetragonal(1.9, 90.0), perovskite.species, PEROVSKITE)),
        "overlapping atoms": (rutile, _with_overlap(rutile)),
        "collapsed cell": (salt, Structure(Lattice.cubic(2.2), salt.species, salt.frac_coords)),
    }


@cache
def unreadable() -> dict[str, tuple[Structure, Structure]]:
    """What is no structure at all, each after the crystal that it was made of."""
    salt = crystals()["NaCl"]
    coords = salt.frac_coords.copy()
    coords[3, 1] = np.nan
    lattice = salt.lattice.matrix.copy()
    lattice[2, 2] = np.nan
    return {
        "no sites": (salt, Structure(salt.lattice, [], [])),
        "coordinate not a number": (salt, Structure(salt.lattice, salt.species, coords)),
        "cell not a number": (salt, Structure(lattice, salt.species, salt.frac_coords)),
    }


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    """Conventional rock-salt cell with the lattice constant a in Å."""
    return _filled(Lattice.cubic(a), FACE, [(cation, (0, 0, 0)), (anion, (0.5, 0.5, 0.5))])


def _filled(lattice: Lattice, centring: Sequence[Sequence[float]], motif: Motif) -> Structure:
    """A cell with the motif at every point of the centring, species by species."""
    sites = [(symbol, np.add(place, shift) % 1.0) for symbol, place in motif for shift in centring]
    return Structure(lattice, [symbol for symbol, _ in sites], [place for _, place in sites])


def _diamond(a: float, symbol: str) -> Structure:
    return _filled(Lattice.cubic(a), FACE, [(symbol, (0, 0, 0)), (symbol, (0.25, 0.25, 0.25))])


def _rutile() -> Structure:
    u = 0.3053
    oxygens = [(u, u, 0), (-u, -u, 0), (0.5 - u, 0.5 + u, 0.5), (0.5 + u, 0.5 - u, 0.5)]
    motif = [("Ti", (0, 0, 0)), ("Ti", (0.5, 0.5, 0.5)), *(("O", place) for place in oxygens)]
    return _filled(Lattice.tetragonal(4.594, 2.959), PRIMITIVE, motif)


def _hexagonal(a: float, c: float, heights: Sequence[tuple[str, float]], *, screw: bool = False) -> Structure:
    """Sites over (1/3, 2/3), repeated over (2/3, 1/3) by inversion or by the screw axis."""
    motif: list[tuple[str, Sequence[float]]] = []
    for symbol, z in heights:
        motif += [(symbol, (1 / 3, 2 / 3, z)), (symbol, (2 / 3, 1 / 3, z + 0.5 if screw else -z))]
    return _filled(Lattice.hexagonal(a, c), PRIMITIVE, motif)


def _perovskite(large: str, small: str, a: float) -> Structure:
    return Structure(Lattice.cubic(a), [large, small, "O", "O", "O"], PEROVSKITE)


def _other_order(structure: Structure) -> Structure:
    return Structure.from_sites(list(structure)[::-1])


def _other_origin(structure: Structure) -> Structure:
    return Structure(structure.lattice, structure.species, (structure.frac_coords + ORIGIN_SHIFT) % 1.0)


def _relabelled(structure: Structure) -> Structure:
    """With oxidation states of no meaning: a label, not a property of the crystal."""
    states = dict(zip(_symbols(structure), cycle((3.0, -1.0, 2.0)), strict=False))
    labelled = structure.copy()
    labelled.add_oxidation_state_by_element(states)
    return labelled


def _symbols(structure: Structure) -> Iterable[str]:
    return sorted({site.specie.symbol for site in structure if isinstance(site.specie, Element)})


def _with_vacuum(structure: Structure) -> Structure:
    matrix = structure.lattice.matrix.copy()
    matrix[2, 2] += VACUUM
    return Structure(Lattice(matrix), structure.species, structure.cart_coords, coords_are_cartesian=True)


def _with_overlap(structure: Structure) -> Structure:
    """Its last two sites 0.05 Å apart."""
    coords = structure.cart_coords.copy()
    coords[-1] = coords[-2] + (0.05, 0.0, 0.0)
    return Structure(structure.lattice, structure.species, coords, coords_are_cartesian=True)
