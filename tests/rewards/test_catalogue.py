"""Every built-in reward that measures single structures, on crystals in disguise and on junk."""

from __future__ import annotations

import math
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward

BUILT_IN = {p.name for p in entry_points(group=registry.GROUP) if p.value.startswith("materium_rl.")}
BATCH_SCOPE = {"uniqueness"}
FOREIGN = {"external", "matgl"}
"""What these do is up to a program, or a model of the user's."""
SALT, RUTILE = rock_salt(), rutile()
PEROVSKITE = Structure(
    Lattice.cubic(3.905),
    ["Sr", "Ti", *"OOO"],
    [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)
CHARGES = {"Na": 1, "Cl": -1, "Ti": 4, "O": -2, "Sr": 2}
EDGES = [[4, 0, 0], [0, 4, 0], [0, 0, 4]]

# What a network, a potential or a table has no number for; the others see places, volumes or names only.
NO_DATA = {
    "Lr": {
        "abundance",
        "bandgap",
        "bulk_modulus",
        "displacement",
        "energy_per_atom",
        "force",
        "formation_energy",
        "hhi",
        "magnetic_density",
        "shear_modulus",
        "smact_validity",
        "stability",
        "stress",
    },
    # Far below the hull: an error of the potential, which has seen no compound of neon.
    "Ne": {
        "bandgap",
        "bulk_modulus",
        "charge_neutrality",
        "hhi",
        "shear_modulus",
        "smact_validity",
        "stability",
    },
    "X": {
        "abundance",
        "bandgap",
        "bulk_modulus",
        "charge_neutrality",
        "composition",
        "composition_similarity",
        "density",
        "displacement",
        "energy_per_atom",
        "force",
        "formation_energy",
        "hhi",
        "magnetic_density",
        "n_elements",
        "shear_modulus",
        "smact_validity",
        "stability",
        "stress",
    },
}


@pytest.fixture(scope="module", params=sorted(BUILT_IN - BATCH_SCOPE - FOREIGN))
def reward(request, tmp_path_factory: pytest.TempPathFactory) -> Reward:
    """One reward with its defaults, or with as little as it must be told."""
    target: Path = tmp_path_factory.mktemp("target") / "rutile.cif"
    RUTILE.to(str(target))
    needed = {
        "composition": {"required": "O", "n_sites": "3..6"},
        "composition_similarity": {"target": "TiO2"},
        "structure_similarity": {"target": str(target)},
    }
    made = registry.create(request.param, needed.get(request.param, {}))
    made.load()
    return made


def disguises(structure: Structure) -> list[Structure]:
    """The same crystal: primitive, doubled, relabelled, with its sites in another order and origin."""
    order = np.random.default_rng(0).permutation(len(structure))
    moved = Structure.from_sites([structure[int(i)] for i in order])
    moved.translate_sites(range(len(moved)), [0.137, 0.291, 0.413])
    return [
        structure.get_primitive_structure(),
        structure.make_supercell([1, 1, 2], in_place=False),
        structure.copy().add_oxidation_state_by_element(CHARGES),
        moved,
    ]


def of(symbol: str) -> Structure:
    """Rock salt with one of its elements replaced: invented."""
    return SALT.copy().replace_species({"Na": symbol}, in_place=False)


JUNK = {
    "no sites": Structure(EDGES, [], []),
    "not a number": Structure(EDGES, ["Na", "Cl"], [[0] * 3, [math.nan, 0, 0]]),
    "infinite cell": Structure(np.array(EDGES) * math.inf, ["Na"], [[0] * 3]),
    "flat cell": Structure([[4, 0, 0], [0, 4, 0], [4, 4, 0]], ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "two sites in one place": Structure(EDGES, ["Na", "Cl"], [[0] * 3, [0] * 3]),
    "mixed site": Structure(EDGES, [{"Na": 0.5, "K": 0.5}, "Cl"], [[0] * 3, [0.5] * 3]),
    "vacuum": Structure(Lattice.orthorhombic(4, 4, 40), ["Na", "Cl"], [[0] * 3, [0.5, 0.5, 0.05]]),
    "lone atom": Structure(Lattice.cubic(30), ["Fe"], [[0] * 3]),
    "noble gas": Structure([[0, 3.07, 3.07], [3.07, 0, 3.07], [3.07, 3.07, 0]], ["Xe"], [[0] * 3]),
}


def test_disguises_make_no_difference(reward: Reward) -> None:
    for crystal in (SALT, RUTILE, PEROVSKITE):
        plain, *others = reward.measure([crystal, *disguises(crystal)])
        assert isinstance(plain, Measurement)
        # A relaxation ends somewhere below its force limit, in another cell elsewhere.
        tolerance = 0.02 if reward.name == "displacement" else 2e-4
        assert [other.value for other in others] == pytest.approx([plain.value] * 4, rel=2e-4, abs=tolerance)


@pytest.mark.parametrize("symbol", NO_DATA)
def test_what_a_model_or_table_lacks_is_a_failure(reward: Reward, symbol: str) -> None:
    """A failure, never a number; and where nothing is lacking, no failure."""
    (result,) = reward.measure([of(symbol)])
    assert isinstance(result, Failure) is (reward.name in NO_DATA[symbol]), result


def test_junk_has_an_outcome_and_spoils_nothing(reward: Reward) -> None:
    (alone,) = reward.measure([RUTILE])
    results = reward.measure([RUTILE, *JUNK.values(), RUTILE])
    assert len(results) == len(JUNK) + 2
    for result in (results[0], results[-1]):
        assert result.value == pytest.approx(alone.value, rel=1e-4, abs=1e-4)
    for name, result in zip(JUNK, results[1:-1], strict=True):
        assert _is_sound(reward, result), (name, result)
    assert isinstance(results[1], Invalid), results[1]


def _is_sound(reward: Reward, result: Result) -> bool:
    if isinstance(result, Measurement):
        return math.isfinite(result.value) and 0 <= reward.shaping()(result.value) <= 1
    return bool(result.reason)
