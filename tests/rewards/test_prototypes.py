"""Prototype labels do not depend on how a structure is written down."""

from __future__ import annotations

from functools import cache

import moyopy
import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from materium_rl.rewards.base import Invalid
from materium_rl.rewards.prototypes import (
    MIRROR_IMAGES,
    Prototype,
    anonymous_formula,
    family,
    family_formula,
    prototypes,
)
from materium_rl.rewards.symmetry import SYMPREC

HANGING = [[2.269175, 0.0, -1.206542], [-2.043681, 0.568208, -1.185499], [0.0, 0.0, 2.43]]
"""A cell whose symmetry search did not end within half an hour: its vectors add up to 0.61 Å."""


def label_of(structure: Structure) -> Prototype:
    (prototype,) = prototypes([structure])
    assert isinstance(prototype, Prototype)
    return prototype


@cache
def rock_salt(cation: str = "Na", anion: str = "Cl", a: float = 5.64, first: float = 0.0) -> Structure:
    sites = [[first] * 3, [first + 0.5] * 3]
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], sites)


@cache
def perovskite(corner: str = "A", a: float = 3.905) -> Structure:
    """SrTiO3 with Sr (A) or Ti (B) at the origin."""
    if corner == "A":
        coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    else:
        coords = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(a), ["Sr", "Ti", "O"], coords)


@cache
def rutile() -> Structure:
    lattice = Lattice.tetragonal(4.594, 2.959)
    return Structure.from_spacegroup("P4_2/mnm", lattice, ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])


@cache
def olivine() -> Structure:
    """Mg2SiO4 in Pnma: an orthorhombic cell whose axes can be named in six ways."""
    coords = [[0, 0, 0], [0.277, 0.25, 0.991], [0.094, 0.25, 0.426]]
    coords += [[0.091, 0.25, 0.766], [0.447, 0.25, 0.222], [0.163, 0.033, 0.278]]
    lattice = Lattice.orthorhombic(10.2, 5.98, 4.76)
    return Structure.from_spacegroup("Pnma", lattice, ["Mg", "Mg", "Si", "O", "O", "O"], coords)


def shifted(structure: Structure, seed: int = 0) -> Structure:
    shift = np.random.default_rng(seed).random(3)
    return Structure(structure.lattice, structure.species, structure.frac_coords + shift)


def shuffled(structure: Structure, seed: int = 0) -> Structure:
    order = np.random.default_rng(seed).permutation(len(structure))
    return Structure.from_sites([structure[int(i)] for i in order])


def strained(structure: Structure, by: float = 0.01) -> Structure:
    return Structure(
        structure.lattice.scale(structure.volume * (1 + by) ** 3), structure.species, structure.frac_coords
    )


def rotated_axes(structure: Structure) -> Structure:
    return Structure(
        structure.lattice.matrix[[2, 0, 1]], structure.species, structure.frac_coords[:, [2, 0, 1]]
    )


def oxidised(structure: Structure, states: dict[str, int]) -> Structure:
    copy = structure.copy()
    copy.add_oxidation_state_by_element(states)
    return copy


@pytest.mark.parametrize("make", [rock_salt, perovskite, rutile, olivine])
@pytest.mark.parametrize(
    "change",
    [
        shifted,
        shuffled,
        strained,
        rotated_axes,
        lambda s: s.get_primitive_structure(),
        lambda s: s * (2, 1, 1),
    ],
    ids=["origin", "order", "strain", "axes", "primitive", "supercell"],
)
def test_writing_does_not_change_the_label(make, change):
    assert label_of(change(make())) == label_of(make())


def test_known_labels():
    found = label_of(perovskite())
    assert found.label == "ABC3_221_A:1(m-3m)_B:1(m-3m)_C:3(4/mm.m)"
    assert (found.formula, found.anonymous_formula, found.n_sites_primitive) == ("SrTiO3", "ABC3", 5)
    assert label_of(rutile()).space_group_number == 136
    assert label_of(rock_salt()).label == "AB_225_A:4(m-3m)_B:4(m-3m)"
    assert label_of(rock_salt()).framework_label == "A_221_A:1(m-3m)"
    assert label_of(olivine()).label == "AB2C4_62_A:4(m..)_B:4(-1)+4(m..)_C:2x4(m..)+8(1)"


def test_either_origin_gives_one_label():
    assert label_of(perovskite("A")).label == label_of(perovskite("B")).label
    assert label_of(rock_salt(first=0.0)).label == label_of(rock_salt(first=0.5)).label


def test_elements_and_oxidation_states_do_not_change_the_label():
    assert label_of(rock_salt("Mg", "O", 4.21)).label == label_of(rock_salt()).label
    assert label_of(rock_salt("Cl", "Na")).label == label_of(rock_salt()).label
    normal, odd = oxidised(rock_salt(), {"Na": 1, "Cl": -1}), oxidised(rock_salt(), {"Na": 2, "Cl": -2})
    assert label_of(normal) == label_of(odd) == label_of(rock_salt())


def test_orthorhombic_axes_have_no_name():
    def layered(lattice: Lattice, where: list[list[float]]) -> Structure:
        return Structure(lattice, ["Na", "Cl"], where)

    a = layered(Lattice.orthorhombic(3, 4, 5), [[0, 0, 0], [0, 0, 0.42]])
    b = layered(Lattice.orthorhombic(5, 3, 4), [[0, 0, 0], [0.42, 0, 0]])
    assert label_of(a).label == label_of(b).label


