"""``compare`` from policy folders to files, and what its one line says."""

from __future__ import annotations

import json
import math
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from materium_rl.config import CompareConfig, ModelConfig, RewardConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison import files as module
from materium_rl.evaluation.comparison.compare import compare
from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.discoveries.ranking import find
from materium_rl.evaluation.discoveries.sources import read_samples
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.scored import evaluate_structures, make_scorer
from materium_rl.evaluation.table import format_ratio, markdown_table
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.scoring import Scorer
from materium_rl.structure_files import read_structures
from materium_rl.tokenizer import TokenizerSettings

N = 8
VERDICT_COLUMNS = ("parsed", "valid", "stable", "unique", "novel", "sun", "on_target")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies with random weights, in folders of one name."""
    folder = tmp_path_factory.mktemp("policies")
    settings = TokenizerSettings(
        species=("Na", "Mg", "Cl", "O"), max_sites=3, length_range=(3.0, 6.0), length_step=0.1
    )
    for seed, name in enumerate(("a/tiny", "b/tiny")):
        torch.manual_seed(seed)
        model = build_model(settings, ModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16))
        save_policy(model, settings, folder / name)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> CompareConfig:
    return CompareConfig(policies=(str(folder / "a/tiny"), str(folder / "b/tiny")), n=N, out=folder / "out")


@pytest.fixture(scope="module")
def printed(config: CompareConfig) -> str:
    """What the comparison printed; run once."""
    with redirect_stdout(StringIO()) as stream:
        assert compare(config) == config.out
    return stream.getvalue()


def test_files(config: CompareConfig, printed: str) -> None:
    files = ["report.html", "report.md", "novelty_before_after.png", "rarefaction.png", "comparison.json"]
    files += ["samples_tiny.parquet", "samples_tiny-2.parquet"]
    assert {path.name for path in config.out.iterdir()} == {*files}
    for picture in files[2:4]:
        assert (config.out / picture).read_bytes().startswith(b"\x89PNG")
    assert printed.split()[-7:] == [str(config.out / name) for name in files]
    assert "\x1b" not in printed
    assert "…" not in printed


def test_its_folder_is_a_source_of_discoveries(config: CompareConfig, printed: str) -> None:
    samples = read_samples(config.out)
    assert len(samples) == 2 * N
    assert samples.unread == []
    assert samples.origin["seed"] == config.seed
    assert set(samples.frame["policy"]) == {"tiny", "tiny-2"}
    assert samples.frame["policy_sha256"].nunique() == 2
    alone = read_samples(config.out / "samples_tiny-2.parquet")
    assert alone.frame["cif"].tolist() == samples.frame["cif"].tolist()[N:]
    assert set(alone.frame["policy"]) == {"tiny-2"}
    found = find(samples, sort="e_above_hull", top=3)
    assert len(found.discoveries) == min(3, found.passed)


def test_samples_have_verdicts_and_readable_structures(config: CompareConfig, printed: str) -> None:
    found = []
    for name in ("tiny", "tiny-2"):
        path = config.out / f"samples_{name}.parquet"
        frame = pd.read_parquet(path)
        assert len(frame) == N
        assert all(frame[column].dtype == bool for column in VERDICT_COLUMNS)
        assert frame["parsed"].all()
        assert frame["valid"].any()  # so that the energies, gaps and novelty below are real
        assert (
            frame.loc[frame["valid"], ["stability.outcome", "bandgap.outcome", "novelty.outcome"]]
            .ne("skipped")
            .all(axis=None)
        )
        found.append(frame)
    structures = [row.structure for row in read_structures(config.out / "samples_tiny.parquet").rows]
    assert [s.composition.reduced_formula for s in structures] == found[0]["formula"].tolist()
    assert found[0]["cif"].tolist() != found[1]["cif"].tolist()


def test_json_agrees_with_the_samples(config: CompareConfig, printed: str) -> None:
    record = json.loads((config.out / "comparison.json").read_text())
    assert record["label"] == "optimised proxy"
    assert (record["settings"]["n"], record["settings"]["seed"], record["settings"]["temperature"]) == (
        N,
        0,
        1.0,
    )
    for policy in record["policies"]:
        frame = pd.read_parquet(config.out / policy["samples"])
        assert set(policy["figures"]) == {d.key for d in DEFINITIONS}
        for column in VERDICT_COLUMNS:
            assert policy["figures"][column]["value"] == frame[column].sum() / N
    before, after = (policy["figures"]["valid"]["value"] for policy in record["policies"])
    assert record["ratios"]["valid"] == pytest.approx(after / before)


def test_terminal_and_report_show_the_same(config: CompareConfig, printed: str) -> None:
    report = (config.out / "report.md").read_text()
    row, _ = re.findall(r"^\| valid, % \| (.*) \|$", report, re.MULTILINE)  # the other is the difference
    (line,) = re.findall(r"^ *valid, % (.*)$", printed, re.MULTILINE)
    assert line.split() == row.replace("|", "").split()
    for definition in DEFINITIONS:
        assert f"| {definition.title}" in report
        assert f"- **{definition.title}**:" in report


def test_nothing_is_left_when_it_breaks(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def break_down(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "plot_comparison", break_down)
    with pytest.raises(OSError, match="No space"):
        compare(config.model_copy(update={"n": 1, "out": tmp_path / "new"}))
    assert list(tmp_path.iterdir()) == []


def salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_denominator_is_what_was_requested() -> None:
    scorer = Scorer("novelty", gates=("validity",))
    overlap = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    structures = [salt(), salt() * (1, 1, 2), overlap, Invalid("cut off")]
    found = evaluate_structures(structures, 10, scorer, gap=BandGap())
    assert len(found.frame) == 10
    shares = {key: found.figures[key].value for key in ("parsed", "valid", "unique", "novel", "mean_sites")}
    assert shares == {"parsed": 0.3, "valid": 0.2, "unique": 0.1, "novel": 0.0, "mean_sites": 12.0}
    assert math.isnan(found.figures["stable"].value)  # not measured
    with pytest.raises(ValueError, match="2 structures, but only 1"):
        evaluate_structures([salt(), salt()], 1, scorer, gap=BandGap())


def test_memory_of_a_reward_does_not_reach_the_next_policy() -> None:
    scorer = Scorer("uniqueness", gates=("validity",))
    first, second = (evaluate_structures([salt()], 1, scorer, gap=BandGap()) for _ in range(2))
    assert first.frame["reward"].tolist() == second.frame["reward"].tolist() == [1.0]


def test_scorer_measures_what_the_figures_need() -> None:
    scorer, gap = make_scorer(
        RewardConfig(expression="2*novelty", gates=("uniqueness", "validity(min_distance=0.5)"))
    )
    assert scorer.names == ["validity", "stability", "novelty", "bandgap"]
    assert scorer.weights == {"novelty": 2.0, "bandgap": 0.0}
    assert (gap.target, gap.width, gap.members) == (1.34, 0.3, "evaluation")


def test_scorer_keeps_the_target_of_the_reward() -> None:
    reward = RewardConfig(expression="bandgap(target=2.0, width=0.5, members='reward') + stability", gates=())
    scorer, gap = make_scorer(reward)
    assert (gap.target, gap.width, gap.members) == (2.0, 0.5, "reward")
    assert scorer.weights["stability"] == 1


def test_each_sample_may_have_a_target_of_its_own() -> None:
    """The wide gap of NaCl is on target for the one who asked for it, and not for the other."""
    scorer, gap = make_scorer(RewardConfig(expression="bandgap(target=prompt, width=0.5)", gates=()))
    known = next(iter(scorer.score([salt()], asked=[{"band_gap": 1.0}]))).terms["bandgap"].value
    asked = [{"band_gap": known + 0.4}, {"band_gap": known - 2}, {"band_gap": known}]
    found = evaluate_structures([salt(), salt() * (1, 1, 2)], 3, scorer, gap=gap, asked=asked).frame
    assert found["on_target"].tolist() == [True, False, False]
    assert found["band_gap_wanted"].tolist() == [wish["band_gap"] for wish in asked]
    with pytest.raises(ConfigError, match=r"bandgap\(target=prompt\) needs samples that are asked for"):
        evaluate_structures([salt()], 1, scorer, gap=gap)


def test_ratio_of_nothing() -> None:
    assert format_ratio(Figure(0.0), Figure(0.5)) == "-"
    assert format_ratio(Figure(0.2), Figure(float("nan"))) == "-"


def test_more_than_two_policies_have_no_ratio() -> None:
    figures = {d.key: Figure(0.5) for d in DEFINITIONS}
    table = markdown_table({"a": figures, "b": figures, "c": figures})
    assert "after/before" not in table
    assert "| valid, % | 50.0 | 50.0 | 50.0 |" in table
