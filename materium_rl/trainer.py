"""The training loop of a crystal policy.

Batches of similar length in random order, bf16 autocast, AdamW with warm-up and a cosine, an exponential
moving average of the weights, validation in nats per structure with a few samples, early stopping. Several
processes share each batch and stay equal (``processes``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from materium_rl.config import PretrainConfig, TrainingConfig
from materium_rl.datasets import bucketed_batches, equivalent, pad
from materium_rl.errors import MateriumError
from materium_rl.files import atomic_path
from materium_rl.interrupts import GracefulInterrupt
from materium_rl.memory import release_memory
from materium_rl.policies.card import LOSS
from materium_rl.policies.conditioning import ConditionBatch, condition_names
from materium_rl.policies.loading import save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import sample_many
from materium_rl.processes import Processes
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.validity import Validity
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import CrystalCodec

EVALUATION_BATCH = 128
EVALUATION_SAMPLES = 32
RELEASE_EVERY = 10
"""Steps between two ``release_memory``."""
FIXED = ("learning_rate", "weight_decay")
"""Training options that a resumed run cannot change, since the optimizer carries them."""
BATCH = "structures per step"
"""As fixed: the batches that are still to come in an epoch depend on it."""
ALONE = Processes()
KEEP_CHECKPOINTS = 2
"""The newest to resume from, and the one before it; the best weights are kept apart, in ``policy``."""
SINGLE, KEPT = 0.7, 0.2
"""Share of the conditioned structures that show one condition alone, and the chance of each in the others."""
ASKED_ALONE = {"space_group": 5.0, "density": 3.0, "band_gap": 4.0, "formula": 2.0}
"""Weights of the conditions that are asked for most often alone, and are hard to learn; 1 for the others."""


@dataclass(frozen=True)
class TrainingSet:
    """Token sequences to learn, with the conditions of each if the policy learns any."""

    sequences: Sequence[np.ndarray]
    conditions: ConditionBatch | None = None


@dataclass
class Progress:
    """Where a training stands; saved in every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    """Training loss since the last validation, in nats, over ``loss_count`` structures."""
    loss_count: int = 0


def nats_per_structure(
    model: CrystalForCausalLM,
    sequences: Sequence[np.ndarray],
    device: torch.device,
    conditions: ConditionBatch | None = None,
) -> float:
    """Mean negative log-likelihood of whole sequences, in nats (depends on the grid and the steps)."""
    model.eval()
    order = np.argsort([len(s) for s in sequences])
    total = 0.0
    with torch.inference_mode():
        for i in range(0, len(order), EVALUATION_BATCH):
            rows = order[i : i + EVALUATION_BATCH]
            asked = conditions and conditions.at(torch.from_numpy(rows)).to(device)
            batch = pad([sequences[j] for j in rows]).to(device)
            total -= float(model.token_log_probs(batch, conditions=asked)[0].sum())
    return total / len(sequences)


def sample_table(model: CrystalForCausalLM, codec: CrystalCodec, n: int, *, seed: int) -> pd.DataFrame:
    """Samples of a policy, one row each: formula, n_sites, valid, reason of an invalid one, cif."""
    completions = sample_many(model, n, seed=seed)
    structures = [codec.decode(row.tolist()) for row in completions.ids]
    reasons = [r.reason if isinstance(r, Invalid) else "" for r in Validity().measure(structures)]
    rows = [
        {
            "formula": structure.composition.element_composition.reduced_formula,
            "n_sites": len(structure),
            "valid": not reason,
            "reason": reason,
            "cif": structure.to(fmt="cif"),
        }
        for structure, reason in zip(structures, reasons, strict=True)
    ]
    return pd.DataFrame(rows)


