"""``compare`` with a second judge that is always at hand (EMT)."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from materium_rl.config import CompareConfig, EvaluatorConfig, ModelConfig
from materium_rl.evaluation.comparison.compare import compare
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.tokenizer import TokenizerSettings

N = 8
KEYS = ("stable", "metastable", "sun", "msun", "sun_structure", "msun_structure")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies with random weights that write alloys, relaxed by EMT."""
    folder = tmp_path_factory.mktemp("compare")
    settings = TokenizerSettings(species=("Cu", "Au"), max_sites=2, length_range=(3.0, 5.0), length_step=0.1)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = build_model(settings, ModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16))
        save_policy(model, settings, folder / name)
    judge = EvaluatorConfig(potential="ase.calculators.emt:EMT", scale="uncorrected", relax=4)
    policies = (str(folder / "one"), str(folder / "two"))
    return compare(CompareConfig(policies=policies, n=N, evaluator=judge, out=folder / "out"))


def test_figures_of_every_judge_are_those_of_the_samples(out: Path) -> None:
    record = json.loads((out / "comparison.json").read_text())
    assert record["panel"]["label"] == "independent"
    assert list(record["panel"]["titles"]) == ["reward", "evaluator", "relaxed"]
    values = []
    for policy in record["policies"]:
        frame = pd.read_parquet(out / policy["samples"])
        assert frame["valid"].any()
        assert frame.loc[frame["valid"], "evaluator.outcome"].eq("ok").any()
        found = {key: policy["judges"]["relaxed"][key]["value"] for key in KEYS}
        assert found == {key: frame[f"relaxed.{key}"].sum() / N for key in KEYS}
        values.append(found)
    differences = record["differences"]["two"]["judges"]["relaxed"]
    for key in KEYS:
        assert differences[key]["difference"]["value"] == values[1][key] - values[0][key]


def test_the_report_has_a_table_of_each_judge(out: Path) -> None:
    report = (out / "report.md").read_text()
    assert "which the reward (chgnet) did not use" in report
    assert "| CHGNet 0.3.0, as written: optimised proxy | one | two | two difference |" in report
    assert ", relaxed (4 steps): independent | one | two |" in report
    assert report.count("\n| meta-S.U.N., % |") == 3
