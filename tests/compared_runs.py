"""Fine-tuning runs made by hand, with the files that ``compare`` reads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from tiny import SHAPE

from materium_rl.config import FinetuneConfig, RewardConfig, RLConfig
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import TokenizerSettings

SETTINGS = TokenizerSettings(
    species=("Na", "Mg", "Cl", "O"), max_sites=3, length_range=(3.0, 6.0), length_step=0.1
)
REWARD = RewardConfig(expression="novelty", gates=("validity",))
STEPS, BATCH = 4, 8


def write_run(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """A run of four steps of eight samples, with checkpoints at 2 and 4; the table of step 3 is lost."""
    config = FinetuneConfig(
        seed=seed, reward=REWARD, rl=RLConfig(batch_size=BATCH, group_size=BATCH, steps=STEPS)
    )
    run = RunFolder.create(folder, config.model_copy(update=changes))
    for step in range(1, STEPS + 1):
        run.append_metrics({"step": step, "loss": 0.0, "step_time": 90.0})
        if step != 3:
            run.write_samples(step, pd.DataFrame({"reward": [0.0] * BATCH}))
        if step % 2 == 0:
            with run.checkpoint(step) as checkpoint:
                write_small_policy(checkpoint / "policy", seed=10 * seed + step)
    return folder


def write_small_policy(folder: Path, *, seed: int) -> Path:
    """A policy of random weights that mostly writes valid crystals."""
    torch.manual_seed(seed)
    save_policy(build_model(SETTINGS, SHAPE), SETTINGS, folder)
    return folder
