"""Structure prototypes: labels that name an arrangement, not the elements on it.

A label is the anonymous formula, the space group and, per species, the occupied orbits, each as
multiplicity and site symmetry: rock salt is ``AB_225_A:4(m-3m)_B:4(m-3m)``. Wyckoff letters are left
out on purpose: they depend on which of the equivalent origins was chosen, so that the same perovskite
written with another atom at the corner would look like a new prototype. For the same reason
orthorhombic site symmetries are written without their axes, and of two mirror-image space groups
the lower number stands for both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import TYPE_CHECKING

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.shared import shared_work
from materium_rl.rewards.symmetry import Symmetry, search, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure

MIRROR_IMAGES = {
    78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212,
}  # fmt: skip
"""The eleven enantiomorphic pairs of space groups: higher number -> lower number."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

RARE_EARTH = "rare_earth"
_FAMILIES = {
    "hydrogen": "H D T",
    "alkali": "Li Na K Rb Cs Fr",
    "alkaline_earth": "Be Mg Ca Sr Ba Ra",
    RARE_EARTH: " ".join(RARE_EARTHS),
    "actinide": "Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
    "group_4": "Ti Zr Hf Rf",
    "group_5": "V Nb Ta Db",
    "group_6": "Cr Mo W Sg",
    "group_7": "Mn Tc Re Bh",
    "group_8": "Fe Ru Os Hs",
    "group_9": "Co Rh Ir Mt",
    "group_10": "Ni Pd Pt Ds",
    "group_11": "Cu Ag Au Rg",
    "group_12": "Zn Cd Hg Cn",
    "boron": "B",
    "triel": "Al Ga In Tl Nh",
    "carbon": "C",
    "tetrel": "Si Ge Sn Pb Fl",
    "nitrogen": "N",
    "pnictogen": "P As Sb Bi Mc",
    "oxygen": "O",
    "chalcogen": "S Se Te Po Lv",
    "halogen": "F Cl Br I At Ts",
    "noble_gas": "He Ne Ar Kr Xe Rn Og",
}
_FAMILY_OF = {symbol: name for name, symbols in _FAMILIES.items() for symbol in symbols.split()}


@dataclass(frozen=True, slots=True)
class Prototype:
    """What a structure is called once its elements are put aside.

    Args:
        formula: Reduced formula, oxidation states ignored.
        anonymous_formula: Reduced amounts in rising order (``ABC3``).
        space_group_number: At ``SYMPREC``; 1 where no symmetry search succeeded.
        label: The prototype.
        merged_label: The prototype with all rare earths taken as one element, so that writing two
            of them on one known site does not make a new prototype. Mostly equal to ``label``.
        merged_anonymous_formula: Anonymous formula that belongs to ``merged_label``.
        framework_label: The prototype with all sites taken as one element.
        family_formula: The formula in chemical families (see ``family_formula``).
        n_sites_primitive: Sites in the primitive cell.
    """

    formula: str
    anonymous_formula: str
    space_group_number: int
    label: str
    merged_label: str
    merged_anonymous_formula: str
    framework_label: str
    family_formula: str
    n_sites_primitive: int


def family(symbol: str) -> str:
    """Chemical family of an element: the elements that commonly replace it in the same structure.

    The periodic group, except that scandium, yttrium and the lanthanides are one family, so are the
    actinides, and that H, B, C, N and O, whose compounds differ from those of their heavier congeners
    (an oxide is no sulfide), stand alone.

    Raises:
        KeyError: If ``symbol`` is not an element.
    """
    return _FAMILY_OF[symbol]


