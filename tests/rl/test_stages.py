"""Stages follow one another, and the sentinel ends or rewinds a run; all of it resumes to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_trainer import small_config
from tiny import write_policy

from materium_rl.config import FinetuneConfig, UntilConfig, config_file, load_config, read_yaml
from materium_rl.errors import ConfigError
from materium_rl.rl.finetune import finetune
from materium_rl.rl.guards import DESCRIPTORS, Guards
from materium_rl.rl.sentinel import SentinelStopError
from materium_rl.rl.stages import Stage, rollout_state
from materium_rl.runs import RunFolder

STAGES = [
    {
        "name": "small",
        "reward": {"expression": "n_sites(target=2, width=1)"},
        "until": {"of": "n_sites", "score": 0.01, "window": 2, "steps": 4},
    },
    {
        "name": "light",
        "reward": {"expression": "density(curve=reverse(curve=linear(full=20, zero=0)))"},
        "rl": {"learning_rate": 1e-3, "kl_coef": 0.2},
        "guards": {"descriptors": ["n_elements"]},
        "until": {"steps": 3},
    },
    {"name": "unique", "reward": {"expression": "uniqueness(window=40)"}},
]
ALWAYS = {
    "sentinel.limits.kl": 1e-9,
    "sentinel.window": 2,
    "sentinel.patience": 2,
    "rl.learning_rate": 3e-3,
    "rl.steps": 8,
    "keep_checkpoints": 9,
    "checkpoint_every": 1,
}
"""The KL divergence is past its limit as soon as the policy has moved."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(scope="module")
def staged(policy: Path) -> FinetuneConfig:
    values = {
        "stages": STAGES,
        "rl.steps": 8,
        "rl.learning_rate": 3e-3,
        "replay.batch_size": 4,
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
    }
    return small_config(policy, values)


