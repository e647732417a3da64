"""Next-token training of a crystal policy.

The loop: batches of similar length in random order, bf16 autocast, AdamW with warm-up and a cosine,
an exponential moving average of the weights, validation in nats per structure, early stopping.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from materium_rl.config import PretrainConfig, TrainingConfig
from materium_rl.datasets import TokenizedStructures, bucketed_batches, equivalent, pad, read_reduced, tokenize
from materium_rl.errors import StructureFileError
from materium_rl.interrupts import GracefulInterrupt
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.runs import RunFolder
from materium_rl.structure_files import ReadResult
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of

EVALUATION_BATCH = 128
HELD_OUT = 0.05
"""Share of the data that validates when no validation data are named."""


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


def nats_per_structure(model: nn.Module, sequences: Sequence[np.ndarray], device: torch.device) -> float:
    """Mean negative log-likelihood of whole sequences, in nats (depends on the grid and the steps)."""
    model.eval()
    order = np.argsort([len(s) for s in sequences])
    total = 0.0
    with torch.inference_mode():
        for i in range(0, len(order), EVALUATION_BATCH):
            batch = pad([sequences[j] for j in order[i : i + EVALUATION_BATCH]]).to(device)
            total -= model.token_log_probs(batch)[0].sum().item()  # type: ignore[operator]
    return total / len(sequences)


class Trainer:
    """One training run; all its state is in ``state_dict``.

    Args:
        model: Policy to train, on its device.
        codec: Codec of the sequences.
        training: Token sequences to learn.
        validation: Token sequences that stop the training.
        config: The whole pretraining config.
        run: Where metrics and checkpoints go.
    """

    def __init__(
        self,
        model: CrystalForCausalLM,
        codec: CrystalCodec,
        training: Sequence[np.ndarray],
        validation: Sequence[np.ndarray],
        config: PretrainConfig,
        run: RunFolder,
    ) -> None:
        self.model, self.codec, self.config, self.run = model, codec, config, run
        self.training, self.validation = training, validation
        self.device = next(model.parameters()).device
        self.settings: TrainingConfig = config.training
        self.batches_per_epoch = math.ceil(len(training) / self.settings.batch_size)
        self.total_steps = self.batches_per_epoch * self.settings.epochs
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, self.settings.weight_decay),
            lr=self.settings.learning_rate,
            betas=(0.9, 0.95),
            fused=self.device.type == "cuda",
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema_decay))
        self.progress = Progress()

    def _rate(self, step: int) -> float:
        if step < self.settings.warmup_steps:
            return (step + 1) / self.settings.warmup_steps
        done = (step - self.settings.warmup_steps) / max(1, self.total_steps - self.settings.warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def fit(self, interrupt: GracefulInterrupt) -> Progress:
        """Train until the last epoch, an interrupt, or ``patience`` validations without improvement."""
        progress = self.progress
        started, loss_sum, count = time.monotonic(), 0.0, 0
        for batch in self._batches():
            loss_sum += self._update(batch)
            count += len(batch)
            stop = interrupt.requested or progress.step == self.total_steps
            if progress.step % self.settings.eval_every == 0 or stop:
                progress.seconds += time.monotonic() - started
                started = time.monotonic()
                self._evaluate(loss_sum / count)
                loss_sum, count = 0.0, 0
                if stop or progress.stale >= self.settings.patience:
                    break
        return progress

    def _batches(self) -> Iterator[np.ndarray]:
        lengths = [len(s) for s in self.training]
        while self.progress.epoch < self.settings.epochs:
            rng = np.random.default_rng((self.config.seed, 1, self.progress.epoch))
            batches = list(bucketed_batches(lengths, self.settings.batch_size, rng))
            while self.progress.batch < len(batches):
                batch = batches[self.progress.batch]
                self.progress.batch += 1
                yield batch
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _augmented(self, index: int) -> np.ndarray:
        ids = self.training[index]
        rng = np.random.default_rng((self.config.seed, 2, self.progress.epoch, int(index)))
        return equivalent(ids, self.codec, rng) if rng.random() < self.settings.augment else ids

    def _update(self, batch: np.ndarray) -> float:
        """One optimizer step; returns the summed loss of the batch in nats."""
        self.model.train()
        tokens = pad([self._augmented(i) for i in batch]).to(self.device)
        real = int((tokens != 0).sum())
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            loss: Tensor = -self.model.token_log_probs(tokens)[0].sum()
        (loss / real).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        self.progress.step += 1
        self.progress.tokens += real
        return float(loss.detach())

    def _evaluate(self, training_loss: float) -> None:
        progress = self.progress
        loss = nats_per_structure(self.average.module, self.validation, self.device)
        better = loss < progress.best - 0.01
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best, progress.best_step = loss, progress.step
        row = {
            "step": progress.step,
            "epoch": progress.epoch + progress.batch / self.batches_per_epoch,
            "train/nats_per_structure": training_loss,
            "validation/nats_per_structure": loss,
            "learning_rate": self.schedule.get_last_lr()[0],
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "seconds": progress.seconds,
        }
        self.run.append_metrics(row)
        print(
            f"step {progress.step}/{self.total_steps}  epoch {row['epoch']:.2f}  train {training_loss:.2f}  "
            f"validation {loss:.2f} nats/structure{' *' if better else ''}  {row['tokens_per_second']:.0f} tokens/s",
            flush=True,
        )
        with self.run.checkpoint(progress.step, keep=2) as folder:
            torch.save(self.state_dict(), folder / "trainer.pt")
            (folder / "progress.json").write_text(json.dumps(vars(progress)), encoding="utf-8")
            save_policy(self.average.module, self.codec.settings, folder / "policy")
        if better:
            save_policy(self.average.module, self.codec.settings, self.run.path / "policy")

    def state_dict(self) -> dict[str, Any]:
        """Everything that ``load_state_dict`` needs to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": vars(self.progress),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def pretrain(config: PretrainConfig, run: Path, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a policy on structure files; returns the run folder, whose ``policy`` is the best one.

    Raises:
        StructureFileError: Nothing usable in the data; nothing has been written then.
        KeyboardInterrupt: Ctrl-C, after a checkpoint has been written.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, validation = _read(config)
    settings = _token_settings(config, training)
    codec = CrystalCodec(settings)
    train_set, validation_set = tokenize(training, codec), tokenize(validation, codec)
    _report("training", train_set)
    _report("validation", validation_set)
    model = build_model(settings, config.model).to(device)
    folder = RunFolder.create(run, config, resume=resume, overwrite=overwrite)
    (folder.path / "dropped.txt").write_text(
        "".join(f"{d.source}\t{d.kind}\t{d.message}\n" for d in train_set.dropped + validation_set.dropped)
    )
    trainer = Trainer(model, codec, train_set.sequences, validation_set.sequences, config, folder)
    checkpoint = folder.latest_checkpoint() if resume else None
    if checkpoint:
        trainer.load_state_dict(torch.load(checkpoint / "trainer.pt", map_location=device))
    with GracefulInterrupt() as interrupt:
        progress = trainer.fit(interrupt)
    if interrupt.requested:
        raise KeyboardInterrupt
    print(f"best validation {progress.best:.2f} nats/structure at step {progress.best_step}: {folder.path / 'policy'}")
    return folder.path


