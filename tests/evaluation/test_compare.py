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
from materium_rl.evaluation import compare as module
from materium_rl.evaluation.compare import compare, display_names
from materium_rl.evaluation.discoveries import find
from materium_rl.evaluation.evaluate import evaluate_structures, make_scorer
from materium_rl.evaluation.metrics import DEFINITIONS, Figure
from materium_rl.evaluation.sources import read_samples
from materium_rl.evaluation.table import format_ratio, markdown_table, verdict
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
    files = ["comparison.json", "novelty_before_after.png", "report.html", "report.md"]
    files += ["samples_tiny-2.parquet", "samples_tiny.parquet"]
    assert sorted(path.name for path in config.out.iterdir()) == files
    assert (config.out / "novelty_before_after.png").read_bytes().startswith(b"\x89PNG")
    assert printed.split()[-6:] == [
        str(config.out / name)
        for name in ("report.html", "report.md", files[1], files[0], files[5], files[4])
    ]
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
    (row,) = re.findall(r"^\| valid, % \| (.*) \|$", report, re.MULTILINE)
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


def test_display_names(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "x-2", tmp_path / "y"]
    assert display_names([str(folder) for folder in folders]) == ["x", "x-2", "x-2-2", "y"]


def policy_figures(n: int = 1024, **values: float) -> dict[str, Figure]:
    """Figures with the normal interval of n samples; sites spread by 4."""
    base = {
        "sun": 0.058,
        "on_target_of_stable": 0.02,
        "sun_prototypes": 26,
        "sun_frameworks": 20,
        "sun_substitutions": 0.4,
        "top5": 0.24,
        "rare_earth": 0.41,
        "anion": 0.35,
        "mean_sites": 7.0,
    }
    found = {}
    for key, value in {**base, **values}.items():
        if key in ("sun_prototypes", "sun_frameworks"):
            found[key] = Figure(value)
        else:
            half = 1.96 * ((value * (1 - value)) ** 0.5 if value <= 1 else 4) / n**0.5
            found[key] = Figure(value, value - half, value + half)
    return found


def test_verdict_on_collapse() -> None:
    after = policy_figures(
        sun=0.61, sun_prototypes=11, sun_frameworks=5, top5=0.97, rare_earth=0.99, anion=0.005, mean_sites=4.0
    )
    assert verdict(policy_figures(), after) == (
        "novelty by collapse: 97 % of samples in five prototypes, 99 % with rare earths (before 41 %), "
        "fewer distinct prototypes among S.U.N.; S.U.N. 5.8 -> 61.0 % (10.5x), 0.42x the distinct prototypes "
        "and 0.25x the frameworks among S.U.N.; on target of the stable 2.0 -> 2.0 % (1.00x); five commonest "
        "prototypes 97 % of samples; drifted: anion formers 35 -> 0 %, mean sites 7.0 -> 4.0"
    )


def test_verdict_on_an_honest_gain() -> None:
    after = policy_figures(
        sun=0.312, on_target_of_stable=0.1, sun_prototypes=83, sun_frameworks=28, top5=0.12
    )
    assert verdict(policy_figures(), after) == (
        "S.U.N. 5.8 -> 31.2 % (5.4x), 3.2x the distinct prototypes and 1.40x the frameworks among S.U.N.; "
        "on target of the stable 2.0 -> 10.0 % (5.0x); five commonest prototypes 12 % of samples"
    )


@pytest.mark.parametrize(
    ("values", "opening"),
    [
        ({"sun": 0.05}, "no gain: S.U.N. 5.8 -> 5.0 %"),
        ({"sun": 0.065, "sun_prototypes": 30}, "within the uncertainty: S.U.N. 5.8 -> 6.5 %"),
        ({"sun": 0.03, "top5": 0.8}, "collapse: 80 % of samples in five prototypes; no gain"),
        (
            {"sun": 0.3, "sun_substitutions": 0.97, "sun_prototypes": 60},
            "novelty by collapse: 97 % of S.U.N. by swapping elements",
        ),
    ],
)
def test_verdict_opens_with_the_worst(values: dict[str, float], opening: str) -> None:
    assert verdict(policy_figures(), policy_figures(**values)).startswith(opening)


def test_ratio_of_nothing() -> None:
    assert format_ratio(Figure(0.0), Figure(0.5)) == "-"
    assert format_ratio(Figure(0.2), Figure(float("nan"))) == "-"


def test_more_than_two_policies_have_no_ratio() -> None:
    figures = {d.key: Figure(0.5) for d in DEFINITIONS}
    table = markdown_table({"a": figures, "b": figures, "c": figures})
    assert "after/before" not in table
    assert "| valid, % | 50.0 | 50.0 | 50.0 |" in table
