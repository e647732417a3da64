"""Prototype novelty: common, seen once, new; element swaps, colourings and distortions."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.prototype_novelty import PrototypeNovelty
from materium_rl.rewards.references import ReferenceIndex

SALT = rock_salt()
PEROVSKITE = [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def perovskite(a: str, b: str, x: str, length: float = 3.9) -> Structure:
    return Structure(Lattice.cubic(length), [a, b, x, x, x], PEROVSKITE)


def salt(cation: str, anion: str) -> Structure:
    structure = SALT.copy()
    structure.replace_species({"Na": cation, "Cl": anion})
    return structure


def moved(structure: Structure, distance: float) -> Structure:
    """All sites moved by the same distance in Å, each in a direction of its own."""
    directions = np.random.default_rng(0).normal(size=(len(structure), 3))
    steps = distance * directions / np.linalg.norm(directions, axis=1)[:, None]
    places = structure.cart_coords + steps
    return Structure(structure.lattice, structure.species, places, coords_are_cartesian=True)


@pytest.fixture(scope="module")
def index() -> ReferenceIndex:
    """Three of the rock-salt type, one perovskite, one rutile."""
    known = [salt("Na", "Cl"), salt("K", "Br"), salt("Mg", "O"), perovskite("Sr", "Ti", "O"), rutile()]
    return ReferenceIndex.from_structures(known, [f"r{i}" for i in range(len(known))])


@pytest.fixture(params=["prototype", "framework"])
def reward(request, index) -> PrototypeNovelty:
    made = PrototypeNovelty(by=request.param)
    made._references = index
    return made


def values(reward: PrototypeNovelty, *structures: Structure) -> list[float]:
    return [result.value for result in reward.measure(structures)]


def test_one_over_the_number_of_its_kind(reward):
    wurtzite = Structure.from_spacegroup(
        "P6_3mc", Lattice.hexagonal(3.25, 5.21), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
    )
    found = values(reward, salt("Pb", "S"), perovskite("Ba", "Zr", "O", 4.19), wurtzite)
    assert found == pytest.approx([1 / 4, 1 / 2, 1])
    kinds = f"references_of_{reward.by}"
    assert [r.details[kinds] for r in reward.measure([salt("Pb", "S"), wurtzite])] == [3, 0]


def test_distortions_are_worth_what_they_distort(reward):
    strained = perovskite("Sr", "Ti", "O").apply_strain([0.02, -0.01, 0.0], inplace=False)
    distorted = [moved(salt("Na", "Cl"), 0.1), moved(salt("Na", "Cl").get_primitive_structure(), 0.1)]
    assert values(reward, *distorted, strained) == pytest.approx([1 / 4, 1 / 4, 1 / 2])


def test_a_new_colouring_is_a_new_prototype_but_no_new_framework(reward):
    coloured = SALT.copy()
    coloured.replace(0, "K")
    assert values(reward, coloured) == [1.0 if reward.by == "prototype" else pytest.approx(1 / 4)]


def test_unreadable_cells_are_invalid(reward):
    overlap = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3, [0.01] * 3])
    needle = Structure(Lattice.orthorhombic(1.2, 1.2, 1e7), ["H"] * 2, [[0] * 3, [0, 0, 0.5]])
    assert all(isinstance(result, Invalid) for result in reward.measure([overlap, needle]))


def test_vacuum_and_random_sites_are_no_new_prototypes(reward):
    slab = Structure(Lattice.tetragonal(4, 40), ["Na", "Cl", "Na"], [[0] * 3, [0.5, 0.5, 0.05], [0, 0, 0.1]])
    random = np.random.default_rng(0).random((8, 3))
    junk = Structure(Lattice.cubic(5.6), ["Na", "Cl", "K", "Br"] * 2, random)
    assert all(isinstance(result, Invalid) for result in reward.measure([slab, junk]))


def test_bundled_references_and_a_missing_index():
    common, rare = PrototypeNovelty().measure([salt("Na", "Cl"), rutile()])
    assert common.value < rare.value < 0.5
    with pytest.raises(ConfigError, match="no index"):
        registry.create("prototype_novelty", {"reference": "none.npz"})
