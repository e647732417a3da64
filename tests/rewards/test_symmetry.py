"""Rewards on symmetry: known crystals, one search for all of them, targets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup as Group
from real_structures import rock_salt, rutile

from materium_rl.rewards import symmetry
from materium_rl.rewards.base import Failure, Measurement
from materium_rl.rewards.catalogue.counts import NumberOfElements, NumberOfSites
from materium_rl.rewards.catalogue.crystal_system import CrystalSystemRank
from materium_rl.rewards.catalogue.space_group import SpaceGroup
from materium_rl.rewards.catalogue.symmetry_order import SymmetryOrder
from materium_rl.rewards.prototypes import prototypes
from materium_rl.rewards.shared import sharing
from materium_rl.rewards.symmetry import point_group_order

COBALT = Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.51, 4.07), ["Co"], [[1 / 3, 2 / 3, 0.25]])
CORUNDUM = Structure.from_spacegroup(
    "R-3c", Lattice.hexagonal(4.758, 12.991), ["Al", "O"], [[0, 0, 0.35207], [0.30624, 0, 0.25]]
)
ZIRCONIA = Structure.from_spacegroup(
    "P2_1/c",
    Lattice.monoclinic(5.151, 5.212, 5.317, 99.23),
    ["Zr", "O", "O"],
    [[0.2754, 0.0395, 0.2083], [0.0700, 0.3317, 0.3447], [0.4496, 0.7569, 0.4792]],
)
CALCIUM_CARBONATE = Structure.from_spacegroup(  # aragonite
    "Pmcn",
    Lattice.orthorhombic(4.961, 7.967, 5.741),
    ["Ca", "C", "O", "O"],
    [[0.25, 0.415, 0.759], [0.25, 0.762, 0.914], [0.25, 0.922, 0.904], [0.473, 0.680, 0.913]],
)
KNOWN = {
    "rock salt": (rock_salt(), "cubic", 7, 48, 2, 2),
    "cobalt": (COBALT, "hexagonal", 6, 24, 2, 1),
    "corundum": (CORUNDUM, "trigonal", 5, 12, 10, 2),
    "rutile": (rutile(), "tetragonal", 4, 16, 6, 2),
    "aragonite": (CALCIUM_CARBONATE, "orthorhombic", 3, 8, 20, 3),
    "zirconia": (ZIRCONIA, "monoclinic", 2, 4, 12, 2),
}


@pytest.mark.parametrize(("structure", "system", "rank", "order", "n_sites", "n_elements"), KNOWN.values())
def test_known_crystals(structure, system, rank, order, n_sites, n_elements):
    (result,) = CrystalSystemRank().measure([structure])
    assert result == Measurement(float(rank), details={"crystal_system": system})
    assert SymmetryOrder().measure([structure]) == [Measurement(float(order))]
    assert NumberOfSites().measure([structure]) == [Measurement(float(n_sites))]
    assert NumberOfElements().measure([structure]) == [Measurement(float(n_elements))]


def test_order_of_the_point_group_is_that_of_pymatgen():
    for number in (*range(1, 231, 7), 230):
        group = Group.from_int_number(number)
        centering = {"P": 1, "A": 2, "C": 2, "I": 2, "R": 3, "F": 4}[group.symbol[0]]
        assert point_group_order(number) == group.order / centering


def test_one_search_serves_all(monkeypatch):
    searched = []
    original = symmetry.search
    monkeypatch.setattr(symmetry, "search", lambda *given: searched.append(given) or original(*given))
    structures = [rock_salt(), rutile()]
    with sharing():
        for reward in (SpaceGroup(), CrystalSystemRank(), SymmetryOrder(), NumberOfSites()):
            reward.measure(structures)
        prototypes(structures)
    assert len(searched) == len(structures)


def test_a_coarser_search_is_no_answer_at_a_finer_tolerance(monkeypatch):
    """Where only a fallback tolerance succeeds the others use it, but ``space_group`` says that it failed."""
    original = symmetry.search

    def fails_at_first(basis, positions, kinds, symprecs):
        return original(basis, positions, kinds, symprecs[1:]) if len(symprecs) > 1 else None

    monkeypatch.setattr(symmetry, "search", fails_at_first)
    assert CrystalSystemRank().measure([rock_salt()])[0].value == 7
    assert isinstance(SpaceGroup().measure([rock_salt()])[0], Failure)
    assert isinstance(SpaceGroup(symprec=0.05).measure([rock_salt()])[0], Failure)


def test_isotopes_and_charges_are_no_elements_of_their_own():
    water = Structure(Lattice.cubic(4), ["D", "H", "O"], [[0] * 3, [0.25] * 3, [0.5] * 3])
    mixed = Structure(Lattice.cubic(4), ["Fe2+", "Fe3+", "O2-"], [[0] * 3, [0.25] * 3, [0.5] * 3])
    assert NumberOfElements().measure([water, mixed]) == [Measurement(2.0)] * 2


def test_crystal_system_targets():
    assert [CrystalSystemRank().shaping()(rank) for rank in (1, 4, 7)] == [0.0, 0.5, 1.0]
    curve = CrystalSystemRank(target="tetragonal..hexagonal").shaping()
    assert [curve(rank) for rank in range(1, 8)] == [0, 0, 0, 1, 1, 1, 0]
    assert [CrystalSystemRank(target="cubic").shaping()(rank) for rank in (6, 7)] == [0, 1]
    for wrong, message in (
        ("cubical", "did you mean 'cubic'"),
        ("cubic..triclinic", "stands first"),
        (7, "Input should"),
    ):
        with pytest.raises(ValidationError, match=message):
            CrystalSystemRank(target=wrong)


def test_targets_and_defaults():
    assert [SymmetryOrder().shaping()(order) for order in (1, 48)] == [0.0, 1.0]
    assert SymmetryOrder(target=16).shaping()(16) == 1.0
    assert NumberOfSites(target=10, width=2).shaping()(12) == pytest.approx(0.5)
    assert NumberOfElements(target=4).shaping()(3) == pytest.approx(0.5)
    for reward, wrong in ((SymmetryOrder, 49), (NumberOfSites, 0), (NumberOfElements, 0)):
        with pytest.raises(ValidationError):
            reward(target=wrong)
