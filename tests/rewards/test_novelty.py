"""The tiers of novelty, and the ways in which they must not be climbed."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import AssetError
from materium_rl.rewards.base import Invalid, Measurement
from materium_rl.rewards.catalogue.novelty import BANDS, Novelty, Tier
from materium_rl.rewards.fingerprint import N_ALL, fingerprints
from materium_rl.rewards.prototypes import prototypes
from materium_rl.rewards.reference_arrays import build_arrays
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.structure_files import read_structures

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def rock_salt(cation: str = "Na", anion: str = "Cl", a: float = 5.64) -> Structure:
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, np.vstack([FCC, FCC + 0.5]))


def caesium_chloride(cation: str, anion: str, a: float) -> Structure:
    return Structure(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a_site: str = "Sr", b_site: str = "Ti", anion: str = "O", a: float = 3.905) -> Structure:
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(a), [a_site, b_site] + [anion] * 3, coords)


def rutile(cation: str = "Ti", anion: str = "O") -> Structure:
    u = 0.305
    coords = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [u, u, 0],
        [-u, -u, 0],
        [0.5 + u, 0.5 - u, 0.5],
        [0.5 - u, 0.5 + u, 0.5],
    ]
    return Structure(Lattice.tetragonal(4.594, 2.959), [cation] * 2 + [anion] * 4, coords)


def rattled(structure: Structure, amplitude: float, seed: int) -> Structure:
    """Move every atom by ``amplitude`` Å in a random direction."""
    steps = np.random.default_rng(seed).normal(size=(len(structure), 3))
    steps *= amplitude / np.linalg.norm(steps, axis=1)[:, None]
    coords = structure.cart_coords + steps
    return Structure(structure.lattice, structure.species, coords, coords_are_cartesian=True)


@cache
def index() -> ReferenceIndex:
    structures = [rock_salt(), perovskite(), caesium_chloride("Dy", "Zn", 3.5)]
    return ReferenceIndex.from_structures(structures, ["mp-1", "mp-2", "mp-3"], ["TiO2"])


@pytest.fixture
def novelty() -> Novelty:
    return Novelty().against(index())


def measured(reward: Novelty, structure: Structure) -> Measurement:
    (result,) = reward.measure([structure])
    assert isinstance(result, Measurement)
    assert 0.0 <= reward.shaping()(result.value) == result.value < 1.0
    return result


def tier_of(reward: Novelty, structure: Structure) -> str:
    return str(measured(reward, structure).details["tier"])


def relabelled(structure: Structure) -> Structure:
    copy = structure.copy()
    copy.add_oxidation_state_by_element({"Sr": 4, "Ti": 2, "O": -2})
    return copy


def disguised(structure: Structure) -> Structure:
    order = np.random.default_rng(3).permutation(len(structure))
    mixed = Structure.from_sites([structure[int(i)] for i in order])
    larger = mixed.lattice.scale(mixed.volume * 1.01**3)
    return Structure(larger, mixed.species, mixed.frac_coords + np.array([0.31, 0.17, 0.77])) * (1, 2, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: s * (2, 1, 2),
        lambda s: Structure(s.lattice.scale(s.volume * 1.01**3), s.species, s.frac_coords),
        lambda s: Structure(s.lattice, s.species, s.frac_coords + 0.237),
        lambda s: Structure.from_sites(s[::-1]),
        lambda s: rattled(s, 0.05, 0),
        relabelled,
        disguised,
    ],
    ids=["same", "supercell", "strain", "origin", "order", "rattled", "oxidation", "all"],
)
def test_a_known_structure_is_worth_nothing(novelty, change):
    result = measured(novelty, change(perovskite()))
    assert result.value == 0.0
    assert (result.details["tier"], result.details["nearest_id"]) == ("known", "mp-2")


def test_each_tier_has_its_example(novelty):
    examples = {
        Tier.KNOWN: rock_salt(),
        Tier.NEW_ARRANGEMENT: caesium_chloride("Na", "Cl", 3.5),
        Tier.SUBSTITUTION: rock_salt("K", "Br", 6.6),
        Tier.KNOWN_PROTOTYPE: rock_salt("Mg", "O", 4.21),
        Tier.NEW_PROTOTYPE: rutile("Sn", "S"),
    }
    results = {tier: measured(novelty, structure) for tier, structure in examples.items()}
    assert {tier: result.details["tier"] for tier, result in results.items()} == {tier: tier for tier in Tier}
    values = [results[tier].value for tier in Tier]
    assert all(low < high for low, high in pairwise(values))
    for tier in Tier:
        assert BANDS[tier][0] <= results[tier].value <= BANDS[tier][1]


def test_bands_do_not_overlap():
    bands = list(BANDS.values())
    assert list(BANDS) == list(Tier)
    assert all(before[1] <= after[0] for before, after in pairwise(bands))
    assert bands[-1][1] == 1.0


def test_a_formula_without_a_structure_stays_low(novelty):
    assert tier_of(novelty, rutile()) == "new_arrangement"


def test_rare_earths_are_one_element(novelty):
    assert tier_of(novelty, caesium_chloride("La", "Zn", 3.7)) == "substitution"
    coords = np.vstack(
        [FCC, FCC + 0.5, [[x, y, z] for x in (0.25, 0.75) for y in (0.25, 0.75) for z in (0.25, 0.75)]]
    )
    two = Structure(Lattice.cubic(7.0), ["Pm"] * 4 + ["Er"] * 4 + ["Cd"] * 8, coords)
    assert tier_of(novelty, two) == "substitution"


@pytest.mark.parametrize(("amplitude", "share"), [(0.05, 1.0), (0.15, 1.0), (0.2, 0.97)])
def test_rattling_does_not_make_a_new_prototype(novelty, amplitude, share):
    swapped = [rattled(perovskite("Ba", "Zr", "O", 4.2), amplitude, seed) for seed in range(40)]
    other = [rattled(perovskite("K", "Mg", "F", 4.0), amplitude, seed) for seed in range(40)]
    tiers = [result.details["tier"] for result in novelty.measure(swapped + other)]
    assert tiers[:40].count("substitution") >= share * 40
    assert tiers[40:].count("known_prototype") >= share * 40


def test_without_the_guard_rattling_would_pay():
    unguarded = Novelty(min_distance=0).against(index())
    distorted = rattled(perovskite("K", "Mg", "F", 4.0), 0.15, 0)
    assert not index().known_prototype(prototypes([distorted])[0])
    assert tier_of(unguarded, distorted) == "new_prototype"


def test_another_order_on_known_sites_is_new(novelty):
    layered = measured(
        novelty, Structure(Lattice.tetragonal(2.8, 5.6), ["Mg", "O"], [[0, 0, 0], [0, 0, 0.5]])
    )
    assert layered.details["tier"] == "new_prototype"
    assert not layered.details["new_framework"]
    assert layered.value == pytest.approx(0.7, abs=0.01)


def test_vacuum_pays_no_more_than_a_far_crystal(novelty):
    layer = Structure(Lattice.tetragonal(3.9, 40), ["Sn", "S"], [[0, 0, 0], [0.5, 0.5, 0]])
    empty = Structure(Lattice.tetragonal(3.9, 90), ["Sn", "S"], [[0, 0, 0], [0.5, 0.5, 0]])
    thin, thick = measured(novelty, layer), measured(novelty, empty)
    assert thin.details["distance"] < thick.details["distance"]
    assert thin.value == thick.value == pytest.approx(0.94)


def test_value_rises_with_distance_inside_a_tier(novelty):
    values = [measured(novelty, rattled(perovskite("K", "Mg", "F", 4.0), d, 0)).value for d in (0, 0.1, 0.2)]
    assert values[0] == pytest.approx(0.5, abs=0.01)
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05


def test_colouring_a_known_framework_pays_less_than_a_new_one(novelty):
    coloured = rock_salt("Mg", "O", 4.2)
    coloured.replace(0, "Zn")
    new = measured(novelty, rutile("Sn", "S"))
    result = measured(novelty, coloured)
    assert result.details["tier"] == new.details["tier"] == "new_prototype"
    assert not result.details["new_framework"]
    assert new.details["new_framework"]
    assert result.value == pytest.approx(0.7, abs=0.01)
    assert result.value < new.value - 0.05


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), ["H", "H"], [[0, 0, 0], [0.08, 0, 0]]), "0.32 Å apart"),
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0]]), "overlap"),
        (Structure(Lattice.cubic(4), ["Na"], [[np.nan, 0, 0]]), "finite"),
        (Structure(Lattice.orthorhombic(1.2, 1.2, 1e7), ["H"] * 2, [[0, 0, 0], [0, 0, 0.5]]), "needle"),
    ],
)
def test_junk_is_invalid(novelty, structure, reason):
    first, second = novelty.measure([structure, rock_salt()])
    assert isinstance(first, Invalid)
    assert reason in first.reason
    assert isinstance(second, Measurement)


def test_fingerprint_ignores_cell_density_and_rotation():
    cell = rutile()
    turned = Structure(
        cell.lattice.matrix[[1, 2, 0]] * 1.1, cell.species, cell.frac_coords[:, [1, 2, 0]] + 0.2
    )
    first, second, third = fingerprints([cell, turned, cell * (2, 1, 1)])
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(first, third, atol=1e-5)


def test_fingerprint_of_a_simple_cubic_lattice():
    rows = fingerprints([Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]]), rock_salt()])
    shells = np.sqrt([1.0] * 6 + [2.0] * 12 + [3.0] * 8)
    for row in rows:
        np.testing.assert_allclose(row[:26], shells, atol=1e-5)
    np.testing.assert_allclose(rows[1][N_ALL:], np.sqrt(2.0), atol=1e-5)


def test_a_reference_that_cannot_be_indexed_is_named():
    with pytest.raises(AssetError, match="mp-9"):
        build_arrays([Structure(Lattice.cubic(4), ["Na"], [[np.inf, 0, 0]])], ["mp-9"], [])


def test_a_file_that_is_no_index_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    with pytest.raises(AssetError, match="build_references"):
        ReferenceIndex.load(tmp_path / "x.npz")


def test_index_survives_a_file(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **build_arrays([rutile(), rock_salt()], ["mp-5", "mp-6"], []))
    reward = Novelty().against(ReferenceIndex.load(path))
    assert measured(reward, rutile()).details["nearest_id"] == "mp-5"
    assert measured(reward, rock_salt()).value == 0.0


def test_bundled_index_knows_the_materials_project():
    bundled = ReferenceIndex.bundled()
    assert len(bundled) == 15_990
    assert all(bundled.known_formula(formula) for formula in ("NaCl", "SrTiO3", "LiFePO4", "Fe", "Si"))
    assert not bundled.known_formula("Na7Cl3Xe")
    perfect = perovskite("Ba", "Zr", "O", 4.2)
    assert bundled.known_prototype(prototypes([perfect])[0])


def test_training_structures_are_known(shared_data):
    rows = read_structures(shared_data / "mp_train.csv.gz", limit=200).rows
    structures = [row.structure for row in rows[::5]]
    reward = Novelty()
    reward.measure(structures[:1])
    started = time.process_time()
    results = reward.measure(structures)
    per_structure = (time.process_time() - started) / len(structures)
    assert all(isinstance(result, Measurement) and result.value == 0.0 for result in results)
    assert per_structure < 0.02  # seconds; 0.002 on a quiet core
    changed = [disguised(structure) for structure in structures]
    assert all(result.value == 0.0 for result in reward.measure(changed))