@pytest.fixture(scope="module")
def whole(staged: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(finetune(staged, tmp_path_factory.mktemp("runs") / "whole"))


def test_stages_follow_one_another(whole: RunFolder) -> None:
    """The first ends by its score at the first mean, the second by its steps, the third with the run."""
    rows = whole.read_metrics()
    assert [row["stage"] for row in rows] == ["small"] * 2 + ["light"] * 3 + ["unique"] * 3
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row, path in zip(rows, whole.sample_tables().values(), strict=True):
        frame = pd.read_parquet(path)
        assert set(frame["stage"]) == {row["stage"]}
        measured = {"small": "n_sites", "light": "density", "unique": "uniqueness"}[row["stage"]]
        assert {c for c in ("n_sites", "density", "uniqueness") if f"{c}.score" in frame} == {measured}
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == rates[2] == rates[5] == 0.0  # each warms up
    assert rates[3] == pytest.approx(1e-3 / 5)
    assert rates[1] == rates[6] == pytest.approx(3e-3 / 5)
    optimizer = torch.load(whole.latest_checkpoint() / "optimizer.pt", weights_only=False)
    assert {int(state["step"]) for state in optimizer["state"].values()} == {8}
    states = {step: rollout_state(path) for step, path in whole.checkpoint_folders().items()}
    assert [states[step]["kl"]["coef"] for step in (2, 5, 8)] == [0.05, 0.2, 0.05]
    assert "n_sites is" in states[2]["stage"]["ended"]


@pytest.mark.parametrize("step", [2, 4])
def test_a_staged_run_goes_on_to_the_bit(
    staged: FinetuneConfig, whole: RunFolder, tmp_path: Path, step: int
) -> None:
    """Cut off between two stages, and inside one."""
    cut = RunFolder(tmp_path / "cut")
    shutil.copytree(whole.path, cut.path)
    cut.rewind(step)
    finetune(staged, cut.path, resume=True)
    assert len(cut.sample_tables()) == 8
    for old, new in zip(whole.sample_tables().values(), cut.sample_tables().values(), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(old), pd.read_parquet(new))
    weights = [load_file(run.latest_checkpoint() / "model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [rollout_state(run.latest_checkpoint()) for run in (whole, cut)]
    assert states[0]["stage"] == states[1]["stage"]
    assert states[0]["sentinel"] == states[1]["sentinel"]


def test_a_finished_run_stays_as_it_is(staged: FinetuneConfig, whole: RunFolder) -> None:
    before = whole.metrics.read_bytes()
    finetune(staged, whole.path, resume=True)
    assert whole.metrics.read_bytes() == before


def ends_at(until: dict[str, Any], values: list[float | None]) -> int | None:
    stage = Stage(until=UntilConfig(**until))
    for step, value in enumerate(values, start=1):
        stage.observe({"reward": value})
        if stage.ended:
            return step
    return None


def test_exit_rules() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert ends_at({"score": 0.39, "window": 3}, rising) == 5  # the mean of 0.3, 0.4 and 0.5
    assert ends_at({"score": 0.39, "window": 3}, [None, *rising]) == 6
    assert ends_at({"plateau": 2, "window": 1, "min_gain": 0.05}, rising) is None
    assert ends_at({"plateau": 2, "window": 1, "min_gain": 0.05}, [0.1, 0.2, 0.21, 0.22, 0.3]) == 4
    assert ends_at({"steps": 2}, rising) is None  # that is for the loop
    assert Stage(until=UntilConfig(steps=3), first=5).last(20) == 7
    assert Stage(until=UntilConfig(steps=30), first=5).last(20) == Stage().last(20) == 20


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a", "rl": {"steps": 3}}], "stage cannot change it; set until.steps"),
        ([{"name": "a", "rl": {"algorithm": "ppo"}}], "rl.algorithm is of the whole run"),
        (
            [{"name": "a", "rl": {"learning_rat": 1}}],
            "stage 'a': unknown key 'rl.learning_rat'.*learning_rate",
        ),
        ([{"name": "a"}, {"name": "a"}], "two stages have one name"),
        ([{"name": "a", "until": {"scor": 1}}], "unknown key 'stages.0.until.scor'"),
    ],
)
def test_wrong_stages_are_refused(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, [], {"stages": stages})


def test_rewards_of_later_stages_are_checked_first(policy: Path, tmp_path: Path) -> None:
    wrong = [
        ({"reward": {"expression": "densty"}}, "densty"),
        ({"until": {"of": "novelty", "score": 0.5}}, "does not measure"),
    ]
    for change, message in wrong:
        config = small_config(policy, {"stages": [STAGES[0], {"name": "next", **change}]})
        with pytest.raises(ConfigError, match=message):
            finetune(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_shipped_example_runs(policy: Path, tmp_path: Path) -> None:
    """As it is shipped, but one step a stage."""
    tree = read_yaml(config_file("finetune_staged"))
    for stage in tree["stages"]:
        stage["until"]["steps"] = 1
    values = {
        "policy": str(policy),
        "rl.steps": 3,
        "rl.batch_size": 8,
        "rl.group_size": 8,
        "stages": tree["stages"],
        "reward.max_failed": 1.0,
    }
    config = load_config(FinetuneConfig, ["finetune_staged"], values)
    run = RunFolder(finetune(config, tmp_path / "run"))
    assert [row["stage"] for row in run.read_metrics()] == ["stable", "novel", "gap"]
    assert "bandgap.score" in pd.read_parquet(run.sample_tables()[3])
    assert "novelty.score" not in pd.read_parquet(run.sample_tables()[1])


def test_guards_of_another_stage_have_the_same_reference() -> None:
    from tiny import small_structures

    fitted = Guards(("n_sites",))
    fitted.fit(small_structures())
    other = Guards(("anion", "n_elements"))
    other.load_state_dict(fitted.state_dict())
    expected = [DESCRIPTORS["anion"](s) for s in small_structures()]
    assert other.standardise(small_structures())[:, 0].mean() == pytest.approx(0.0, abs=1e-9)
    assert other.reference[0, other._columns][0] == pytest.approx(sum(expected) / len(expected))


def test_sentinel_stops_a_run_says_why_and_lets_it_go_on(policy: Path, tmp_path: Path) -> None:
    values = ALWAYS | {"sentinel.response": None, "sentinel.responses.kl": "stop"}
    with pytest.raises(
        SentinelStopError, match=r"stopped the run at step \d+; .*\n  kl: median KL"
    ) as stopped:
        finetune(small_config(policy, values), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    alarms = [json.loads(line) for line in (run.path / "sentinel.jsonl").read_text().splitlines()]
    last = alarms[-1]
    assert (last["signal"], last["response"], last["limit"]) == ("kl", "stop", 1e-9)
    assert last["text"] in str(stopped.value)
    assert last["step"] == run.latest_step() == last["since"] + 1 == len(run.read_metrics()) < 8
    assert f"step {last['step']}" in str(stopped.value)
    assert run.read_metrics()[-1]["sentinel/kl"] == last["value"]
    with pytest.raises(SentinelStopError):
        finetune(small_config(policy, values), run.path, resume=True)
    finetune(small_config(policy, values | {"sentinel.responses.kl": "warn"}), run.path, resume=True)
    assert run.latest_step() == 8


def test_sentinel_rolls_back_raises_the_kl_weight_and_gives_up(policy: Path, tmp_path: Path) -> None:
    values = ALWAYS | {"sentinel.response": "ignore", "sentinel.max_rollbacks": 1}
    config = small_config(policy, values)
    sentinel = config.sentinel.model_copy(
        update={
            "response": None,
            "responses": config.sentinel.responses.model_copy(
                update=dict.fromkeys(type(config.sentinel.responses).model_fields, "ignore")
                | {"kl": "roll_back"}
            ),
        }
    )
    config = config.model_copy(update={"sentinel": sentinel})
    with pytest.raises(SentinelStopError, match="after 1 rollbacks"):
        finetune(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    alarms = [json.loads(line) for line in (run.path / "sentinel.jsonl").read_text().splitlines()]
    assert [alarm["response"] for alarm in alarms] == ["roll_back", "roll_back"]
    good = alarms[0]["since"] - 1
    states = {step: rollout_state(path) for step, path in run.checkpoint_folders().items()}
    assert states[good]["kl"]["coef"] == 0.1
    assert states[good]["sentinel"]["rollbacks"] == 1
    assert run.last_checkpoint_before(good + 1) == run.checkpoints / f"step_{good:06d}"  # it is complete
    assert {states[step]["kl"]["coef"] for step in states if step < good} <= {0.05}
    assert [row["step"] for row in run.read_metrics()] == list(range(1, alarms[1]["step"] + 1))


def test_sentinel_raises_the_kl_weight(policy: Path, tmp_path: Path) -> None:
    values = ALWAYS | {"sentinel.response": None, "sentinel.responses.kl": "raise_kl", "rl.steps": 5}
    for name in ("top5", "unique", "prototype_unique"):
        values[f"sentinel.responses.{name}"] = "warn"
    run = RunFolder(finetune(small_config(policy, values), tmp_path / "run"))
    alarms = [json.loads(line) for line in (run.path / "sentinel.jsonl").read_text().splitlines()]
    raised = [alarm["step"] for alarm in alarms if alarm["signal"] == "kl"]
    states = {step: rollout_state(path)["kl"]["coef"] for step, path in run.checkpoint_folders().items()}
    assert len(raised) >= 1
    assert states[raised[0]] == 2 * states[raised[0] - 1] == 0.1
