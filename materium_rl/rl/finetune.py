"""``materium-rl finetune``: a pretrained policy, a reward, a run folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Structure
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaAttention

from materium_rl.config import FinetuneConfig, RewardConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.interrupts import GracefulInterrupt
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.processes import launched
from materium_rl.prompting import PromptSource, prompt_tensors
from materium_rl.rewards.base import Measurement
from materium_rl.rewards.catalogue.validity import Validity
from materium_rl.rewards.scoring import Scorer
from materium_rl.rl.algorithms import ALGORITHMS
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.guards import Guards
from materium_rl.rl.progress import Progress
from materium_rl.runs import RunFolder, check_run_folder

REFERENCE_SAMPLES = 512
"""Samples of the pretrained policy that set the reference of the guards."""


def finetune(config: FinetuneConfig, run: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Fine-tune a policy; returns the run folder.

    Raises:
        ConfigError: Wrong policy, reward or folder; nothing has been written then.
        KeyboardInterrupt: Ctrl-C, after a checkpoint has been written.
    """
    _check_alone()
    if resume:
        _check_same_updates(run, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(config.policy, device=device)
    _switch_dropout_off(policy)
    prompts = PromptSource(config.prompts, policy, config.policy)
    with make_scorer(config.reward, config.prompts.targets) as scorer:
        folder = RunFolder.create(run, config, resume=resume, overwrite=overwrite)
        checkpoint = folder.latest_checkpoint() if resume else None
        guards = Guards(config.guards.descriptors, config.guards.floors, config.guards.strength)
        with Progress(config.rl.steps) as progress, GracefulInterrupt() as interrupt:
            trainer = ALGORITHMS[config.rl.algorithm](policy, scorer, guards, config, folder, progress)
            trainer.add_callback(_AfterStep(trainer, interrupt))
            if checkpoint:
                trainer.restore_rollout_state(checkpoint)
            else:
                guards.fit(_reference_structures(policy, prompts, config))
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.requested:
        raise KeyboardInterrupt
    return folder.path


def _check_alone() -> None:
    """Refuse what TRL would spread over processes or GPUs, for which this loop is not made."""
    if launched() > 1:
        raise ConfigError(
            f"finetune runs in one process, but a launcher started {launched()}: start it without one, and "
            "use --workers to score in parallel"
        )
    if (gpus := torch.cuda.device_count()) > 1:
        raise ConfigError(f"finetune uses one GPU, but sees {gpus}: choose one with CUDA_VISIBLE_DEVICES=0")


def _check_same_updates(run: Path, config: FinetuneConfig) -> None:
    """Refuse to go on with what the checkpoints of a run were not made with."""
    check_run_folder(run, resume=True, overwrite=False)
    old = load_config(FinetuneConfig, [run / "config.yaml"]).rl
    for name in ("algorithm", "num_iterations", "minibatches", "temperatures"):
        before, now = getattr(old, name), getattr(config.rl, name)
        if before != now:
            raise ConfigError(
                f"the run {run} was made with rl.{name} {before}, so it cannot go on with {now}: "
                "leave that out, or start another run"
            )


def make_scorer(config: RewardConfig, prompted: Collection[str] = ()) -> Scorer:
    """The scorer that a reward config describes.

    Args:
        config: Of the reward.
        prompted: What every sample is asked for.

    Raises:
        ConfigError: A wrong reward, or one whose target is a prompt that there is not.
    """
    scorer = Scorer(**config.model_dump())
    scorer.check_prompts(prompted)
    return scorer


def _reference_structures(policy: Policy, prompts: PromptSource, config: FinetuneConfig) -> list[Structure]:
    """Valid samples of the pretrained policy, asked for what the run will ask for."""
    asked = prompts.draw_repeated(REFERENCE_SAMPLES, seed=config.seed, stream=0, repeats=1)
    completions = sample_many(
        policy.model,
        REFERENCE_SAMPLES,
        seed=config.seed,
        temperature=config.rl.temperature,
        **prompt_tensors(policy.model, asked).keywords,
    )
    structures = [policy.codec.decode(row.tolist()) for row in completions.ids]
    results = Validity().measure(structures)
    valid = [s for s, r in zip(structures, results, strict=True) if isinstance(r, Measurement)]
    return valid or structures


def _switch_dropout_off(policy: Policy) -> None:
    """The behaviour policy has no dropout, so the updated one must have none either."""
    policy.model.config.dropout = 0.0
    policy.model.config.attention_dropout = 0.0
    for module in policy.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, LlamaAttention):
            module.attention_dropout = 0.0


class _AfterStep(TrainerCallback):
    """After each batch: averages the weights, asks for checkpoints, ends after the last step or on Ctrl-C."""

    def __init__(self, trainer: CrystalGRPOTrainer, interrupt: GracefulInterrupt) -> None:
        self.trainer, self.interrupt = trainer, interrupt

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        config, step = self.trainer.config, self.trainer.steps_done
        if state.global_step % config.rl.updates_per_step:
            return
        self.trainer.average.update_parameters(self.trainer.accelerator.unwrap_model(self.trainer.model))
        control.should_training_stop = self.interrupt.requested or step >= config.rl.steps
        due = any(step % every == 0 for every in (config.resume_every, config.checkpoint_every))
        control.should_save = due or control.should_training_stop
