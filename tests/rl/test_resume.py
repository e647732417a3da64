"""Runs that are killed by signal 9 go on as if nothing had happened, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from killed_run import finish, kill_when, start
from safetensors.torch import load_file
from small_trainer import small_config
from tiny import write_policy

from materium_rl.config import FinetuneConfig
from materium_rl.errors import ConfigError
from materium_rl.files import TEMPORARY
from materium_rl.rl.finetune import _AfterStep, finetune
from materium_rl.runs import RunFolder

STEPS = 10
TIMES = {"step_time", "epoch"}
VALUES = {
    "grpo": {"rl.num_iterations": 2},
    "ppo": {"rl.algorithm": "ppo", "rl.num_iterations": 2, "rl.minibatches": 2, "rl.kl_target": 0.02},
}
CONTROLS = ["best-of-n", "sft-accept", "temperature", "shuffled-reward"]
VALUES |= {name: {"rl.algorithm": name, "prompts.constraints.n_sites": [2, 3, 4]} for name in CONTROLS}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


def config(policy: Path, algorithm: str, workers: int = 0) -> FinetuneConfig:
    """Every part that remembers is on: archive, replay, guards, KL weight, critic."""
    values = {
        "rl.steps": STEPS,
        "rl.learning_rate": 3e-3,
        "reward.expression": "n_sites(target=2, width=1) + uniqueness(window=40)",
        "reward.aggregation": "sum",
        "reward.workers": workers,
        "replay.batch_size": 4,
        "guards.descriptors": ["n_elements"],
        "checkpoint_every": 4,
    }
    return small_config(policy, values | VALUES[algorithm])


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one == other


def assert_same(one: Path, other: Path) -> None:
    """Weights, averages, optimizer, critic, tables of samples and metrics are equal to the bit."""
    runs = [RunFolder(path) for path in (one, other)]
    checkpoints = [run.latest_checkpoint() for run in runs]
    assert [path.name for path in checkpoints] == [f"step_{STEPS:06d}"] * 2
    tensors = [sorted(p.relative_to(c) for p in c.rglob("*.safetensors")) for c in checkpoints]
    assert tensors[0] == tensors[1]
    for name in tensors[0]:
        pair = [load_file(path / name) for path in checkpoints]
        assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0] | pair[1]), name
    for name in ("scheduler.pt", "optimizer.pt", "rollout_state.pt"):
        assert same(*(torch.load(path / name, weights_only=False) for path in checkpoints)), name
    assert len({(path / "archives.json").read_text() for path in checkpoints}) == 1
    tables = [run.sample_tables() for run in runs]
    assert list(tables[0]) == list(tables[1]) == list(range(1, STEPS + 1))
    for step in tables[0]:
        pd.testing.assert_frame_equal(*(pd.read_parquet(t[step]) for t in tables))
    metrics = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in run.read_metrics()] for run in runs
    ]
    assert metrics[0] == metrics[1]
    assert [row["step"] for row in metrics[0]] == list(range(1, STEPS + 1))


def is_writing(run: RunFolder) -> bool:
    """Whether a checkpoint is half written."""
    return any(run.checkpoints.glob(f"{TEMPORARY}*-step_*/optimizer.pt"))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_killed_and_resumed_is_as_uninterrupted(policy: Path, tmp_path: Path, algorithm: str) -> None:
    """Killed once after five steps, and once while a checkpoint is being written."""
    settings = config(policy, algorithm).model_dump(mode="json")
    whole = start(settings, tmp_path / "whole")
    cut = RunFolder(tmp_path / "cut")
    kill_when(start(settings, cut.path), lambda: len(cut.read_metrics()) >= 5)
    recorded = len(cut.read_metrics())
    assert cut.latest_step() >= recorded - 1 >= 4
    kill_when(start(settings, cut.path, resume=True), lambda: is_writing(cut))
    finish(start(settings, cut.path, resume=True))
    finish(whole)
    assert_same(tmp_path / "whole", cut.path)
    assert not list(cut.path.rglob(f"{TEMPORARY}*"))


def test_killed_with_ray_workers(policy: Path, tmp_path: Path) -> None:
    """Scored by a worker before and after, the run is equal to one scored in its own process."""
    settings = config(policy, "ppo").model_dump(mode="json")
    with_worker = config(policy, "ppo", workers=1).model_dump(mode="json")
    whole = start(settings, tmp_path / "whole")
    cut = RunFolder(tmp_path / "cut")
    kill_when(start(with_worker, cut.path), lambda: len(cut.read_metrics()) >= 5)
    finish(start(with_worker, cut.path, resume=True))
    finish(whole)
    assert_same(tmp_path / "whole", cut.path)


@pytest.mark.parametrize("algorithm", CONTROLS)
def test_a_control_that_was_ended_goes_on(policy: Path, tmp_path: Path, algorithm: str) -> None:
    """With prompts too; the learning rate is that of the whole run, so the first part is cut by Ctrl-C."""
    whole = config(policy, algorithm)
    finetune(whole, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("materium_rl.rl.finetune._AfterStep.on_step_end", _interrupted_at(4))
        with pytest.raises(KeyboardInterrupt):
            finetune(whole, tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").latest_step() == 4
    finetune(whole, tmp_path / "cut", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def _interrupted_at(last: int) -> Callable[..., None]:
    """``on_step_end`` as if Ctrl-C had been pressed in a step."""
    usual = _AfterStep.on_step_end

    def on_step_end(self: _AfterStep, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.interrupt.requested = self.trainer.steps_done == last
        usual(self, args, state, control, **more)

    return on_step_end


def test_only_the_same_updates_go_on(policy: Path, tmp_path: Path) -> None:
    run = finetune(small_config(policy, {"rl.steps": 1}), tmp_path / "run")
    kept = (run / "config.yaml").read_text()
    for name, value in {"algorithm": "ppo", "num_iterations": 2, "minibatches": 4}.items():
        with pytest.raises(ConfigError, match=rf"was made with rl\.{name} .*cannot go on with {value}"):
            finetune(small_config(policy, {f"rl.{name}": value, "rl.steps": 2}), run, resume=True)
    assert (run / "config.yaml").read_text() == kept


def test_another_learning_rate_is_taken(policy: Path, tmp_path: Path) -> None:
    rates = []
    for factor in (1, 2):
        run = tmp_path / str(factor)
        finetune(small_config(policy, {"rl.steps": 4, "rl.learning_rate": 1e-3}), run)
        finetune(small_config(policy, {"rl.steps": 8, "rl.learning_rate": factor * 1e-3}), run, resume=True)
        rates.append([row["learning_rate"] for row in RunFolder(run).read_metrics()])
    assert rates[1][:4] == rates[0][:4]
    assert rates[1][4:] == pytest.approx([2 * rate for rate in rates[0][4:]])


def test_checkpoints_that_stay(policy: Path, tmp_path: Path) -> None:
    values = {"rl.steps": 5, "checkpoint_every": 3, "keep_checkpoints": 1, "resume_every": 2}
    run = RunFolder(finetune(small_config(policy, values), tmp_path / "run"))
    assert sorted(p.name for p in run.checkpoints.glob("step_*")) == ["step_000003", "step_000005"]
