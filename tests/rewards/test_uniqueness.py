"""Uniqueness: 1/k over the run, in any order, across a resume."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.uniqueness import Uniqueness, merged_formula

HALF = 0.5
FACE_CENTRED = [[0, 0, 0], [0, HALF, HALF], [HALF, 0, HALF], [HALF, HALF, 0]]


def rocksalt(cation: str, anion: str, a: float = 5.6) -> Structure:
    sites = FACE_CENTRED + [[x + HALF, y, z] for x, y, z in FACE_CENTRED]
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, sites)


def caesium_chloride(cation: str, anion: str) -> Structure:
    return Structure(Lattice.cubic(4.1), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def earned(reward: Uniqueness, *structures: Structure) -> list[float]:
    return [result.value for result in reward.measure(list(structures))]


def test_credit_is_shared_in_a_batch_and_falls_over_the_run() -> None:
    reward = Uniqueness(by="structure")
    assert earned(reward, rocksalt("Na", "Cl"), caesium_chloride("Cs", "Cl"), rocksalt("Na", "Cl")) == [
        0.5, 1.0, 0.5,
    ]  # fmt: skip
    assert earned(reward, rocksalt("Na", "Cl")) == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    "copy",
    [
        rocksalt("Na", "Cl"),
        rocksalt("Na", "Cl") * (2, 1, 1),
        rocksalt("Na", "Cl", a=5.656),
        rocksalt("Na", "Cl").get_primitive_structure(),
    ],
    ids=["exact", "supercell", "strained", "primitive"],
)
def test_a_later_duplicate_gets_less(copy: Structure) -> None:
    reward = Uniqueness()
    assert earned(reward, rocksalt("Na", "Cl")) == [1.0]
    assert earned(reward, copy) == [0.5]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("structure", [1, 1, 1]),
        ("formula", [1 / 2, 1 / 2, 1]),
        ("prototype", [1 / 2, 1, 1 / 2]),
        ("framework", [1 / 2, 1, 1 / 2]),
        (["structure", "formula"], [1 / 2, 1 / 2, 1]),
    ],
)
def test_kinds(by: Any, expected: list[float]) -> None:
    batch = rocksalt("Cs", "Cl"), caesium_chloride("Cs", "Cl"), rocksalt("Mg", "O")
    assert earned(Uniqueness(by=by), *batch) == expected


def test_rare_earths_count_as_one_for_prototype_and_merged_formula() -> None:
    batch = rocksalt("La", "N"), rocksalt("Nd", "N")
    assert earned(Uniqueness(by="merged_formula"), *batch) == [0.5, 0.5]
    assert earned(Uniqueness(by="family_formula"), *batch) == [0.5, 0.5]
    assert earned(Uniqueness(by="formula"), *batch) == [1.0, 1.0]
    assert merged_formula("TbTmAlAu") == "Al1 Au1 R2"


def test_exponents_and_combination() -> None:
    batch = rocksalt("Cs", "Cl"), rocksalt("Mg", "O"), rocksalt("Mg", "O")  # k structure 1 2 2, prototype 3
    options: dict[str, Any] = {"by": ["structure", "prototype"], "exponent": [1.0, 0.5]}
    third = 3**-0.5
    assert earned(Uniqueness(**options, combine="product"), *batch) == [third, 0.5 * third, 0.5 * third]
    assert earned(Uniqueness(**options, combine="minimum"), *batch) == [third, 0.5, 0.5]


def test_window_lets_a_kind_recover() -> None:
    reward = Uniqueness(by="formula", window=2)
    assert earned(reward, rocksalt("Na", "Cl")) == [1.0]
    assert earned(reward, rocksalt("Na", "Cl")) == [0.5]
    assert earned(reward, rocksalt("Mg", "O"), rocksalt("Ca", "O")) == [1.0, 1.0]
    assert earned(reward, rocksalt("Na", "Cl")) == [1.0]


def test_each_kind_has_its_own_window() -> None:
    reward = Uniqueness(by=["formula", "framework"], window=[0, 1], combine="product")
    assert earned(reward, rocksalt("Na", "Cl")) == [1.0]
    assert earned(reward, rocksalt("K", "Cl")) == [0.5]  # a framework that is remembered
    assert earned(reward, rocksalt("Na", "Cl")) == [0.25]  # and a formula of two samples ago
    with pytest.raises(ValueError, match="one window"):
        Uniqueness(by=["formula", "framework"], window=[0, -1])


@pytest.mark.parametrize("window", [0, 3, [0, 3, 1]])
def test_archive_survives_a_resume(window: object) -> None:
    batches = [[rocksalt("Na", "Cl"), rocksalt("Mg", "O")], [rocksalt("Na", "Cl")], [rocksalt("Mg", "O")] * 2]
    whole = Uniqueness(window=window)
    expected = [earned(whole, *batch) for batch in batches]
    first = Uniqueness(window=window)
    assert earned(first, *batches[0]) == expected[0]
    resumed = Uniqueness(window=window)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [earned(resumed, *batch) for batch in batches[1:]] == expected[1:]
    assert resumed.state_dict() == whole.state_dict()


def test_archive_of_other_options_is_refused() -> None:
    with pytest.raises(RewardError, match="by="):
        Uniqueness(by="formula").load_state_dict(Uniqueness(by="prototype").state_dict())


def test_what_has_no_prototype_is_not_counted() -> None:
    reward = Uniqueness(by="formula")
    flat = Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Na"], [[0, 0, 0]])
    results = reward.measure([flat, rocksalt("Na", "Cl")])
    assert isinstance(results[0], Invalid)
    assert results[1].value == 1.0
    assert reward.state_dict()["counts"] == {"formula": {"NaCl": 1}}


def test_tolerance_keeps_full_credit_up_to_a_count() -> None:
    reward = Uniqueness(by="framework", tolerance=2, exponent=2.0)
    same = [rocksalt("Na", "Cl"), rocksalt("K", "Cl")]
    assert earned(reward, *same) == [1.0, 1.0]
    assert earned(reward, rocksalt("Li", "F"), rocksalt("Li", "Cl")) == [0.25, 0.25]
    assert earned(reward, caesium_chloride("Cs", "Cl")) == [1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": 0},
        {"tolerance": [1]},
        {"by": []},
        {"by": "colour"},
        {"exponent": [1.0]},
        {"exponent": 0.0},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Uniqueness(**options)
