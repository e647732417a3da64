"""Space groups of known crystals, tolerances, and cells whose search would not return."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue.space_group import FIRST_AND_LAST, SpaceGroup

CRYSTALS = {
    225: Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    221: Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.945), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]
    ),
    194: Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.51, 4.07), ["Co"], [[1 / 3, 2 / 3, 0.25]]),
    167: Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(4.805, 13.116), ["Al", "O"], [[0, 0, 0.35207], [0.30624, 0, 0.25]]
    ),
    136: Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.65, 2.97), ["Ti", "O"], [[0] * 3, [0.305, 0.305, 0]]
    ),
}


def test_known_crystals():
    results = SpaceGroup().measure(list(CRYSTALS.values()))
    assert results == [Measurement(float(number)) for number in CRYSTALS]


def test_same_group_in_another_cell_and_with_oxidation_states():
    salt = CRYSTALS[225]
    charged = salt.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    others = [charged, salt.get_primitive_structure(), salt.make_supercell([1, 1, 2], in_place=False)]
    assert SpaceGroup().measure(others) == [Measurement(225.0)] * 3


def test_tolerance_decides_on_a_small_distortion():
    distorted = CRYSTALS[221].copy()
    distorted.translate_sites([1], [0, 0, 0.05 / 3.945])
    assert SpaceGroup().measure([distorted]) == [Measurement(221.0)]
    assert SpaceGroup(symprec=0.01).measure([distorted]) == [Measurement(99.0)]


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(5), ["Na", "Cl"], [[0] * 3, [0.01] * 3]), "overlap"),
        (Structure(Lattice.orthorhombic(0.61, 6, 6), ["H"], [[0] * 3]), "translation of 0.61 Å"),
        (Structure(Lattice.cubic(4), [], []), "no sites"),
        (Structure(Lattice.cubic(4), ["Na"], [[float("nan"), 0, 0]]), "not finite"),
    ],
)
def test_cells_whose_search_may_hang_are_refused(structure, reason):
    (result,) = SpaceGroup().measure([structure])
    assert isinstance(result, Invalid)
    assert reason in result.reason


def test_a_search_that_fails_is_no_space_group_one(monkeypatch):
    monkeypatch.setattr("materium_rl.rewards.symmetry.search", lambda *_: None)
    assert isinstance(SpaceGroup().measure([CRYSTALS[225]])[0], Failure)


def test_score_is_one_in_the_wanted_group_or_system_only():
    curve = SpaceGroup(target=194).shaping()
    assert [curve(number) for number in (193, 194, 195)] == [0.0, 1.0, 0.0]
    curve = SpaceGroup(target="tetragonal").shaping()
    assert [curve(number) for number in (74, 75, 142, 143)] == [0.0, 1.0, 1.0, 0.0]
    for wrong in (
        {"target": 0},
        {"target": 231},
        {"target": "quasicrystal"},
        {"symprec": 0},
        {"symprec": 0.5},
    ):
        with pytest.raises(ValidationError):
            SpaceGroup(**wrong)


def test_crystal_systems_cover_every_group_once():
    groups = [number for low, high in FIRST_AND_LAST.values() for number in range(low, high + 1)]
    assert groups == list(range(1, 231))


def test_crystal_systems_are_those_of_pymatgen():
    from pymatgen.symmetry.groups import SpaceGroup as Group

    for system, ends in FIRST_AND_LAST.items():
        for number in ends:
            assert Group.from_int_number(number).crystal_system == system