def test_diamond_and_zincblende_share_the_framework_only():
    def tetrahedral(first: str, second: str) -> Structure:
        return Structure.from_spacegroup("F-43m", Lattice.cubic(5.43), [first, second], [[0] * 3, [0.25] * 3])

    diamond, zincblende = label_of(tetrahedral("Si", "Si")), label_of(tetrahedral("Ga", "As"))
    assert diamond.framework_label == zincblende.framework_label == "A_227_A:8(-43m)"
    assert diamond.label != zincblende.label
    assert zincblende.label == "AB_216_A:4(-43m)_B:4(-43m)"


def test_heusler_variants():
    def heusler(number: str, quarters: dict[str, float]) -> Prototype:
        return label_of(
            Structure.from_spacegroup(
                number, Lattice.cubic(6.0), list(quarters), [[x] * 3 for x in quarters.values()]
            )
        )

    full = heusler("Fm-3m", {"Cu": 0.25, "Mn": 0.5, "Al": 0.0})
    half = heusler("F-43m", {"Li": 0.25, "Al": 0.0, "Si": 0.5})
    half_moved = heusler("F-43m", {"Li": 0.5, "Al": 0.75, "Si": 0.0})
    quaternary = heusler("F-43m", {"Li": 0.25, "Al": 0.0, "Si": 0.5, "Cu": 0.75})
    inverse = label_of(
        Structure.from_spacegroup(
            "F-43m",
            Lattice.cubic(6.0),
            ["Mn", "Mn", "Al", "Co"],
            [[0.25] * 3, [0.5] * 3, [0.0] * 3, [0.75] * 3],
        )
    )
    assert full.label == "ABC2_225_A:4(m-3m)_B:4(m-3m)_C:8(-43m)"
    assert half.label == half_moved.label == "ABC_216_A:4(-43m)_B:4(-43m)_C:4(-43m)"
    assert inverse.label == "ABC2_216_A:4(-43m)_B:4(-43m)_C:2x4(-43m)"
    assert len({full.label, half.label, quaternary.label, inverse.label}) == 4
    assert full.framework_label == quaternary.framework_label == inverse.framework_label == "A_229_A:2(m-3m)"


def test_two_rare_earths_count_as_one():
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    mixed = Structure.from_spacegroup("Fm-3m", Lattice.cubic(7.0), ["Pm", "Er", "Zn"], coords)
    plain = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Dy", "Zn"], [[0] * 3, [0.5] * 3])
    assert label_of(mixed).merged_label == label_of(plain).label
    assert label_of(mixed).family_formula == label_of(plain).family_formula == "group_12:1 rare_earth:1"
    assert label_of(mixed).label == "ABC2_225_A:4(m-3m)_B:4(m-3m)_C:8(-43m)"


def test_mirror_images_share_the_label():
    def quartz(mirrored: bool) -> Structure:
        lattice = Lattice.hexagonal(4.913, 5.405)
        left = Structure.from_spacegroup(
            "P3_221", lattice, ["Si", "O"], [[0.4697, 0, 0], [0.4135, 0.2669, 0.1191]]
        )
        if not mirrored:
            return left
        return Structure(lattice.matrix * [1, 1, -1], left.species, left.frac_coords)

    numbers = {label_of(quartz(mirrored)).space_group_number for mirrored in (False, True)}
    assert numbers == {152, 154}
    assert label_of(quartz(False)).label == label_of(quartz(True)).label
    assert all(low < high for high, low in MIRROR_IMAGES.items())


def test_a_failing_search_falls_back_on_a_smaller_tolerance():
    dimer = Structure(Lattice.orthorhombic(1.29, 1.03, 1.44), ["H"] * 2, [[0, 0, 0], [0.07, 0.14, 0.03]])
    assert _symmetry_search_fails(dimer, SYMPREC)
    assert label_of(dimer).label == "A_2_A:2(1)"  # any two like atoms are each other's inversion images


def _symmetry_search_fails(structure, symprec):
    cell = moyopy.Cell(
        structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), [s.specie.Z for s in structure]
    )
    try:
        moyopy.MoyoDataset(cell, symprec=symprec, rotate_basis=False)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), ["Na"], [[np.nan, 0, 0]]), "finite"),
        (Structure(Lattice.cubic(4), [], []), "no sites"),
        (Structure(Lattice.cubic(1e-3), ["Na"], [[0, 0, 0]]), "Å³"),
        (Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]), "several"),
        (Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0.1, 0, 0]]), "overlap"),
        (Structure(Lattice(HANGING), ["H"], [[0, 0, 0]]), "a lattice translation of 0.61 Å; limit 1 Å"),
    ],
)
def test_unreadable_structures_are_invalid(structure, reason):
    (result,) = prototypes([structure])
    assert isinstance(result, Invalid)
    assert reason in result.reason


def test_every_element_has_a_family():
    assert all(family(Element.from_Z(z).symbol) for z in range(1, 119))
    assert {family(symbol) for symbol in ("Sc", "Y", "La", "Lu")} == {"rare_earth"}
    assert family("O") != family("S") == family("Te")
    assert family("Ti") == family("Hf") != family("Nb")


def test_formulas():
    assert anonymous_formula([2, 6, 2]) == "ABC3"
    assert family_formula({"Ba": 2, "Ti": 2, "O": 6}) == "alkaline_earth:1 group_4:1 oxygen:3"
    assert family_formula({"La": 1, "Nd": 1, "O": 3}) == "oxygen:3 rare_earth:2"
    assert family_formula({"Na": 1, "K": 1, "Cl": 2}) == "alkali:1 alkali:1 halogen:2"
