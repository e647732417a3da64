"""``evaluate`` from files and policies to its folder, judged by a potential that is always at hand (EMT)."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import Elements
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile
from small_run import write_run
from tiny import Command, in_process, write_policy

from materium_rl.config import EvaluateConfig, EvaluatorConfig, RewardConfig, load_config
from materium_rl.errors import ConfigError, RewardError
from materium_rl.evaluation.discoveries.sources import read_samples
from materium_rl.evaluation.evaluate import judges
from materium_rl.evaluation.evaluate.agreement import agreement
from materium_rl.evaluation.evaluate.command import evaluate
from materium_rl.evaluation.evaluate.inputs import check_options, kind_of, read_source
from materium_rl.evaluation.evaluate.record import EvaluationRecord
from materium_rl.structure_files import write_structures

EMT = "ase.calculators.emt:EMT"
JUDGE = EvaluatorConfig(potential=EMT, scale="uncorrected", relax=8)
SCHEMA = Path(judges.__file__).parent.parent / "schemas" / "evaluation.schema.json"
REQUESTED = 10


def copper(a: float = 3.61) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Cu"], [[0] * 3])


def gold_copper() -> Structure:
    """Cu3Au, one site off its place, so that a relaxation moves it."""
    return Structure(
        Lattice.cubic(3.75),
        ["Au", "Cu", "Cu", "Cu"],
        [[0.02, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )


CRYSTALS = (
    copper(),
    copper(3.65) * (1, 1, 2),  # the same crystal
    gold_copper(),
    rock_salt(),  # EMT knows neither element
    rutile(),
    Structure(Lattice.cubic(4.0), ["Cu", "Cu"], [[0] * 3, [0.03, 0, 0]]),  # sites overlap
    Structure(Lattice.cubic(3.0), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),  # far above the hull
)


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CIF files, one of them broken."""
    folder = tmp_path_factory.mktemp("evaluate") / "crystals"
    write_structures(CRYSTALS, folder)
    (folder / "broken.cif").write_text("data_broken\n_cell_length_a nonsense\n")
    return folder


@pytest.fixture(scope="module")
def reference(crystals: Path) -> Path:
    path = crystals.parent / "known.extxyz"
    write_structures([rock_salt(), copper(), copper(3.6)], path)
    return path


@pytest.fixture(scope="module")
def out(crystals: Path, reference: Path) -> Path:
    """The folder of one evaluation."""
    return evaluate(
        EvaluateConfig(
            source=str(crystals),
            requested=REQUESTED,
            reference=str(reference),
            targets=("n_sites=1..4", "density=5.."),
            evaluator=JUDGE,
            out=crystals.parent / "out",
        )
    )