def family_formula(amounts: Mapping[str, float]) -> str:
    """Write a composition in chemical families, e.g. ``alkaline_earth:1 group_4:1 oxygen:3``.

    Rare earths are added up as one element. Other elements of one family stay apart
    (``alkali:1 alkali:1 halogen:2``), as a double salt is not a simple one.

    Args:
        amounts: Element symbol -> whole number of atoms, in a cell of any size.
    """
    merged: Counter[str] = Counter()
    for symbol, amount in amounts.items():
        merged[RARE_EARTH if family(symbol) == RARE_EARTH else symbol] += round(amount)
    divisor = gcd(*merged.values())
    terms = [(_FAMILY_OF.get(key, key), n // divisor) for key, n in merged.items()]
    return " ".join(f"{name}:{n}" for name, n in sorted(terms))


def anonymous_formula(counts: Sequence[int]) -> str:
    """Anonymous formula of the numbers of atoms per species: (2, 6, 2) -> ``ABC3``."""
    divisor = gcd(*counts)
    amounts = sorted(count // divisor for count in counts)
    return "".join(letter + (str(n) if n > 1 else "") for letter, n in zip(_LETTERS, amounts, strict=False))


@shared_work("prototype", stored_as=Prototype)
def prototypes(structures: Sequence[Structure]) -> list[Prototype | Invalid]:
    """Label N structures (about 0.5 ms each).

    Returns:
        N prototypes; ``Invalid`` for a structure without sites or volume, with non-finite numbers,
        with disorder, or with species that are no elements.
    """
    found = symmetries(structures)
    return [
        item if isinstance(item, Invalid) else _prototype(structure, item)
        for structure, item in zip(structures, found, strict=True)
    ]


def _prototype(structure: Structure, symmetry: Symmetry | Failure) -> Prototype:
    from pymatgen.core import Composition

    basis, positions = structure.lattice.matrix, structure.frac_coords
    symbols = [site.specie.symbol for site in structure]
    amounts = Counter(symbols)
    data = symmetry if isinstance(symmetry, Symmetry) else None
    label = _label(symbols, data)
    merged = _merge_rare_earths(symbols)
    merged_label = label if merged == symbols else _label(merged, search(basis, positions, merged))
    blank = ["X"] * len(symbols)
    framework = label if len(amounts) == 1 else _label(blank, search(basis, positions, blank))
    return Prototype(
        formula=Composition(amounts).reduced_formula,
        anonymous_formula=anonymous_formula(list(amounts.values())),
        space_group_number=data.space_group_number if data else 1,
        label=label,
        merged_label=merged_label,
        merged_anonymous_formula=anonymous_formula(list(Counter(merged).values())),
        framework_label=framework,
        family_formula=family_formula(amounts),
        n_sites_primitive=data.n_sites_primitive if data else len(symbols),
    )


def _merge_rare_earths(symbols: list[str]) -> list[str]:
    present = RARE_EARTHS.intersection(symbols)
    if len(present) < 2:
        return symbols
    return ["La" if symbol in present else symbol for symbol in symbols]


def _label(kinds: list[str], symmetry: Symmetry | None) -> str:
    """Label of a cell whose N sites carry ``kinds``; of P1 where no symmetry search succeeded."""
    counts = Counter(kinds)
    orbits: dict[str, Counter[str]] = {kind: Counter() for kind in counts}
    if symmetry is None:
        space_group = 1
        for kind, count in counts.items():
            orbits[kind]["1(1)"] = count
    else:
        number = symmetry.space_group_number
        space_group = MIRROR_IMAGES.get(number, number)
        for representative, size in Counter(symmetry.orbits).items():
            multiplicity = size * symmetry.n_sites_conventional // len(kinds)
            symbol = _site_symmetry(symmetry.site_symmetries[representative], space_group)
            orbits[kinds[representative]][f"{multiplicity}({symbol})"] += 1
    species = sorted((count, _orbit_text(orbits[kind])) for kind, count in counts.items())
    parts = [f"{letter}:{text}" for letter, (_, text) in zip(_LETTERS, species, strict=False)]
    return "_".join([anonymous_formula(list(counts.values())), str(space_group), *parts])


def _orbit_text(orbits: Counter[str]) -> str:
    return "+".join(f"{n}x{orbit}" if n > 1 else orbit for orbit, n in sorted(orbits.items()))


@cache
def _site_symmetry(symbol: str, space_group: int) -> str:
    """Drop the axes from an orthorhombic symbol: ``m2m`` and ``2mm`` become ``2mm``, ``.2.`` ``2..``."""
    if not 16 <= space_group <= 74:
        return symbol
    axes = re.findall(r"2/m|-1|[12m.]", symbol)
    return "".join(sorted(axes, key=lambda axis: (axis == ".", axis)))
