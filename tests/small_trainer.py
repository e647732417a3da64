"""A trainer on a tiny policy, without a training around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny import SHAPE, tiny_codec

from materium_rl.config import FinetuneConfig, load_config
from materium_rl.policies.loading import build_model, load_policy, save_policy
from materium_rl.rl.algorithms import ALGORITHMS
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.guards import Guards
from materium_rl.rl.progress import Progress
from materium_rl.rl.stages import make_scorer
from materium_rl.runs import RunFolder

SMALL = {
    "reward.expression": "n_sites(target=2, width=1)",
    "reward.gates": [],
    "rl.batch_size": 16,
    "rl.group_size": 8,
    "rl.steps": 3,
    "replay.batch_size": 0,
    "guards.descriptors": [],
    "guards.floors": [],
    "sentinel.response": "ignore",
}


def small_config(policy: Path, values: Mapping[str, Any]) -> FinetuneConfig:
    """A run of seconds; values by dotted key go over those of ``SMALL``."""
    return load_config(FinetuneConfig, [], {"policy": str(policy)} | SMALL | dict(values))


@contextmanager
def small_trainer(folder: Path, values: Mapping[str, Any]) -> Iterator[CrystalGRPOTrainer]:
    """The trainer of ``rl.algorithm``, its policy in training mode."""
    if not (folder / "policy").is_dir():
        save_policy(
            build_model(tiny_codec().settings, SHAPE.model_copy(update={"dropout": 0.0})),
            tiny_codec().settings,
            folder / "policy",
        )
    config = small_config(folder / "policy", values)
    with make_scorer(config) as scorer:
        run = RunFolder.create(folder / "run", config, overwrite=True)
        trainer = ALGORITHMS[config.rl.algorithm](
            load_policy(config.policy), scorer, Guards(()), config, run, Progress(1)
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        yield trainer
