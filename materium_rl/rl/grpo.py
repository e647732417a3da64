"""GRPO on crystals: TRL's trainer with our sampler, scores and log-probabilities.

TRL keeps the optimizer, the clipped loss, the KL penalty to the reference policy and the loop. What is
replaced: sampling (the static-cache sampler), scoring (the whole table of outcomes instead of a list of
floats) and the log-probabilities (TRL's own path skips the model's forward, and with it the grammar).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from materium_rl.config import FinetuneConfig
from materium_rl.datasets import pad
from materium_rl.memory import release_memory
from materium_rl.policies.loading import Policy, load_policy, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.rewards.base import Outcome
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.scoring import Scorer
from materium_rl.rl.advantages import group_advantages, normalized_terms, zero_spread_fraction
from materium_rl.rl.guards import Guards
from materium_rl.rl.progress import Progress
from materium_rl.rl.replay import Memory, ReplayBuffer
from materium_rl.rl.rollout import Rollout, collect
from materium_rl.runs import RunFolder
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalTokenizer

ROLLOUT_STATE = "rollout_state.pt"
CHUNK_ROWS = 32
"""Rows of similar length whose log-probabilities are computed together."""


class CrystalGRPOTrainer(GRPOTrainer):
    """One batch of crystals per generation; see ``_generate_and_score_completions``.

    Args:
        policy: Policy to train.
        scorer: Scores the decoded structures.
        guards: Descriptors whose drift is held back.
        config: The whole fine-tuning config.
        run: Where samples, metrics and checkpoints go.
        progress: Shows each step to the user.
    """

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer,
        guards: Guards,
        config: FinetuneConfig,
        run: RunFolder,
        progress: Progress,
    ) -> None:
        self.codec, self.scorer, self.guards = policy.codec, scorer, guards
        self.config, self.run, self.progress = config, run, progress
        super().__init__(
            model=policy.model,
            reward_funcs=[_scored_in_rollout],
            args=trainer_arguments(config, run.path),
            train_dataset=Dataset.from_dict({"prompt": ["[SOS] [ATOMS]"] * config.rl.batch_size}),
            processing_class=CrystalTokenizer(policy.codec.settings),
        )
        self.remove_callback(PrinterCallback)
        self.replay = ReplayBuffer(config.replay.capacity, config.replay.per_framework)
        self._replayed: list[np.ndarray] = []
        self.average = AveragedModel(policy.model, multi_avg_fn=get_ema_multi_avg_fn(config.rl.average_decay))

    def _generate_and_score_completions(self, _inputs: Any) -> dict[str, Tensor]:
        """Sample, decode, score, advantages, record: the inputs of TRL's loss."""
        step = self.state.global_step + 1
        rl = self.config.rl
        rollout = collect(
            self.accelerator.unwrap_model(self.model),
            self.codec,
            self.scorer,
            batch_size=rl.batch_size,
            seed=self.config.seed,
            step=step,
            temperature=rl.temperature,
        )
        rewards, valid = rollout.table.rewards, rollout.table.outcomes != "invalid"
        standard = self.guards.standardise(rollout.structures)
        signal, columns = self._signal(rollout.table)
        advantages = group_advantages(
            signal, rl.group_size, descriptors=standard, floors=self.guards.is_floor
        )
        advantages += np.where(np.isnan(rewards), 0.0, self.guards.restoring(standard, valid))
        self._record(step, rollout, columns | {"advantage": advantages})
        self._remember(step, rollout)
        release_memory()
        torch.manual_seed(
            self.config.seed * 1_000_003 + step
        )  # TRL shuffles the batch: the same after a resume
        return self._loss_inputs(rollout, advantages)

    def _signal(self, table: ScoreTable) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the advantages are relative to, (B,), and columns to record of it.

        The rewards, or the sum of the terms, each normalised within its group.
        """
        power, weights = self.config.rl.reward_power, self.scorer.weights
        if self.scorer.aggregation != "normalized":
            return table.rewards**power, {}
        names = [name for name, weight in weights.items() if weight > 0]
        parts = normalized_terms(
            table.gated_scores(names) ** power,
            np.array([weights[name] for name in names]),
            self.config.rl.group_size,
        )
        columns = {f"{name}.normalized": part for name, part in zip(names, parts.T, strict=True)}
        return parts.sum(axis=1), columns

    def _remember(self, step: int, rollout: Rollout) -> None:
        """Take the batch into the replay buffer, and draw what this update imitates."""
        prompt = self.codec.prompt
        self.replay.add(
            [
                Memory(
                    structure=f"{row.labels['formula']} {row.labels['prototype']}",
                    framework=row.labels["framework"] or row.labels["formula"],
                    reward=row.reward,
                    tokens=[*prompt, *ids[ids != TokenClass.PAD].tolist()],
                )
                for row, ids in zip(rollout.table, rollout.completion_ids, strict=True)
                if row.outcome == Outcome.OK
            ]
        )
        rng = np.random.default_rng((self.config.seed, 3, step))
        self._replayed = [np.array(t) for t in self.replay.draw(self.config.replay.batch_size, rng)]

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """TRL's loss, and the negative log-likelihood per token of the replayed crystals."""
        loss: Tensor = super()._compute_loss(model, inputs)
        if self._replayed:
            policy: CrystalForCausalLM = self.accelerator.unwrap_model(model)
            ids, first = pad(self._replayed).to(loss.device), len(self.codec.prompt)
            log_probs, _ = log_probs_by_length(policy, ids, self.config.rl.temperature, first)
            imitation = -log_probs.sum() / (ids[:, first:] != TokenClass.PAD).sum()
            self._metrics["train"]["replay/nll"].append(float(imitation.detach()))
            loss = loss + self.config.replay.coef * imitation
        return loss

    def _loss_inputs(self, rollout: Rollout, advantages: np.ndarray) -> dict[str, Tensor]:
        mask = rollout.completion_mask
        inputs = {
            "prompt_ids": rollout.prompt_ids,
            "prompt_mask": torch.ones_like(rollout.prompt_ids),
            "completion_ids": rollout.completion_ids,
            "completion_mask": mask,
            "advantages": torch.from_numpy(advantages).to(rollout.log_probs),
            "num_items_in_batch": mask.sum(),
            "old_per_token_logps": rollout.log_probs,
        }
        if self.beta != 0.0:
            whole = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)
            with torch.no_grad():
                inputs["ref_per_token_logps"] = self._get_per_token_logps_and_entropies(
                    self.ref_model, whole, torch.ones_like(whole), rollout.completion_ids.shape[1]
                )[0]
        return inputs

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, _attention_mask: Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Grammar-masked log-probabilities and entropies of the last ``logits_to_keep`` tokens."""
        policy: CrystalForCausalLM = self.accelerator.unwrap_model(model)
        first = input_ids.shape[1] - logits_to_keep
        return *log_probs_by_length(policy, input_ids, self.config.rl.temperature, first), None

    def _record(self, step: int, rollout: Rollout, columns: dict[str, np.ndarray]) -> None:
        frame = rollout.to_frame().assign(**columns)
        self.run.write_samples(step, frame)
        metrics = rollout_metrics(frame, self.scorer.names)
        metrics["frac_reward_zero_std"] = zero_spread_fraction(
            rollout.table.rewards, self.config.rl.group_size
        )
        metrics["completions/mean_length"] = float(rollout.completion_mask.sum(dim=1).float().mean())
        metrics |= {f"guard/{name}": drift for name, drift in self.guards.drift().items()}
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics and show it."""
        super().log(logs, start_time)
        if "loss" in logs:
            row = {"step": self.state.global_step, **logs}
            self.run.append_metrics(row)
            self.progress.show(row)

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        """Write weights, optimizer, schedule, generators, archives and guards under one name."""
        step = self.state.global_step
        with self.run.checkpoint(step, keep=self.config.keep_checkpoints) as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
            (folder / "archives.json").write_text(json.dumps(self.scorer.state_dict()), encoding="utf-8")
            state = {"guards": self.guards.state_dict(), "replay": self.replay.state_dict()}
            torch.save(state, folder / ROLLOUT_STATE)
            averaged = cast("CrystalForCausalLM", self.average.module)
            save_policy(averaged, self.codec.settings, folder / "policy")

    def restore_rollout_state(self, checkpoint: Path) -> None:
        """Load archives, guards, replay and averaged weights; ``train`` loads weights and optimizer."""
        self.average.module.load_state_dict(load_policy(checkpoint / "policy").model.state_dict())
        self.average.n_averaged.fill_(1)
        self.scorer.load_state_dict(json.loads((checkpoint / "archives.json").read_text(encoding="utf-8")))
        state = torch.load(checkpoint / ROLLOUT_STATE, weights_only=False)
        self.guards.load_state_dict(state["guards"])
        self.replay.load_state_dict(state["replay"])