@pytest.fixture(scope="module")
def record(out: Path) -> EvaluationRecord:
    return EvaluationRecord.model_validate_json((out / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "structures.parquet")


def share(count: int) -> float:
    return count / REQUESTED


def test_what_was_requested_is_the_denominator(record: EvaluationRecord, table: pd.DataFrame) -> None:
    assert len(table) == record.source.requested == REQUESTED
    assert record.source.given == 8
    found = {key: record.figures[key].value for key in ("parsed", "valid", "unique", "charge_neutral")}
    assert found == {"parsed": share(7), "valid": share(6), "unique": share(5), "charge_neutral": share(6)}
    assert list(record.not_read) == ["broken.cif"]
    assert table["source"].tolist()[7:] == ["broken.cif", "not in the files", "not in the files"]


def test_each_judge_counts_what_it_could_measure(record: EvaluationRecord, table: pd.DataFrame) -> None:
    assert list(record.judges) == ["reward", "evaluator", "relaxed"]
    measured = [(judge.measured, judge.failed) for judge in record.judges.values()]
    assert measured == [(6, 0), (3, 3), (3, 3)]
    assert [judge.label for judge in record.judges.values()] == [
        "optimised proxy",
        "independent",
        "independent",
    ]
    assert record.label == record.panel.label == "independent"
    for key, judge in record.judges.items():
        for verdict, figure in judge.figures.items():
            assert figure.value == table[f"{key}.{verdict}"].sum() / REQUESTED
    own = record.judges["reward"].figures
    assert own["metastable"].value == share(5)  # all valid ones but the last
    assert own["sun"].value == own["msun"].value == 0.0  # every formula is known


def test_a_verdict_is_that_of_its_energy(table: pd.DataFrame) -> None:
    for judge, column in (("reward", "stability"), ("evaluator", "evaluator"), ("relaxed", "relaxed")):
        energy = table[f"{column}.value"].to_numpy(dtype=float)
        assert table[f"{judge}.stable"].tolist() == (energy <= 0).tolist()
        assert table[f"{judge}.metastable"].tolist() == (energy < 0.1).tolist()


def test_only_distinct_valid_structures_are_relaxed(record: EvaluationRecord, table: pd.DataFrame) -> None:
    assert record.relaxation is not None
    assert (record.relaxation.relaxed, record.relaxation.failed, record.relaxation.not_relaxed) == (5, 3, 0)
    assert table["relaxed.row"].dropna().tolist() == [0, 0, 2, 3, 4, 6]
    assert table["relaxed.value"][1] == table["relaxed.value"][0]
    assert table["relaxed.rmsd"][0] == pytest.approx(0, abs=1e-9)  # symmetry fixes every site
    assert table["relaxed.rmsd"][2] > 0.02  # gold goes back to its corner
    assert table["relaxed.value"][2] < table["evaluator.value"][2]
    relaxed = Structure.from_str(table["relaxed.cif"][2], fmt="cif")
    assert relaxed.composition.reduced_formula == "Cu3Au"


def test_every_verdict_has_its_reason(table: pd.DataFrame) -> None:
    why = [column for column in table if column.startswith("why.")]
    assert set(why) >= {f"why.{k}" for k in ("parsed", "valid", "charge_neutral", "unique", "novel")}
    assert set(why) >= {"why.reward", "why.evaluator", "why.relaxed", "why.target.density"}
    assert all(isinstance(text, str) and text for column in why for text in table[column])
    assert table["why.unique"].tolist()[:2] == [
        "the first of its structure",
        "the same structure as row 0, 000000.cif",
    ]
    assert "covalent radii; limit" in table["why.valid"][5]
    assert "NotImplementedError" in table["why.evaluator"][3]
    assert table["why.parsed"][7].startswith("unreadable")
    assert table["why.parsed"][9] == "the completion is not a structure"
    assert "eV/atom above the hull (CHGNet 0.3.0, as written)" in table["why.reward"][0]


def test_novelty_against_the_given_reference(record: EvaluationRecord, table: pd.DataFrame) -> None:
    found = {(s.reference, s.stage, s.level): s.count for s in record.novelty}
    assert found["reference", "as_written", "new_formula"] == 2  # Cu3Au and TiO2
    assert found["reference", "as_written", "new_structure"] == 3  # and NaCl as caesium chloride
    assert {reference for reference, _, _ in found} == {"training", "materials_project", "reference"}
    assert table["ladder.reference.new_structure"].tolist()[:5] == [False, False, True, False, True]
    assert not table["novel"].any()


def test_distances_and_coverage_are_those_of_the_given_reference(record: EvaluationRecord) -> None:
    assert (record.reference.structures, record.reference.left_out) == (3, [])
    assert {name: (c.met, c.known) for name, c in record.coverage.items()} == {
        "formulas": (2, 2),
        "prototypes": (2, 2),
        "structures": (3, 3),
    }
    assert set(record.distances) == {
        "elements", "space_groups", "n_sites", "n_elements", "density", "volume_per_atom",
    }  # fmt: skip


def test_hits(record: EvaluationRecord, table: pd.DataFrame) -> None:
    hits = {target.property: target.hits.value for target in record.targets}
    assert hits["n_sites"] == share(3)  # of what is valid: Cu3Au, ..., see below
    assert table["target.n_sites"].tolist()[:7] == [True, False, True, False, False, False, True]
    assert hits["density"] == share(3)
    assert [t.property for t in record.targets] == ["band_gap", "n_sites", "density"]


def test_judges_are_compared(record: EvaluationRecord, table: pd.DataFrame) -> None:
    found = record.agreement["potentials"]
    both = table["evaluator.e_above_hull_raw"].notna()
    difference = (table["evaluator.e_above_hull_raw"] - table["stability.e_above_hull_raw"])[both].astype(
        float
    )
    assert found.n == 3
    assert found.median_difference.value == pytest.approx(float(difference.median()))
    assert record.agreement["band_gap"].n == 6


def test_report_says_what_the_record_says(out: Path, record: EvaluationRecord) -> None:
    report = (out / "report.md").read_text()
    assert record.headline in report
    assert "which the reward (chgnet) did not use" in report
    assert "broken.cif: unreadable" in report
    assert "5 distinct valid structures relaxed" in report
    assert "\n| valid | 60.0 (" in report
    for section in ("Funnel", "Novelty ladder", "Distance from the reference", "On target", "Definitions"):
        assert f"## {section}" in report


def test_page_says_what_the_record_says(out: Path, record: EvaluationRecord) -> None:
    page = Elements((out / "report.html").read_text(encoding="utf-8"))
    page.check()
    told = [text.strip() for _, text in page.texts]
    assert f"{record.headline}." in told
    assert "60.0" in told  # valid
    assert any("broken.cif" in text for text in told)
    for section in (
        "Funnel",
        "Judges",
        "Relaxation",
        "Novelty ladder",
        "On target",
        "Distance from the reference",
    ):
        assert section in told


def test_the_schema_is_the_one_that_is_shipped() -> None:
    assert json.loads(SCHEMA.read_text()) == EvaluationRecord.model_json_schema()


def test_its_table_is_a_source_again(out: Path, table: pd.DataFrame) -> None:
    assert kind_of(str(out)) == "files"
    again = read_source(EvaluateConfig(source=str(out)))
    assert (len(again.structures), again.requested) == (REQUESTED, REQUESTED)
    samples = read_samples(out)
    assert samples.frame["relaxed.value"].notna().sum() == table["relaxed.value"].notna().sum()


def test_policy_is_sampled(tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy")
    config = EvaluateConfig(source=str(policy), n=3, seed=5, evaluator=EvaluatorConfig(potential="chgnet"))
    source = read_source(config)
    assert (source.kind, source.requested, len(source.structures)) == ("policy", 3, 3)
    assert source.origin["seed"] == 5
    record_file = evaluate(config.model_copy(update={"out": tmp_path / "out"})) / "evaluation.json"
    record = json.loads(record_file.read_text())
    assert record["label"] == "optimised proxy"
    assert list(record["judges"]) == ["reward"]
    assert "Every figure here is an optimised proxy" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_is_its_policy_and_brings_its_reward(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with pytest.raises(ConfigError, match="no policy in"):
        kind_of(str(run))
    write_policy(run / "policy")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("novelty+bandgap", "stability('sevenn') + novelty"))
    checked = check_options(EvaluateConfig(source=str(run)))
    assert kind_of(str(run)) == "policy"
    assert checked.reward.expression == "stability('sevenn') + novelty"
    mine = EvaluateConfig(source=str(run), reward=RewardConfig(expression="density(target=3, width=1)"))
    assert check_options(mine).reward.expression == "density(target=3, width=1)"


@pytest.mark.parametrize(
    ("expression", "gates", "installed", "evaluator", "label"),
    [
        ("novelty", ("validity",), ("sevenn", "chgnet"), "sevenn", "independent"),
        ("novelty", ("stability('sevenn')",), ("sevenn", "chgnet"), "chgnet", "independent"),
        ("novelty+force", ("stability('sevenn')",), ("sevenn", "chgnet"), None, "optimised proxy"),
        ("novelty", ("stability",), ("chgnet",), None, "optimised proxy"),
        ("novelty+displacement", ("stability('sevenn')",), ("sevenn", "chgnet"), None, "optimised proxy"),
    ],
)
def test_the_evaluator_is_none_of_the_potentials_of_the_reward(
    monkeypatch, expression, gates, installed, evaluator, label
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    panel = judges.choose(EvaluatorConfig(), RewardConfig(expression=expression, gates=gates))
    assert (panel.evaluator, panel.label) == (evaluator, label)
    assert bool(panel.reason) == (label == "optimised proxy")


def test_an_evaluator_that_the_reward_uses_is_no_judge():
    panel = judges.choose(EvaluatorConfig(potential="chgnet"), RewardConfig())
    assert (panel.label, panel.reason) == (
        "optimised proxy",
        "the evaluator chgnet is a potential of the reward",
    )
    assert not panel.is_second


def test_relax_within_leaves_the_rest_alone(crystals: Path) -> None:
    frame = pd.DataFrame(
        {
            "valid": [True, True, True, True],
            "group": [0, 0, 1, 2],
            "stability.value": [0.0, 0.0, 0.5, math.nan],
            "evaluator.value": [0.05, 0.05, 0.5, math.nan],
        }
    )
    structures = [copper(), copper(), gold_copper(), copper(4.0)]
    near = JUDGE.model_copy(update={"relax_within": 0.1, "relax": 1})
    found = judges.relax(frame, structures, judges.choose(near, RewardConfig()), RewardConfig())
    assert found["relaxed.outcome"].tolist() == ["ok", "ok", "not relaxed", "not relaxed"]
    assert found["relaxed.reason"].tolist()[2:] == [
        "0.500 eV/atom above the hull as it is written",
        "no energy as it is written",
    ]


def test_agreement() -> None:
    first, second = np.array([0.0, 0.2, 0.05, math.nan, 0.3]), np.array([0.1, 0.2, 0.25, 0.0, math.nan])
    verdicts = {"below 0.1": (first < 0.1, second < 0.1)}
    found = agreement(("a", first), ("b", second), "eV", verdicts)
    assert (found.n, found.median_difference.value) == (3, 0.1)
    assert found.mean_absolute_difference.value == pytest.approx(0.1)
    assert found.agree["below 0.1"].value == pytest.approx(1 / 3)
    assert found.confirmed["below 0.1"].value == 0.0
    assert agreement(("a", first[3:]), ("b", second[3:]), "eV", {}) is None


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return in_process(monkeypatch, capsys, "evaluate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nanno"], "nothing at 'nanno'; did you mean 'nano'?"),
        (["{folder}/crystal"], "did you mean '{folder}/crystals'?"),
        (["{folder}/empty"], "No structure file in"),
        (["{folder}/crystals", "-n", "99"], "holds 8 structures; leave -n out"),
        (["{folder}/crystals", "--requested", "7"], "holds 8 structures, more than were requested"),
        (["{folder}/crystals", "--requested", "9", "-n", "3"], "leave -n out"),
        (["{folder}/crystals", "--temperature", "1.2"], "--temperature is for a policy"),
        (["nano", "--requested", "9"], "-n says how many to sample"),
        (["nano", "--evaluator", "sevenm"], "unknown calculator 'sevenm'; did you mean 'sevenn'?"),
        (["nano", "--evaluator", EMT], "set scale='uncorrected'"),
        (["nano", "--relaxer", "chgnet"], "need relax=N (--relax N)"),
        (["nano", "--relax", "5", "--relaxer", "chgnett"], "did you mean 'chgnet'?"),
        (["nano", "--target", "band_gap=2..1"], "an empty range"),
        (["nano", "--target", "bandgab=2..1"], "unknown property 'bandgab'"),
        (["{folder}/crystals", "--out", "{folder}"], "is the folder that is read, or holds it"),
        (["nano", "--out", "{folder}/crystals"], "is not empty"),
        (["{folder}/comparison"], "evaluate one of its tables: samples_a.parquet"),
        (["nano", "--set", "evaluator.potental=sevenn"], "did you mean 'potential'?"),
        (["nano", "-n", "2", "--reference", "{folder}/nothing.cif"], "nothing at"),
    ],
)
def test_wrong_usage(command: Command, crystals: Path, tmp_path: Path, arguments, message) -> None:
    folder = crystals.parent
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "comparison").mkdir(exist_ok=True)
    (folder / "comparison" / "comparison.json").write_text("{}")
    (folder / "comparison" / "samples_a.parquet").write_text("")
    given = [argument.format(folder=folder) for argument in arguments]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    code, _, said = command(*given, *out)
    assert message.format(folder=folder) in said
    assert code == 2
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_told_before_anything_is_sampled(monkeypatch, tmp_path):
    def broken(name: str, scale: object = None) -> object:
        raise RewardError(f"{name} needs a package")

    monkeypatch.setattr(judges, "find_potential", broken)
    with pytest.raises(RewardError, match="sevenn needs a package"):
        evaluate(
            EvaluateConfig(source="nano", evaluator=EvaluatorConfig(potential="sevenn"), out=tmp_path / "o")
        )


def test_dry_run(command: Command, tmp_path: Path) -> None:
    code, shown, _ = command("nano", "--relax", "5", "--target", "density=3..5", "--dry-run")
    assert code == 0
    (tmp_path / "dry.yaml").write_text(shown)
    config = load_config(EvaluateConfig, [tmp_path / "dry.yaml"])
    assert (config.evaluator.relax, config.targets) == (5, ("density=3..5",))
