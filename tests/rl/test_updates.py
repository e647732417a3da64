"""Several updates per batch, and a bandit that every algorithm must solve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from real_structures import rock_salt, rutile
from safetensors.torch import load_file
from small_trainer import SMALL, small_config
from tiny import SHAPE, write_policy
from trl import GRPOTrainer

from materium_rl.config import FinetuneConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.policies.value_head import FILE, ValueHead
from materium_rl.resources import policy_path
from materium_rl.rl.finetune import finetune
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.token_scores import log_probs_by_length
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import TokenizerSettings, species_of

ALGORITHMS = ["grpo", "ppo"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of one site and four species, its weights far from uniform."""
    folder = tmp_path_factory.mktemp("policy") / "arms"
    settings = TokenizerSettings(species=species_of([rock_salt(), rutile()]), max_sites=1)
    torch.manual_seed(0)
    model = build_model(settings, SHAPE)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    save_policy(model, settings, folder)
    return folder


@pytest.fixture(scope="module")
def rigged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward: of four species one earns 1, the others nothing."""
    plugin = tmp_path_factory.mktemp("reward") / "plugin.py"
    plugin.write_text(
        'def titanium(structures):\n    """1 for titanium."""\n'
        '    return [float(s.composition.reduced_formula == "Ti") for s in structures]\n'
    )
    return f'"{plugin}:titanium"'


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rigged_bandit_is_solved(arms: Path, rigged: str, tmp_path: Path, algorithm: str) -> None:
    values = {
        "rl.algorithm": algorithm,
        "reward.expression": rigged,
        "rl.steps": 12,
        "rl.batch_size": 32,
        "rl.group_size": 32,
        "rl.num_iterations": 2,
        "rl.learning_rate": 1e-2,
        "rl.kl_coef": 0.0,
    }
    rows = RunFolder(finetune(small_config(arms, values), tmp_path / "run")).read_metrics()
    assert rows[0]["reward"] < 0.5
    assert rows[-1]["reward"] > 0.9


def test_every_update_of_a_batch_knows_who_wrote_it(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes in two parts: behaviour log-probabilities stay those of the sampler, ratios leave 1."""
    distances: list[float] = []
    seen: list[torch.Tensor] = []
    loss = CrystalGRPOTrainer._compute_loss

    def listen(self: CrystalGRPOTrainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        whole = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        with torch.no_grad():
            now = log_probs_by_length(model, whole, 1.0, inputs["prompt_ids"].shape[1])[0]
        distances.append(float((now - inputs["old_per_token_logps"]).abs().max()))
        seen.append(inputs["old_per_token_logps"])
        return loss(self, model, inputs)

    times, train = [], GRPOTrainer.training_step

    def watch(self: CrystalGRPOTrainer, *arguments: Any) -> Any:
        output = train(self, *arguments)
        times.append(self._metrics["train"]["step_time"][-1])
        return output

    monkeypatch.setattr(GRPOTrainer, "training_step", watch)
    monkeypatch.setattr(CrystalGRPOTrainer, "_compute_loss", listen)
    values = {
        "rl.num_iterations": 2,
        "rl.minibatches": 2,
        "rl.steps": 7,
        "rl.learning_rate": 1e-2,
    }
    run = RunFolder(finetune(small_config(policy, values), tmp_path / "run"))
    assert len(seen) == 7 * 4
    assert [row["step"] for row in run.read_metrics()] == list(run.sample_tables()) == list(range(1, 8))
    assert max(distances[::4]) < 1e-4  # the first update of each batch
    assert min(distances[-3:]) > 1e-2  # the others, once the learning rate has risen
    for first in range(0, 28, 4):
        assert seen[first] is seen[first + 2]
        assert seen[first + 1] is seen[first + 3]
        assert len(seen[first]) == len(seen[first + 1]) == 8
    for row, first in zip(run.read_metrics(), range(0, 28, 4), strict=True):
        assert row["step_time"] == pytest.approx(sum(times[first : first + 4]))
    tokens = [len(row) for row in pd.read_parquet(run.sample_tables()[7])["tokens"]]
    assert max(tokens) == seen[-1].shape[1]
    state = json.loads((run.latest_checkpoint() / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 28
    rates = [row["learning_rate"] for row in run.read_metrics()]
    assert max(rates) == rates[4]  # rises over five batches, whatever the updates of each


def test_critic_learns_and_is_saved_beside_the_policy(arms: Path, rigged: str, tmp_path: Path) -> None:
    values = {
        "rl.algorithm": "ppo",
        "reward.expression": rigged,
        "rl.num_iterations": 4,
        "rl.batch_size": 64,
        "rl.steps": 6,
        "rl.learning_rate": 1e-6,
        "rl.ppo.value_learning_rate": 5e-3,
    }
    run = RunFolder(finetune(small_config(arms, values), tmp_path / "run"))
    variance = [row["critic/explained_variance"] for row in run.read_metrics()]
    assert variance[0] == pytest.approx(0.0, abs=1e-3)
    assert np.mean(variance[-3:]) > 0.15
    saved = load_file(run.latest_checkpoint() / FILE)
    assert set(saved) == set(ValueHead(SHAPE.hidden_size).state_dict())
    names = set(load_file(arms / "model.safetensors"))
    for folder in (run.latest_checkpoint(), policy_path(run.path)):
        assert set(load_file(folder / "model.safetensors")) == names


def test_kl_weight_is_steered(policy: Path, tmp_path: Path) -> None:
    values = {"rl.kl_target": 1e-6, "rl.kl_horizon": 160, "rl.steps": 8, "rl.learning_rate": 3e-3}
    rows = RunFolder(finetune(small_config(policy, values), tmp_path / "run")).read_metrics()
    weights = [row["kl_coef"] for row in rows]
    assert weights[0] == 0.05
    ratios = np.array(weights[1:]) / weights[:-1]
    assert np.isclose(np.abs(ratios - 1), 0.02).all()  # an error of 20 %, 16 of 160 completions
    assert ratios[-1] > 1


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["rl.kl_in=both"], "'loss' or 'reward'"),
        (["rl.kl_in=reward"], "needs algorithm ppo"),
        (["rl.algorithm=ppo", "rl.loss_type=vespo"], "must be one of grpo, bnpo, dr_grpo, dapo"),
        (["rl.algorithm=ppo", "rl.importance_sampling_level=sequence"], "importance_sampling_level token"),
        (["rl.loss_type=cispo"], "needs clip_range_high of at least 1"),
        (["rl.loss_type=luspo"], "needs importance_sampling_level sequence"),
        (
            ["rl.loss_type=vespo", "rl.importance_sampling_level=sequence"],
            "needs importance_sampling_level token",
        ),
        (["rl.minibatches=3"], "multiple of minibatches 3"),
        (["rl.kl_target=0.1", "rl.kl_coef=0"], "needs a kl_coef above 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, sets=sets)


def test_a_critic_needs_no_groups() -> None:
    config = load_config(FinetuneConfig, [], SMALL, ["rl.algorithm=ppo", "rl.group_size=7"])
    assert config.rl.baseline_size == 16
