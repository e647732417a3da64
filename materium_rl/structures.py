"""Reduce, compare and check crystal structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import comb, gcd, prod
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from moyopy import minkowski_reduce
from pymatgen.core import Composition, Element, Lattice, Species, Structure

if TYPE_CHECKING:
    from pymatgen.core.structure_matcher import StructureMatcher

G_PER_CM3 = 1.66053907
"""One atomic mass unit per Å³ in g/cm³ (CODATA 2018)."""

# The 13 cell translations of one half-space: the other 13 give the same pairs, reversed.
_HALF_SHIFTS = np.array([shift for shift in product((-1, 0, 1), repeat=3) if shift > (0, 0, 0)], dtype=float)
_FEW_SITES = 64
"""Whose distances to all images take little memory at once."""
_MISSING_RADIUS = 0.2  # what ase.data holds where Cordero et al. give no radius (Z > 96)
_HEAVIEST_RADIUS = 1.69  # Å, Cm, the last element of Cordero et al.
# Limits of the charge-balance search; together about 0.3 s. Past them no states are assigned.
_MAX_STATE_COMBINATIONS = 5_000
_MAX_CHARGE_SUMS = 200_000
_MAX_VALENCE_PERMUTATIONS = 1_000


def strip_oxidation_states(structure: Structure) -> Structure:
    """Return a copy whose species are plain elements (no oxidation states, no site properties)."""
    return Structure(structure.lattice, element_symbols(structure), structure.frac_coords)


def element_symbols(structure: Structure) -> list[str]:
    """Symbol of the element on each site, without its oxidation state."""
    return [site.specie.symbol if hasattr(site.specie, "symbol") else str(site.specie) for site in structure]


def to_primitive_niggli(structure: Structure, *, tolerance: float = 0.05) -> Structure:
    """Return the primitive cell in Niggli setting, fractional coordinates in [0, 1).

    Args:
        structure: Ordered structure.
        tolerance: Site tolerance in Å of the primitive-cell search.
    """
    primitive = structure.get_primitive_structure(tolerance=tolerance)
    # pymatgen's search, not moyopy's: its tolerance keeps 60.000001° and 59.999999° in one setting
    lattice = primitive.lattice.get_niggli_reduced_lattice()
    frac_coords = lattice.get_fractional_coords(primitive.cart_coords) % 1.0
    frac_coords[frac_coords >= 1.0] = 0.0  # -1e-17 % 1.0 is 1.0
    return Structure(lattice, primitive.species, frac_coords)


def structures_match(
    a: Structure, b: Structure, *, ltol: float = 0.2, stol: float = 0.3, angle_tol: float = 5.0
) -> bool:
    """Whether two ordered structures are the same crystal, in whatever cell and oxidation states.

    Volumes are scaled to each other and both cells made primitive before sites are compared.

    Args:
        a: First structure.
        b: Second structure.
        ltol: Relative tolerance of lattice lengths.
        stol: Site tolerance as a fraction of (volume / sites)^(1/3).
        angle_tol: Tolerance of lattice angles in degrees.

    Source: Ong et al., Comput. Mater. Sci. 68, 314 (2013), StructureMatcher.
    """
    a, b = strip_oxidation_states(a), strip_oxidation_states(b)
    if a.composition.reduced_formula != b.composition.reduced_formula:
        return False
    return bool(structure_matcher(ltol, stol, angle_tol).fit(a, b))


def matching_cell(basis: np.ndarray, symbols: Sequence[str], positions: np.ndarray) -> Structure:
    """The cell in which StructureMatcher compares: Niggli-reduced, then primitive.

    The reduction is spglib's, which is faster than pymatgen's; where it fails pymatgen's is taken.

    Args:
        basis: Lattice vectors as rows, Å, shape (3, 3).
        symbols: Element symbols of the N sites.
        positions: Fractional coordinates, shape (N, 3).
    """
    from spglib import niggli_reduce

    matrix = niggli_reduce(basis, eps=1e-5)
    if matrix is None:
        reduced = Structure(basis, symbols, positions).get_reduced_structure("niggli")
    else:
        lattice = Lattice(matrix)
        coords = lattice.get_fractional_coords(positions @ basis)
        reduced = Structure(lattice, symbols, coords, to_unit_cell=True)
    return reduced.get_primitive_structure() if _repeats(reduced) else reduced


def _repeats(structure: Structure, tolerance: float = 0.25) -> bool:
    """Whether ``get_primitive_structure`` may find a smaller cell; costs a tenth of asking it.

    It takes a translation only if that brings every site near one of its own element: within twice the
    tolerance (Å) along each axis. One must start at a site of the rarest element and end at another.
    """
    numbers = np.array(structure.atomic_numbers)
    elements, counts = np.unique(numbers, return_counts=True)
    if gcd(*counts.tolist()) == 1:  # then no smaller cell holds whole formula units
        return False
    near = 2 * tolerance / np.array(structure.lattice.abc)
    groups = [structure.frac_coords[numbers == element] for element in elements[np.argsort(counts)]]
    moves = groups[0][1:] - groups[0][0]
    for coords in groups:
        gaps = moves[:, None, None] + coords[None, :, None] - coords[None, None, :]
        reached = (np.abs(gaps - np.round(gaps)) <= near).all(axis=3).any(axis=2).all(axis=1)
        moves = moves[reached]
    return bool(len(moves))


def cells_match(a: Structure, b: Structure, matcher: StructureMatcher) -> bool:
    """What ``matcher.fit`` says of two structures whose ``matching_cell`` is at hand; most of its time."""
    return len(a) == len(b) and bool(matcher.fit(a, b, skip_structure_reduction=True))


@lru_cache(maxsize=8)
def structure_matcher(ltol: float = 0.2, stol: float = 0.3, angle_tol: float = 5.0) -> StructureMatcher:
    """The matcher of ``structures_match``."""
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    return StructureMatcher(
        ltol=ltol,
        stol=stol,
        angle_tol=angle_tol,
        primitive_cell=True,
        scale=True,
        comparator=ElementComparator(),
    )


def minimum_distance_ratio(structure: Structure) -> float:
    """Smallest periodic distance between two sites divided by the sum of their covalent radii.

    Every periodic image counts, a site's own included, in any cell however skewed: in a
    Minkowski-reduced cell the nearest image of a wrapped difference is within one translation.

    Args:
        structure: Ordered structure of N >= 1 sites.

    Returns:
        The ratio; 0.0 for a cell without a finite, nonzero volume.

    Source: radii of Cordero et al., Dalton Trans. 2832 (2008); beyond Cm the radius of Cm.
    """
    squared = _squared_distances(structure)
    if squared is None:
        return 0.0
    radii = covalent_radii()[[site.specie.Z for site in structure]]
    return float((np.sqrt(squared) / (radii[:, None] + radii[None])).min())


def shortest_distance(structure: Structure) -> float:
    """Shortest distance between two sites in Å, periodic images of one site included.

    0.0 for a cell without a finite, nonzero volume.
    """
    squared = _squared_distances(structure)
    return 0.0 if squared is None else float(np.sqrt(squared.min()))


def _squared_distances(structure: Structure) -> np.ndarray | None:
    """Squared distances in Å² from N sites to images of them, (N, N).

    The smaller one of the entries ij and ji is that to the nearest image. None for a cell without a finite,
    nonzero volume.
    """
    try:
        reduced = np.array(minkowski_reduce(structure.lattice.matrix.tolist())[0])
    except ValueError:
        return None
    frac_coords = structure.cart_coords @ np.linalg.inv(reduced)
    if not np.isfinite(frac_coords).all():
        return None
    difference = frac_coords[:, None] - frac_coords[None]
    difference = (difference - np.round(difference)) @ reduced
    squared: np.ndarray = np.einsum("ijk,ijk->ij", difference, difference)
    np.fill_diagonal(squared, np.inf)
    for shifts in np.array_split(_HALF_SHIFTS @ reduced, 1 if len(structure) <= _FEW_SITES else 13):
        moved = difference + shifts[:, None, None]
        np.minimum(squared, np.einsum("sijk,sijk->sij", moved, moved).min(axis=0), out=squared)
    return squared


@lru_cache(maxsize=1)
def covalent_radii() -> np.ndarray:
    """Covalent radii in Å, indexed by atomic number."""
    from ase.data import covalent_radii as radii

    return np.where(radii > _MISSING_RADIUS, radii, _HEAVIEST_RADIUS)


def with_oxidation_states(structure: Structure) -> Structure:
    """Return a copy with whole-number oxidation states, or with plain elements when none are found.

    One state per element comes from the likeliest charge-balanced guess for the formula (ICSD
    statistics, remembered per formula). A mixed-valence formula (Fe3O4) is settled site by site by
    bond valences. Alloys, elements and unbalanced formulas stay plain.
    """
    plain = strip_oxidation_states(structure)
    guess = _guess_oxidation_states(plain.composition.reduced_formula)
    if guess is None:
        return plain
    states: list[int] | None
    if all(state in _usual_states(Element(symbol)) for symbol, state in guess.items()):
        states = [round(guess[site.specie.symbol]) for site in plain]
    else:
        states = _bond_valences(plain)
    if states is None:
        return plain
    species = [Species(site.specie.symbol, state) for site, state in zip(plain, states, strict=True)]
    return Structure(plain.lattice, species, plain.frac_coords)


def _usual_states(element: Element) -> tuple[int, ...]:
    """Oxidation states that ``Composition.oxi_state_guesses`` tries."""
    return element.icsd_oxidation_states or element.common_oxidation_states


@lru_cache(maxsize=65_536)
def _guess_oxidation_states(formula: str) -> Mapping[str, float] | None:
    """Mean oxidation state per element of the likeliest neutral assignment; None when there is none."""
    composition = Composition(formula)
    amounts = {Element(symbol): int(n) for symbol, n in composition.get_el_amt_dict().items()}
    states = {el: _usual_states(el) for el in amounts}
    if len(amounts) < 2 or not all(states.values()):
        return None
    lowest = sum(n * min(states[el]) for el, n in amounts.items())
    highest = sum(n * max(states[el]) for el, n in amounts.items())
    combinations = sum(comb(len(states[el]) + n - 1, n) for el, n in amounts.items())
    sums = prod(n * (max(states[el]) - min(states[el])) + 1 for el, n in amounts.items())
    if lowest > 0 or highest < 0 or combinations > _MAX_STATE_COMBINATIONS or sums > _MAX_CHARGE_SUMS:
        return None
    guesses = composition.oxi_state_guesses(max_sites=-1)
    return MappingProxyType(guesses[0]) if guesses and any(guesses[0].values()) else None


def _bond_valences(structure: Structure) -> list[int] | None:
    """Whole-number, charge-neutral valences of N sites, or None."""
    from pymatgen.analysis.bond_valence import BVAnalyzer

    try:
        analyzer = BVAnalyzer(max_permutations=_MAX_VALENCE_PERMUTATIONS)  # type: ignore[no-untyped-call]
        valences = analyzer.get_valences(structure)
    except (ValueError, KeyError, IndexError, TypeError):  # its ways to say that none fit
        return None
    states = [round(valence) for valence in valences]
    return states if sum(states) == 0 else None
