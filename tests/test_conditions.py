"""Conditions as the user writes them, their values in structures, and what a training keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Structure
from pymatgen.symmetry.groups import SpaceGroup
from tiny import OPTIONS, in_process, small_structures, write_policy

from materium_rl.conditions import CONDITIONS, Conditions, check_values, combinations, crystal_system
from materium_rl.config import GenerateConfig, PretrainConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.generate import generate, out_of_range
from materium_rl.labels import COMPUTED, conditions_of, label, load_labels, measure, save_labels, statistics
from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.pretrain import pretrain
from materium_rl.structure_files import StructureRow, write_structures

NAMES = ("formula", "chemical_system", "n_sites", "space_group", "density", "band_gap")
CELL = Structure.from_spacegroup(
    "Fm-3m", [[5.64, 0, 0], [0, 5.64, 0], [0, 0, 5.64]], ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()


def rows() -> list[StructureRow]:
    return [
        StructureRow(s, f"row {i}", {"band_gap": float(i)} if i % 2 else {})
        for i, s in enumerate(small_structures()[:6])
    ]


def test_crystal_systems_are_those_of_pymatgen() -> None:
    for number in range(1, 231):
        assert crystal_system(number) == SpaceGroup.from_int_number(number).crystal_system


def test_formulas_and_systems_are_normalised() -> None:
    conditions = Conditions(formula="Fe4O6", chemical_system="O - Fe")
    assert conditions.formula == "Fe2O3"
    assert conditions.chemical_system == ("Fe", "O")
    assert list(conditions.given()) == ["formula", "chemical_system"]


def test_lists_give_the_grid() -> None:
    grid = combinations({"band_gap": (1, 2), "space_group": (225, 62)})
    assert [(c.band_gap, c.space_group) for c in grid] == [(1, 225), (1, 62), (2, 225), (2, 62)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour=1", "unknown condition 'colour'"),
        ("bandgap=1", "did you mean 'band_gap'"),
        ("band_gap=-1", "band_gap=-1: Input should be greater than or equal to 0"),
        ("band_gap=nan", "band_gap=nan: Input should be a finite number"),
        ("density=0", "density=0: Input should be greater than 0"),
        ("space_group=231", "space_group=231: Input should be less than or equal to 230"),
        ("crystal_system=round", "crystal_system=round: Input should be 'triclinic'"),
        ("formula=LiXx", "'LiXx' is not a formula"),
        ("chemical_system=Li-Q", "'Q' is not an element"),
        ("band_gap", "expected name=value"),
    ],
)
def test_wrong_conditions_are_refused(tmp_path: Path, monkeypatch, capsys, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = in_process(monkeypatch, capsys)("generate", "--condition", text)
    assert code == 2
    assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_a_policy_without_conditions_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    policy = write_policy(tmp_path / "policy")
    code, _, err = in_process(monkeypatch, capsys)(
        "generate", "--policy", str(policy), "--condition", "band_gap=1"
    )
    assert code == 2
    assert "has not learnt the condition band_gap" in " ".join(err.split())
    assert not (tmp_path / "generated").exists()


def test_values_of_rock_salt() -> None:
    found = measure([CELL], CONDITIONS)
    assert list(found) == list(CONDITIONS)
    assert found["formula"] == ["NaCl"]
    assert found["chemical_system"] == ["Cl-Na"]
    assert found["n_sites"] == [2]
    assert found["space_group"] == [225]
    assert found["crystal_system"] == ["cubic"]
    assert found["density"][0] == pytest.approx(2.16, abs=0.02)
    assert found["band_gap"][0] == pytest.approx(5.0, abs=0.3)
    assert found["magnetic_density"][0] == pytest.approx(0.0, abs=0.002)


def test_data_come_before_measurements_and_do_not_mix() -> None:
    frame = label(rows(), NAMES)
    assert frame.attrs[COMPUTED] == ["space_group", "density"]
    gaps = frame["band_gap"].tolist()
    assert gaps[1::2] == [1.0, 3.0, 5.0]
    assert all(np.isnan(gap) for gap in gaps[::2])  # DFT's for some, so no network's for the others
    assert frame["formula"].tolist() == [s.composition.reduced_formula for s in small_structures()[:6]]


def test_an_impossible_value_in_the_data_is_named() -> None:
    bad = [StructureRow(CELL, "salt.cif", {"density": -2.0})]
    with pytest.raises(ConfigError, match=r"salt.cif: density = -2.0"):
        label(bad, ["density"])


def test_labels_survive_saving(tmp_path: Path) -> None:
    frame = label(rows(), NAMES)
    save_labels(frame, tmp_path / "labels.parquet")
    loaded = load_labels(tmp_path / "labels.parquet", rows()[::-1], NAMES)
    assert conditions_of(loaded) == conditions_of(frame)[::-1]
    assert loaded.attrs[COMPUTED] == frame.attrs[COMPUTED]
    with pytest.raises(ConfigError, match="lacks hhi"):
        load_labels(tmp_path / "labels.parquet", rows(), ["hhi"])
    with pytest.raises(ConfigError, match="no labels of other"):
        load_labels(tmp_path / "labels.parquet", [StructureRow(CELL, "other", {})], NAMES)


def test_statistics_of_the_training_values() -> None:
    labels = [Conditions(density=d, space_group=g) for d, g in ((2.0, 225), (8.0, 62), (4.0, 225))]
    known = statistics(labels, ["density", "space_group"], ["density"])
    assert known["density"]["mean"] == pytest.approx(np.log([2, 8, 4]).mean())
    assert known["density"]["computed"]
    assert known["space_group"] == {"count": 3, "computed": False, "seen": [62, 225]}
    with pytest.raises(ConfigError, match="no training structure has a value of hhi"):
        statistics(labels, ["hhi"], [])


def test_what_is_far_from_the_training_values_is_named() -> None:
    known = {"band_gap": {"low": 0.0, "high": 6.0}, "space_group": {"seen": [225]}}
    asked = [Conditions(band_gap=5.0, space_group=225), Conditions(band_gap=9.0, space_group=2)]
    assert out_of_range(asked, known) == [
        "no training structure has space_group=2",
        "band_gap=9 is far outside the training values, 99 % of which are 0 to 6 eV",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a policy that learns conditions."""
    folder = tmp_path_factory.mktemp("conditional")
    data = folder / "data.parquet"
    structures = small_structures()
    write_structures(structures, data, properties=[{"band_gap": i / 10} for i in range(len(structures))])
    quick = {"epochs": 100, "eval_every": 50, "learning_rate": 3e-3, "batch_size": 40, "ema_decay": 0.9}
    sets = [*OPTIONS, *(f"training.{key}={value}" for key, value in quick.items())]
    sets += [
        "model.hidden_size=64",
        "model.dropout=0",
        "conditions.dropout=0.2",
        f"conditions.names=[{', '.join(NAMES)}]",
    ]
    config = load_config(PretrainConfig, [], {"data": data, "validation_data": data}, sets)
    return pretrain(config, folder / "run")


