"""``materium-rl generate``: sample a policy, write the structures, say what was asked and what was met."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from materium_rl.conditions import NUMBERS, Conditions, combinations, condition_text
from materium_rl.config import GenerateConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.entries import finetune_run
from materium_rl.files import atomic_path
from materium_rl.labels import measure
from materium_rl.policies.conditioning import Statistics
from materium_rl.policies.loading import load_policy
from materium_rl.policies.run_sampling import RunSampling
from materium_rl.policies.sampling import sample_many
from materium_rl.prompting import PromptSource, prompt_tensors
from materium_rl.prompts import Prompt, PromptsConfig
from materium_rl.resources import policy_path
from materium_rl.structure_files import write_structures
from materium_rl.token_layout import TokenClass

FAR = 0.25
"""A value counts as far outside if it is beyond the training range by more than this share of it."""


def generate(config: GenerateConfig) -> Path:
    """Sample crystals and write ``generated.extxyz``, ``generated.parquet`` and ``cif/``.

    Of every combination of the conditions n are sampled. The folder takes its name only when it is complete.
    What was asked, and what the sample has of it, is kept beside every sample.

    Returns:
        The output folder.

    Raises:
        ConfigError: The policy cannot meet the constraints, or does not know a condition.
    """
    policy = load_policy(config.policy, device="cuda" if torch.cuda.is_available() else "cpu")
    how = _how_sampled(config.policy)
    asked = combinations(config.conditions) if config.conditions else []
    prompts = PromptSource(_prompts(config), policy, config.policy).draw_repeated(
        config.n, seed=config.seed, stream=0, repeats=1
    ) or [Prompt(c, config.constraints) for c in asked or [Conditions()] for _ in range(config.n)]
    tensors = prompt_tensors(policy.model, prompts)
    for warning in out_of_range(asked, policy.model.config.condition_statistics or {}):
        print(f"warning: {warning}", file=sys.stderr)
    completions = sample_many(
        policy.model,
        len(prompts),
        seed=config.seed,
        temperature=config.temperature * how.temperature,
        batch_size=config.batch_size,
        guidance=config.guidance,
        **tensors.keywords,
    )
    structures = [policy.codec.decode(row.tolist()) for row in completions.ids]
    measured = measure(structures, list(prompts[0].conditions.given()))
    log_probs = completions.log_probs.sum(dim=1)
    lengths = (completions.ids != TokenClass.PAD).sum(dim=1)
    properties = [
        {
            "index": i,
            "seed": config.seed,
            "policy": config.policy,
            "log_prob": log_prob,
            "n_tokens": length,
            **prompts[i].columns(),
            **{f"measured_{name}": values[i] for name, values in measured.items()},
        }
        for i, (log_prob, length) in enumerate(zip(log_probs.tolist(), lengths.tolist(), strict=True))
    ]
    with atomic_path(config.out) as folder:
        folder.mkdir()
        write_structures(structures, folder / "generated.extxyz", properties=properties)
        write_structures(structures, folder / "generated.parquet", properties=properties)
        write_structures(structures, folder / "cif")
    print(f"{len(structures)} structures in {config.out}: generated.extxyz, generated.parquet, cif/")
    for i, conditions in enumerate(asked):
        rows = slice(i * config.n, (i + 1) * config.n)
        print(
            "; ".join(_met(name, value, measured[name][rows]) for name, value in conditions.given().items())
        )
    return config.out


def _how_sampled(policy: str) -> RunSampling:
    """How the run that a policy comes from says that it is sampled.

    Raises:
        ConfigError: What counts are samples that the run has recorded.
    """
    how = RunSampling.read(policy_path(policy))
    if how.best_of_samples:
        raise ConfigError(
            f"{policy} is a best-of-n run: its policy is what it was, and its best crystals are there; "
            f"see them with: materium-rl discoveries {policy}"
        )
    return how


def _prompts(config: GenerateConfig) -> PromptsConfig:
    """What is to be drawn for the samples: as given, else what the run was trained with."""
    if config.asks:
        return PromptsConfig()
    if config.prompts is not None:
        return config.prompts
    run = finetune_run(config.policy)
    return run.config.prompts if run else PromptsConfig()


def _met(name: str, wanted: Any, found: Sequence[Any]) -> str:
    """How the samples of one request answer it: the middle of the numbers, or the share of those that fit."""
    known = [value for value in found if value is not None]
    if name in NUMBERS:
        low, middle, high = np.quantile(known, [0.1, 0.5, 0.9]) if known else [float("nan")] * 3
        return f"{name} {wanted:g}: median {middle:.3g}, 80 % in {low:.3g}..{high:.3g} {NUMBERS[name].unit}"
    hits = sum(value == condition_text(wanted) for value in known)
    return f"{name} {condition_text(wanted)}: {hits / len(found):.0%}"


def out_of_range(requests: Sequence[Conditions], known: Statistics) -> list[str]:
    """What was asked far outside the training values, one text each."""
    texts: dict[str, None] = {}
    for conditions in requests:
        for name, value in conditions.given().items():
            seen = known[name]
            if name in NUMBERS:
                margin = FAR * (seen["high"] - seen["low"])
                if not seen["low"] - margin <= value <= seen["high"] + margin:
                    span = f"{seen['low']:.3g} to {seen['high']:.3g} {NUMBERS[name].unit}"
                    texts[
                        f"{name}={value:g} is far outside the training values, 99 % of which are {span}"
                    ] = None
            elif "seen" in seen and value not in seen["seen"]:
                texts[f"no training structure has {name}={value}"] = None
    return list(texts)