def log_probs_by_length(
    policy: CrystalForCausalLM, input_ids: Tensor, temperature: float, first: int
) -> tuple[Tensor, Tensor]:
    """``token_log_probs`` in chunks of similar length, so that little padding is computed.

    Args:
        policy: Policy.
        input_ids: Whole sequences (B, T), right-padded.
        temperature: Sampling temperature.
        first: Index of the first token that is scored.

    Returns:
        Log-probabilities and entropies, each (B, T - first).
    """
    lengths = (input_ids != TokenClass.PAD).sum(dim=1)
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.split(CHUNK_ROWS):
        longest = int(lengths[rows].max())
        pair = policy.token_log_probs(input_ids[rows, :longest], temperature=temperature, first=first)
        parts.append([nn.functional.pad(x, (0, input_ids.shape[1] - longest)) for x in pair])
    back = order.argsort()
    return torch.cat([p[0] for p in parts])[back], torch.cat([p[1] for p in parts])[back]


def trainer_arguments(config: FinetuneConfig, folder: Path) -> GRPOConfig:
    """TRL's arguments for a fine-tuning config; one optimizer step per batch of completions."""
    rl = config.rl
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=rl.steps * rl.num_iterations,
        per_device_train_batch_size=rl.batch_size,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=rl.group_size,
        num_iterations=rl.num_iterations,
        learning_rate=rl.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=5,
        weight_decay=0.0,
        max_grad_norm=rl.max_grad_norm,
        beta=rl.kl_coef,
        epsilon=rl.clip_range,
        loss_type=rl.loss_type,
        temperature=rl.temperature,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
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


def rollout_metrics(frame: Any, names: list[str]) -> dict[str, float]:
    """Means of a batch for ``metrics.jsonl``, keys as in TRL where TRL has them."""
    rewards = frame["reward"].to_numpy(dtype=float)
    metrics = {"reward": float(np.nanmean(rewards)), "reward_std": float(np.nanstd(rewards))}
    for outcome in ("ok", "invalid", "failed"):
        metrics[f"outcome/{outcome}"] = float((frame["outcome"] == outcome).mean())
    for name in names:
        scores = frame[f"{name}.score"].to_numpy(dtype=float)
        if not np.isnan(scores).all():
            metrics[f"rewards/{name}/mean"] = float(np.nanmean(scores))
            metrics[f"values/{name}/mean"] = float(np.nanmean(frame[f"{name}.value"].to_numpy(dtype=float)))
    prototypes = frame.loc[frame["outcome"] == "ok", "prototype"].value_counts()
    metrics["prototypes/distinct"] = float(len(prototypes))
    metrics["prototypes/top5_share"] = float(prototypes.head(5).sum() / len(frame))
    return metrics


def _scored_in_rollout(**_: Any) -> list[float]:
    raise RuntimeError("rewards are computed in CrystalGRPOTrainer._generate_and_score_completions")