def test_a_training_keeps_labels_and_statistics(trained: Path) -> None:
    config = json.loads((trained / "policy" / "config.json").read_text())
    assert set(config["condition_statistics"]) == set(NAMES)
    assert config["condition_statistics"]["space_group"]["computed"]
    assert not config["condition_statistics"]["band_gap"]["computed"]
    assert len(pd.read_parquet(trained / "labels_training.parquet")) == len(small_structures())
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all(row["validation/nats_with_all_conditions"] > 0 for row in metrics)


def test_it_learns_to_follow_them(trained: Path) -> None:
    policy = load_policy(trained)
    formulas = [s.composition.reduced_formula for s in small_structures()[:16]] * 4
    for wanted in ({"n_sites": [2, 3] * 32}, {"formula": formulas}):
        ((name, values),) = wanted.items()
        asked = policy.model.encode_conditions([Conditions(**{name: value}) for value in values])
        hits = []
        for conditions in (asked, None):
            drawn = sample_many(policy.model, 64, seed=1, conditions=conditions)
            found = measure([policy.codec.decode(ids.tolist()) for ids in drawn.ids], [name])[name]
            hits.append(np.mean([a == b for a, b in zip(found, values, strict=True)]))
        print(name, hits)
        assert hits[0] > hits[1] + 0.3


def test_generated_files_hold_request_and_value(trained: Path, tmp_path: Path, capsys) -> None:
    config = GenerateConfig(
        policy=str(trained),
        n=3,
        conditions={"band_gap": (0.5, 50), "n_sites": 2},
        guidance=1.5,
        out=tmp_path / "out",
    )
    table = pd.read_parquet(generate(config) / "generated.parquet")
    assert table["condition_band_gap"].tolist() == [0.5] * 3 + [50.0] * 3
    assert table["condition_n_sites"].tolist() == [2] * 6
    assert table["measured_n_sites"].tolist() == table["n_sites"].tolist()
    requested = {"condition_band_gap", "condition_n_sites"}
    assert requested <= set(table)
    printed = capsys.readouterr()
    assert "band_gap=50 is far outside the training values" in printed.err
    assert "band_gap 0.5: median" in printed.out


def test_checks_need_no_policy() -> None:
    check_values({"band_gap": ("1", "2.5")})
    with pytest.raises(ValueError, match="unknown condition"):
        check_values({"gap": (1,)})
