"""How fast a policy is pretrained: this trainer, the plain Hugging Face Trainer.

    python benchmarks/pretraining_speed.py            # nano, about 6 minutes on two quiet cores
    python benchmarks/pretraining_speed.py --quick    # a quarter of the structures, one repeat

One epoch over the same token sequences, whose lengths follow the training structures (``lengths.py``), with
the batch size and the dropout of the preset, once in fp32 and once in bf16 autocast.

- this trainer: batches of similar length, logits group by group, moving average of the weights.
- Trainer, this model: random batches padded to their longest, loss from ``model.forward``, whose logits
  cover the vocabulary and which applies the grammar.
- Trainer, no grammar: the same with the loss of an ordinary language model on the same layers.

Tokens per second count what is not padding. The contenders take turns; medians are given. Wants quiet cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lengths import preset_config, random_policy, rules_for, sites_like_training
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutputWithPast

from materium_rl.config import PretrainConfig
from materium_rl.datasets import pad
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import sample, sequence_seeds
from materium_rl.runs import RunFolder
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings
from materium_rl.trainer import Trainer, TrainingSet

PROMPT = [int(TokenClass.SOS), int(TokenClass.ATOMS)]
IGNORED = -100


@dataclass(frozen=True)
class Speed:
    """Tokens/s without padding, and the share of what the layers computed that was padding."""

    tokens: float
    padding: float


def sequences_like_training(n: int) -> list[np.ndarray]:
    """Grammatical sequences of a small random policy, with the lengths of the training structures."""
    model = random_policy("nano").eval()
    rows: list[np.ndarray] = []
    for sites in sites_like_training(n).split(256):
        seeds = sequence_seeds(len(rows), len(sites))
        ids = sample(model, seeds, prompt=PROMPT, rules=rules_for(model, sites)).ids
        rows += [np.array([*PROMPT, *row[row != 0].tolist()], dtype=np.int32) for row in ids]
    return rows


class Plain(nn.Module):
    """An ordinary language model on the layers and token vectors of a policy: no grammar."""

    def __init__(self, policy: CrystalForCausalLM) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> CausalLMOutputWithPast:
        policy, vectors = self.policy, self.policy.token_vectors()
        inputs, _ = policy.embed(input_ids, policy.grammar.places(input_ids), vectors)
        outputs = policy.model(inputs_embeds=inputs, attention_mask=attention_mask, use_cache=False)
        logits = (outputs.last_hidden_state @ vectors.T).float()
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def this_trainer(config: PretrainConfig, model: CrystalForCausalLM, rows: list[np.ndarray]) -> Speed:
    codec = CrystalCodec(TokenizerSettings.model_validate(model.config.token_settings))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, codec, TrainingSet(rows), TrainingSet(rows[:1]), config, RunFolder(Path(folder))
        )
        padded = 0
        begin = time.perf_counter()
        for batch in trainer._batches():
            padded += len(batch) * max(len(rows[i]) for i in batch)
            trainer._update(batch)
        seconds = time.perf_counter() - begin
    real = trainer.progress.tokens
    return Speed(real / seconds, 1 - real / padded)


class _Clock(TrainerCallback):
    """Seconds from the first step to the last."""

    begin: float | None = None
    seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begin = self.begin or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.begin is not None
        self.seconds = time.perf_counter() - self.begin


class _Collator:
    """Right-pads a batch and counts its tokens."""

    def __init__(self) -> None:
        self.real = self.padded = 0

    def __call__(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        ids = pad([row["input_ids"] for row in rows])
        mask = (ids != 0).long()
        self.real += int(mask.sum())
        self.padded += mask.numel()
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}


def hugging_face(config: PretrainConfig, model: nn.Module, rows: list[np.ndarray]) -> Speed:
    settings, clock, collator = config.training, _Clock(), _Collator()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=settings.bf16,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            lr_scheduler_type="cosine",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        data: Any = [{"input_ids": row} for row in rows]
        trainer = transformers.Trainer(
            model=model, args=arguments, data_collator=collator, train_dataset=data, callbacks=[clock]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return Speed(collator.real / clock.seconds, 1 - collator.real / collator.padded)


Contender = Callable[[PretrainConfig, CrystalForCausalLM, list[np.ndarray]], Speed]

CONTENDERS: dict[str, Contender] = {
    "this trainer": this_trainer,
    "Trainer, this model": hugging_face,
    "Trainer, no grammar": lambda config, model, rows: hugging_face(config, Plain(model), rows),
}


def measured(config: PretrainConfig, name: str, rows: list[np.ndarray], repeats: int) -> dict[str, Speed]:
    """Speeds of all contenders in one dtype, each from the same weights."""
    rounds: dict[str, list[Speed]] = {contender: [] for contender in CONTENDERS}
    for train in CONTENDERS.values():
        train(config, random_policy(name), rows[: config.training.batch_size])
    for _ in range(repeats):
        for contender, train in CONTENDERS.items():
            rounds[contender].append(train(config, random_policy(name), rows))
    return {
        contender: Speed(statistics.median(s.tokens for s in speeds), speeds[0].padding)
        for contender, speeds in rounds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("-n", type=int, default=1280, help="structures")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    begin = time.perf_counter()
    rows = sequences_like_training(arguments.n // 4 if arguments.quick else arguments.n)
    mean = np.mean([len(row) for row in rows])
    print(
        f"{arguments.preset}, {len(rows):,} sequences of {mean:.1f} tokens in the mean, "
        f"{torch.get_num_threads()} torch threads, {len(os.sched_getaffinity(0))} cores, load "
        f"{os.getloadavg()[0]:.1f}.\n"
    )
    print("| arithmetic | | tokens/s | padding | this trainer is faster by |\n|---|---|--:|--:|--:|")
    preset = preset_config(arguments.preset)
    for dtype in ("fp32", "bf16 autocast"):
        training = preset.training.model_copy(update={"bf16": dtype != "fp32", "epochs": 1})
        config = preset.model_copy(update={"training": training})
        speeds = measured(config, arguments.preset, rows, 1 if arguments.quick else arguments.repeats)
        ours = speeds["this trainer"].tokens
        for contender, speed in speeds.items():
            print(
                f"| {dtype} | {contender} | {speed.tokens:,.0f} | {speed.padding:.0%} | "
                f"{ours / speed.tokens:.2f} x |",
                flush=True,
            )
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
