"""Similarity to a formula and to a structure: known distances, what makes no difference, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Composition, Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.catalogue.composition_similarity import CompositionSimilarity
from materium_rl.rewards.catalogue.structure_similarity import StructureSimilarity

SALT = rock_salt()


def of(formula: str) -> Structure:
    """Any cell of a formula."""
    symbols = [e.symbol for e, n in Composition(formula).items() for _ in range(round(n))]
    return Structure(Lattice.cubic(9), symbols, [[i / 16, i / 8, i / 4] for i in range(len(symbols))])


@pytest.fixture
def target(tmp_path: Path) -> str:
    """A file with rock salt."""
    path = tmp_path / "target.cif"
    SALT.to(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("formula", "distance"),
    [
        ("Na2Cl2", 0.0),
        ("KCl", 0.5),  # Na 11, K 10: half of the atoms move by 1
        ("NaBr", 0.5),  # Cl 99, Br 98
        ("MgO", 32.0),  # 31 and 1: Mg 73, O 101
        ("NaCl2", 1 / 6 * 88),  # a sixth of the atoms from Na to Cl
        ("Na", 44.0),
    ],
)
def test_distance_on_the_chemical_scale(formula, distance):
    (result,) = CompositionSimilarity(target="NaCl").measure([of(formula)])
    assert result.value == pytest.approx(distance)


def test_formula_that_cannot_be_placed():
    assert CompositionSimilarity(target="NaCl").shaping()(5.0) == 0.5
    (result,) = CompositionSimilarity(target="NaCl").measure([of("RfO2")])
    assert result == Failure("no Mendeleev number of Rf")
    for wrong, message in (("Rf", "no Mendeleev number of Rf"), ("Nope", "not a formula")):
        with pytest.raises(ConfigError, match=message):
            registry.create("composition_similarity", {"target": wrong})
    with pytest.raises(ConfigError, match="'target' is required"):
        registry.create("composition_similarity", {})


def test_the_same_arrangement_has_distance_zero(target):
    caesium = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0] * 3, [0.5] * 3])
    lead = SALT.copy()
    lead.replace_species({"Na": "Pb", "Cl": "S"})
    squeezed = SALT.copy().scale_lattice(150)
    results = StructureSimilarity(target=target).measure(
        [SALT, SALT.get_primitive_structure(), squeezed, lead, caesium, rutile()]
    )
    values = [result.value for result in results]
    assert values[:4] == pytest.approx([0] * 4, abs=1e-5)
    assert min(values[4:]) > 0.1
    assert [result.details["same_structure"] for result in results] == [True, True, True, False, False, False]


def test_distance_rises_with_a_distortion(target):
    distances = []
    for shift in (0.02, 0.05, 0.1):
        distorted = SALT.copy()
        distorted.translate_sites([0], [shift, 0, 0])
        distances.append(StructureSimilarity(target=target).measure([distorted])[0].value)
    assert 0 < distances[0] < distances[1] < distances[2] < 0.1


def test_structure_that_cannot_be_compared(target, tmp_path):
    reward = StructureSimilarity(target=target)
    flat = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3, [0.01] * 3])
    assert isinstance(reward.measure([flat])[0], Invalid)
    assert reward.shaping()(0.1) == 0.5
    Path(target).unlink()
    with pytest.raises(RewardError, match="structure_similarity"):
        StructureSimilarity.model_copy(reward).load()
    two = tmp_path / "two"
    two.mkdir()
    SALT.to(str(two / "a.cif"))
    rutile().to(str(two / "b.cif"))
    for wrong, message in ((two, "holds 2 structures; expected one"), (tmp_path / "no.cif", "no.cif")):
        with pytest.raises(ConfigError, match=message):
            registry.create("structure_similarity", {"target": str(wrong)})
