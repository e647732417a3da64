"""``materium-rl finetune``: a pretrained policy, a reward, a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Structure
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaAttention

from materium_rl.config import FinetuneConfig, load_config
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
from materium_rl.rl.rollback import answer
from materium_rl.rl.sentinel import Alarm
from materium_rl.rl.signals import facts_of_structures
from materium_rl.rl.stages import Stage, StageScorer, check_stages, next_stage, stage_at
from materium_rl.runs import RunFolder, check_run_folder, step_of

REFERENCE_SAMPLES = 512
"""Samples of the pretrained policy that set the reference of guards and sentinel."""


def finetune(config: FinetuneConfig, run: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Fine-tune a policy; returns the run folder.

    Raises:
        ConfigError: Wrong policy, reward or folder; nothing has been written then.
        SentinelStopError: The sentinel has stopped the run, after a checkpoint has been written.
        KeyboardInterrupt: Ctrl-C, after a checkpoint has been written.
    """
    _check_alone()
    check_stages(config)
    if resume:
        _check_same_updates(run, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(config.policy, device=device)
    _switch_dropout_off(policy)
    prompts = PromptSource(config.prompts, policy, config.policy)
    stage = next_stage(config, RunFolder(run)) if resume else stage_at(config, 0)
    with (
        StageScorer(config) as scorer,
        Progress(config.rl.steps) as progress,
        GracefulInterrupt() as interrupt,
    ):
        if stage is not None:
            scorer.of(stage)  # what cannot be loaded ends the run before anything is written
        folder = RunFolder.create(run, config, resume=resume, overwrite=overwrite)
        while not interrupt.requested and (stage := next_stage(config, folder)) is not None:
            alarm = _train(policy, prompts, stage, scorer.of(stage), config, folder, progress, interrupt)
            if alarm is not None:
                answer(alarm, folder, config.at_stage(stage.index).sentinel, progress)
    if interrupt.requested:
        raise KeyboardInterrupt
    return folder.path


def _train(
    policy: Policy,
    prompts: PromptSource,
    stage: Stage,
    scorer: Scorer,
    config: FinetuneConfig,
    folder: RunFolder,
    progress: Progress,
    interrupt: GracefulInterrupt,
) -> Alarm | None:
    """Train to the end of a stage, or until an alarm that ends the training, which is returned."""
    checkpoint = folder.latest_checkpoint()
    settings = stage.settings(config)
    guards = Guards(settings.guards.descriptors, settings.guards.floors, settings.guards.strength)
    trainer = ALGORITHMS[settings.rl.algorithm](policy, scorer, guards, settings, folder, progress, stage)
    trainer.add_callback(_AfterStep(trainer, interrupt))
    if checkpoint is None:
        structures = _reference_structures(policy, prompts, config)
        guards.fit(structures)
        trainer.sentinel.fit(facts_of_structures(structures))
    elif stage.first == step_of(checkpoint) + 1:
        trainer.carry_over(checkpoint)
    else:
        trainer.restore_rollout_state(checkpoint)
    if stage.name:
        progress.say(f"stage {stage.name}, {stage.index + 1} of {len(config.stages)}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stage.ended:
        progress.say(f"stage {stage.name} ended at step {trainer.steps_done}: {stage.ended}")
    return trainer.alarm


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