class Trainer:
    """One training run; all its state is in ``state_dict``.

    Args:
        model: Policy to train, on its device.
        codec: Codec of the sequences.
        training: What to learn.
        validation: What stops the training.
        config: The whole pretraining config.
        run: Where metrics and checkpoints go.
        processes: Those that train together with this one.
    """

    def __init__(
        self,
        model: CrystalForCausalLM,
        codec: CrystalCodec,
        training: TrainingSet,
        validation: TrainingSet,
        config: PretrainConfig,
        run: RunFolder,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.codec, self.config, self.run = model, codec, config, run
        self.training, self.validation, self.processes = training, validation, processes
        self.device = next(model.parameters()).device
        self.settings: TrainingConfig = config.training
        self.batch_size = self.settings.batch_size * processes.count
        self.batches_per_epoch = math.ceil(len(training.sequences) / self.batch_size)
        self.mean_length = float(np.mean([len(s) for s in training.sequences]))
        self.total_steps = self.batches_per_epoch * self.settings.epochs
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, self.settings.weight_decay),
            **optimizer_options(self.settings, self.device),
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema_decay))
        if config.model.attention == "flash_attention_2":  # has no fp32, in which the average validates
            self._policy.set_attn_implementation("sdpa")
        self.progress = Progress()
        self.interrupted = False

    def _rate(self, step: int) -> float:
        if step < self.settings.warmup_steps:
            return (step + 1) / self.settings.warmup_steps
        done = (step - self.settings.warmup_steps) / max(1, self.total_steps - self.settings.warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def fit(self, interrupt: GracefulInterrupt) -> Progress:
        """Train until the last epoch, an interrupt, or ``patience`` validations without improvement.

        An interrupt of any process stops all of them (``interrupted``). It saves without validating, so that
        a resumed run is the uninterrupted one.

        Raises:
            MateriumError: The validation loss is no finite number any more.
        """
        started = time.monotonic()
        if self.progress.stale >= self.settings.patience:
            return self.progress
        for batch in self._batches():
            progress = self.progress
            progress.loss_sum += self._update(batch)
            progress.loss_count += len(batch)
            if progress.step % RELEASE_EVERY == 0:
                release_memory()
            evaluate = progress.step % self.settings.eval_every == 0 or progress.step == self.total_steps
            self.interrupted = any(self.processes.sum(interrupt.requested))
            if evaluate or self.interrupted:
                progress.seconds += time.monotonic() - started
                started = time.monotonic()
                if evaluate:
                    self.progress = self.processes.from_main(self._evaluate)
                self.processes.from_main(self._save)
            if self.interrupted or self.progress.stale >= self.settings.patience:
                break
        return self.progress

    def _batches(self) -> Iterator[np.ndarray]:
        lengths = [len(s) for s in self.training.sequences]
        while self.progress.epoch < self.settings.epochs:
            rng = np.random.default_rng((self.config.seed, 1, self.progress.epoch))
            batches = list(bucketed_batches(lengths, self.batch_size, rng))
            while self.progress.batch < len(batches):
                batch = batches[self.progress.batch]
                self.progress.batch += 1
                yield batch
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _augmented(self, index: int) -> np.ndarray:
        ids = self.training.sequences[index]
        rng = np.random.default_rng((self.config.seed, 2, self.progress.epoch, int(index)))
        share = self.settings.augment * (1 - self.progress.step / self.total_steps)
        return equivalent(ids, self.codec, rng) if rng.random() < share else ids

    def _conditions(self, batch: np.ndarray) -> ConditionBatch | None:
        """What the structures of a batch show of their conditions in this epoch."""
        conditions = self.training.conditions
        if conditions is None:
            return None
        rows = conditions.at(torch.from_numpy(batch))
        kept = np.stack(
            [self._shown(int(i), given) for i, given in zip(batch, rows.given.numpy(), strict=True)]
        )
        return rows.keep(torch.from_numpy(kept)).to(self.device)

    def _shown(self, index: int, given: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng((self.config.seed, 3, self.progress.epoch, index))
        if rng.random() < self.config.conditions.dropout or not given.any():
            return np.zeros_like(given)
        if rng.random() < SINGLE:
            names = condition_names(self.config.conditions.names)
            weights = np.array([ASKED_ALONE.get(name, 1.0) for name in names]) * given
            only: np.ndarray = np.arange(len(given)) == rng.choice(len(given), p=weights / weights.sum())
            return only
        shown: np.ndarray = rng.random(len(given)) < KEPT
        return shown

    def _update(self, batch: np.ndarray) -> float:
        """One optimizer step; returns the summed loss of the batch in nats."""
        self.model.train()
        if self.processes.count > 1:  # no generator of each to save: dropout depends on step and process only
            key = (self.config.seed, 4, self.progress.step, self.processes.index)
            torch.manual_seed(int(np.random.default_rng(key).integers(2**63)))
        loss, tokens = self._backward(self.processes.share(batch), len(batch) * self.mean_length)
        self.processes.sum_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        summed, real = self.processes.sum(float(loss), tokens)
        self.progress.step += 1
        self.progress.tokens += int(real)
        return summed

    def _backward(self, rows: np.ndarray, scale: float) -> tuple[Tensor, int]:
        """Gradient of the loss of some structures over ``scale``; returns the loss, nats, and the tokens."""
        if len(rows) == 0:
            return torch.zeros(()), 0
        tokens = pad([self._augmented(i) for i in rows]).to(self.device)
        asked = self._conditions(rows)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            loss: Tensor = -self.model.token_log_probs(tokens, conditions=asked)[0].sum()
        # Batches hold structures of similar length: over its own tokens a long structure would count less.
        (loss / scale).backward()
        return loss.detach(), int((tokens != 0).sum())

    @property
    def _policy(self) -> CrystalForCausalLM:
        return cast("CrystalForCausalLM", self.average.module)

    def _evaluate(self) -> Progress:
        """Validate and sample the averaged weights; keep them if they are the best so far."""
        progress = self.progress
        sequences, conditions = self.validation.sequences, self.validation.conditions
        loss = nats_per_structure(self._policy, sequences, self.device)
        told = None
        if conditions is not None:
            told = nats_per_structure(self._policy, sequences, self.device, conditions)
        if not math.isfinite(loss):
            raise MateriumError(
                f"training diverged: the validation loss is {loss} at step {progress.step}; lower "
                "training.learning_rate or lengthen training.warmup_steps"
            )
        samples = sample_table(self._policy, self.codec, EVALUATION_SAMPLES, seed=self.config.seed)
        score = loss if told is None else (loss + told) / 2
        better = score < progress.best - 0.01
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best, progress.best_step = score, progress.step
            with atomic_path(self.run.path / "policy") as folder:
                save_policy(self._policy, self.codec.settings, folder, facts=self._facts(loss))
        self.run.write_samples(progress.step, samples)
        self._record(loss, told, float(samples["valid"].mean()), better)
        progress.loss_sum, progress.loss_count = 0.0, 0
        return progress

    def _facts(self, validation_loss: float) -> dict[str, str]:
        """Rows of the model card."""
        return {
            "data": f"{len(self.training.sequences):,} training and {len(self.validation.sequences):,} "
            "validation structures",
            "training": f"{self.progress.step:,} steps of {self.batch_size} structures, "
            f"seed {self.config.seed}",
            LOSS: f"{validation_loss:.2f}",
        }

    def _record(self, validation_loss: float, told: float | None, valid: float, better: bool) -> None:
        progress = self.progress
        row = {
            "step": progress.step,
            "epoch": progress.epoch + progress.batch / self.batches_per_epoch,
            "train/nats_per_structure": progress.loss_sum / progress.loss_count,
            "validation/nats_per_structure": validation_loss,
            "samples/valid": valid,
            "learning_rate": self.schedule.get_last_lr()[0],
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "seconds": progress.seconds,
        }
        if told is not None:
            row["validation/nats_with_all_conditions"] = told
        self.run.append_metrics(row)
        with_conditions = f" ({told:.2f} with all conditions)" if told is not None else ""
        print(
            f"step {progress.step}/{self.total_steps}  epoch {row['epoch']:.2f}  "
            f"train {row['train/nats_per_structure']:.2f}  "
            f"validation {validation_loss:.2f}{with_conditions} nats/structure{' *' if better else ''}  "
            f"valid {valid:.0%} of {EVALUATION_SAMPLES}  {row['tokens_per_second']:.0f} tokens/s",
            flush=True,
        )

    def _save(self) -> None:
        with self.run.checkpoint(self.progress.step, keep=KEEP_CHECKPOINTS) as folder:
            torch.save(self.state_dict(), folder / "trainer.pt")
            (folder / "progress.json").write_text(json.dumps(vars(self.progress)), encoding="utf-8")
            save_policy(self._policy, self.codec.settings, folder / "policy")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run that it continues."""
        digest = hashlib.sha256()
        for ids in (*self.training.sequences, *self.validation.sequences):
            digest.update(ids.tobytes())
        return {
            "species": len(self.codec.settings.species),
            "training structures": len(self.training.sequences),
            "validation structures": len(self.validation.sequences),
            "digest of all token sequences": digest.hexdigest()[:16],
            "conditions": ", ".join(self.config.conditions.names),
            "model": self.config.model.model_dump(mode="json"),
            "seed": self.config.seed,
            BATCH: self.batch_size,
            **{f"training.{key}": getattr(self.settings, key) for key in FIXED},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that ``load_state_dict`` needs to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": vars(self.progress),
            "identity": self.identity(),
            "rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"][0], self.device)


def optimizer_options(settings: TrainingConfig, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of AdamW; the fused kernel on a GPU."""
    return {"lr": settings.learning_rate, "betas": (0.9, 0.95), "fused": device.type == "cuda"}


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    other = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
