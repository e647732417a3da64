"""The TRL engine on crystals: its loss sees the grammar, and learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from real_structures import aflow_structures

from materium_rl.config import FinetuneConfig, ModelConfig, load_config
from materium_rl.policies.loading import build_model, load_policy, save_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rl.finetune import finetune
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.guards import Guards
from materium_rl.rl.progress import Progress
from materium_rl.rl.stages import make_scorer
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of

PLUGIN = '''
from materium_rl.rewards.base import Invalid


def up_to_three(structures):
    """1/2 up to three sites; more are invalid."""
    return [0.5 if len(s) <= 3 else Invalid("too many sites") for s in structures]


def few_sites(structures):
    """1 for a cell of one or two sites."""
    return [float(len(s) <= 2) for s in structures]
'''


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    codec = CrystalCodec(TokenizerSettings(species=species_of(aflow_structures()[:20]), max_sites=4))
    torch.manual_seed(0)
    shape = ModelConfig(hidden_size=32, layers=2, heads=4, intermediate_size=64, dropout=0.1)
    save_policy(build_model(codec.settings, shape), codec.settings, folder)
    return folder


@pytest.fixture
def config(policy_folder: Path, tmp_path: Path) -> FinetuneConfig:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    return load_config(
        FinetuneConfig,
        [],
        {"policy": str(policy_folder), "reward.expression": f'"{plugin}:few_sites"', "reward.gates": []},
        [
            "rl.batch_size=32",
            "rl.group_size=32",
            "rl.steps=6",
            "rl.learning_rate=3e-3",
            "guards.descriptors=[]",
            "sentinel.response=ignore",
            "checkpoint_every=3",
        ],
    )


def test_loss_path_has_the_grammar(config: FinetuneConfig, tmp_path: Path) -> None:
    """TRL's own log-probability path skips forward; ours gives the behaviour log-probs back."""
    policy = load_policy(config.policy)
    run = RunFolder.create(tmp_path / "run", config)
    with make_scorer(config) as scorer:
        trainer = CrystalGRPOTrainer(policy, scorer, Guards(()), config, run, Progress(1))
        drawn = sample_many(policy.model, 16, seed=0)
        whole = torch.cat([torch.tensor([policy.codec.prompt] * 16), drawn.ids], dim=1)
        log_probs, _, aux = trainer._get_per_token_logps_and_entropies(
            trainer.model, whole, torch.ones_like(whole), drawn.ids.shape[1]
        )
    assert aux is None
    assert (log_probs - drawn.log_probs).abs().max() < 1e-4


def test_reward_goes_up(config: FinetuneConfig, tmp_path: Path) -> None:
    longer = load_config(
        FinetuneConfig, [], config.model_dump(), ["rl.steps=60", "rl.kl_coef=0.0", "rl.learning_rate=1e-2"]
    )
    run = finetune(longer, tmp_path / "run")
    rewards = [row["reward"] for row in RunFolder(run).read_metrics()]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2


def test_normalized_terms_are_recorded_and_become_the_advantage(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin.py"
    few, light = f'"{plugin}:few_sites"', "2*density(curve=reverse(curve=linear(full=20, zero=0)))"
    settings = ["rl.steps=1", "rl.kl_coef=0.0", "reward.aggregation=normalized"]
    gated = {"reward.expression": f"{few} + {light}", "reward.gates": [f'"{plugin}:up_to_three"']}
    changed = load_config(FinetuneConfig, [], config.model_dump() | gated, settings)
    frame = pd.read_parquet(finetune(changed, tmp_path / "run") / "samples" / "step_000001.parquet")
    valid = frame["outcome"] == "ok"
    assert 0 < valid.sum() < len(frame)
    both = frame.loc[valid, ["few_sites.contribution", "density.contribution"]].sum(axis=1)
    np.testing.assert_allclose(both, frame.loc[valid, "reward"], atol=1e-12)
    gated_scores = (0.5 * frame["density.score"]).where(valid, 0.0) ** changed.rl.reward_power
    units = (gated_scores - gated_scores.mean()) / gated_scores.std(ddof=0)
    np.testing.assert_allclose(frame["density.normalized"], units * 2 / 3, atol=1e-9)
    signal = frame["few_sites.normalized"] + frame["density.normalized"]
    np.testing.assert_allclose(frame["advantage"], (signal / signal.std(ddof=0)).clip(-4, 4), atol=1e-9)
    assert frame.loc[~valid, "advantage"].max() <= frame.loc[valid, "advantage"].min()


def test_replay_raises_the_likelihood_of_what_was_good(config: FinetuneConfig, tmp_path: Path) -> None:
    quiet = load_config(
        FinetuneConfig,
        [],
        config.model_dump(),
        ["rl.steps=20", "rl.kl_coef=0.0", "replay.coef=1.0", "replay.capacity=8"],
    )
    rows = RunFolder(finetune(quiet, tmp_path / "run")).read_metrics()
    assert rows[-1]["replay/nll"] < 0.8 * rows[0]["replay/nll"]
    off = load_config(FinetuneConfig, [], config.model_dump(), ["rl.steps=1", "replay.batch_size=0"])
    assert "replay/nll" not in RunFolder(finetune(off, tmp_path / "off")).read_metrics()[0]
