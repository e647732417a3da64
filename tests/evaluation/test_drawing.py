"""What ``compare``, ``evaluate`` and ``generate`` make of runs with prompts and of controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_trainer import small_config
from tiny import write_policy

from materium_rl.config import EvaluateConfig, GenerateConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.drawing import check_recorded, draw, prompts_of
from materium_rl.evaluation.evaluate.inputs import check_options, read_source
from materium_rl.evaluation.scored import sample_structures
from materium_rl.generate import generate
from materium_rl.policies.loading import load_policy
from materium_rl.rl.finetune import finetune

HOW = {"seed": 3, "temperature": 1.0, "batch_size": 64}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy and its runs: with prompts, best-of-n, temperature."""
    folder = tmp_path_factory.mktemp("runs")
    policy = write_policy(folder / "tiny")
    made: dict[str, dict[str, Any]] = {
        "asked": {"prompts.constraints.n_sites": [2, 3]},
        "best": {"rl.algorithm": "best-of-n"},
        "best asked": {
            "rl.algorithm": "best-of-n",
            "prompts.constraints.n_sites": [2, 3],
            "rl.group_size": 4,
        },
        "hot": {"rl.algorithm": "temperature", "rl.temperatures": [3.0]},
    }
    for name, values in made.items():
        finetune(small_config(policy, {"rl.steps": 2} | values), folder / name)
    return folder


def test_best_of_n_gives_the_best_of_what_it_recorded(runs: Path) -> None:
    policy = load_policy(runs / "best")
    found = draw(policy, str(runs / "best"), 5, **HOW)
    tables = [pd.read_parquet(path) for path in sorted((runs / "best" / "samples").glob("*.parquet"))]
    frame = pd.concat(tables, ignore_index=True)
    assert len(frame) == 32
    best = frame["reward"].where(frame["outcome"] == "ok", -1).sort_values(ascending=False, kind="stable")
    wanted = [policy.codec.decode(list(frame["tokens"][i])) for i in sorted(best.index[:5])]
    assert found == wanted
    assert frame["reward"].nlargest(5).mean() > frame["reward"].mean()


def test_best_of_n_takes_the_best_of_each_prompt(runs: Path) -> None:
    """Two sites earn 1 and three 1/2, and still every prompt has its best two among the sixteen."""
    found = draw(load_policy(runs / "best asked"), str(runs / "best asked"), 16, **HOW)
    tables = [pd.read_parquet(path) for path in sorted((runs / "best asked" / "samples").glob("*.parquet"))]
    wanted = [size for table in tables for size in table["n_sites"][::4] for _ in range(2)]
    assert {2, 3} == set(wanted)
    assert [len(structure) for structure in found] == wanted


def test_best_of_n_cannot_give_more_than_it_drew(runs: Path) -> None:
    check_recorded([str(runs / "best"), str(runs / "hot"), "nano"], 32)
    with pytest.raises(ConfigError, match=r"best is a best-of-n run of 32 samples, which cannot give 33"):
        check_recorded([str(runs / "best")], 33)
    with pytest.raises(ConfigError, match=r"best-of-n run: .* materium-rl discoveries"):
        generate(GenerateConfig(policy=str(runs / "best"), n=3, out=runs / "out"))


def test_a_temperature_run_is_sampled_at_its_temperature(runs: Path) -> None:
    policy = load_policy(runs / "hot")
    hot = draw(policy, str(runs / "hot"), 6, **HOW)
    assert hot == sample_structures(policy, 6, seed=3, temperature=3.0)
    assert hot != sample_structures(policy, 6, seed=3)


def test_runs_are_asked_for_what_they_were_trained_with(runs: Path) -> None:
    prompts = prompts_of(["nano", str(runs / "asked")])
    assert prompts.constraints.n_sites == ((2, 2), (3, 3))
    assert not prompts_of(["nano", str(runs / "hot")]).enabled
    with pytest.raises(ConfigError, match=r"hot and .*asked were trained with different prompts"):
        prompts_of([str(runs / "hot"), str(runs / "asked")])


def test_all_are_judged_by_one_target() -> None:
    config = EvaluateConfig(source="nano", reward={"expression": "novelty+bandgap(target=prompt)"})
    with pytest.raises(ConfigError, match=r"bandgap\(target=prompt\): all samples are judged by one target"):
        check_options(config)


def test_evaluate_and_generate_ask_alike(runs: Path) -> None:
    source = read_source(EvaluateConfig(source=str(runs / "asked"), n=12, seed=3))
    generate(GenerateConfig(policy=str(runs / "asked"), n=12, seed=3, out=runs / "generated"))
    frame = pd.read_parquet(runs / "generated" / "generated.parquet")
    sizes = [len(structure) for structure in source.structures]
    assert sizes == frame["requested_n_sites"].astype(int).tolist()
    assert set(sizes) == {2, 3}
    free = {"policy": str(runs / "asked"), "n": 40, "out": runs / "free", "prompts": {}}
    generate(GenerateConfig(**free))
    assert "requested_n_sites" not in pd.read_parquet(runs / "free" / "generated.parquet")
