"""TRL's arguments for a fine-tuning config."""

from __future__ import annotations

from pathlib import Path

import torch
from trl import GRPOConfig

from materium_rl.config import FinetuneConfig

WARMUP_STEPS = 5


def trainer_arguments(config: FinetuneConfig, folder: Path, *, max_completion_length: int) -> GRPOConfig:
    """TRL counts optimizer steps, of which a batch of completions takes ``rl.updates_per_step``.

    Args:
        config: The whole fine-tuning config.
        folder: Run folder.
        max_completion_length: Most tokens of a completion; what ``dr_grpo`` divides by.
    """
    rl = config.rl
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=rl.steps * rl.updates_per_step,
        per_device_train_batch_size=rl.batch_size // rl.minibatches,
        gradient_accumulation_steps=1,
        steps_per_generation=rl.minibatches,
        num_generations=rl.baseline_size,
        num_iterations=rl.num_iterations,
        max_completion_length=max_completion_length,
        learning_rate=rl.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP_STEPS * rl.updates_per_step,
        weight_decay=0.0,
        max_grad_norm=rl.max_grad_norm,
        beta=rl.kl_coef,
        epsilon=rl.clip_range,
        epsilon_high=rl.clip_range_high,
        loss_type=rl.loss_type,
        importance_sampling_level=rl.importance_sampling_level,
        temperature=rl.temperature,
        logging_steps=rl.updates_per_step,
        save_strategy="no",  # the callback of finetune says when
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        activation_checkpointing=False,
        disable_dropout=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
        disable_tqdm=True,
        report_to=[],
    )