def _read(config: PretrainConfig) -> tuple[ReadResult, ReadResult]:
    oxidation = config.tokenizer.oxidation
    training = read_reduced(config.data, oxidation=oxidation)
    if config.validation_data:
        return training, read_reduced(config.validation_data, oxidation=oxidation)
    held_out = np.random.default_rng(config.seed).random(len(training.rows)) < HELD_OUT
    parts = [[row for row, out in zip(training.rows, held_out, strict=True) if out == part] for part in (0, 1)]
    if not parts[0] or not parts[1]:
        raise StructureFileError(
            f"{config.data} holds {len(training.rows)} usable structures, too few to hold some out; "
            "give more, or name others with --validation"
        )
    return ReadResult(parts[0], training.dropped), ReadResult(parts[1], [])


def _token_settings(config: PretrainConfig, training: ReadResult) -> TokenizerSettings:
    options = config.tokenizer.model_dump(exclude={"oxidation"})
    return TokenizerSettings(species=species_of(row.structure for row in training.rows), **options)


def _report(name: str, data: TokenizedStructures) -> None:
    kinds = Counter(str(d.kind) for d in data.dropped)
    detail = f" ({', '.join(f'{kind} {count}' for kind, count in kinds.most_common())})" if kinds else ""
    print(f"{name}: {len(data)} structures, {len(data.dropped)} dropped{detail}", flush=True)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    other = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
