"""One batch of experience: sample, decode, score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Structure
from torch import Tensor

from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import sample, sequence_seeds
from materium_rl.prompting import PromptTensors, prompt_tensors
from materium_rl.prompts import Prompt
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.scoring import Scorer
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalCodec


@dataclass(frozen=True)
class Rollout:
    """B completions with their structures and scores.

    Args:
        prompt_ids: (B, 2).
        completion_ids: (B, T), right-padded.
        log_probs: Behaviour log-probabilities (B, T).
        structures: B decoded structures.
        table: B rows of scores.
        prompts: What each was asked for, B or none.
        asked: The same as tensors.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    log_probs: Tensor
    structures: list[Structure]
    table: ScoreTable
    prompts: Sequence[Prompt]
    asked: PromptTensors

    @property
    def whole(self) -> Tensor:
        """Prompt and completion, (B, 2 + T)."""
        return torch.cat([self.prompt_ids, self.completion_ids], dim=1)

    @property
    def completion_mask(self) -> Tensor:
        """1 for the tokens of a completion, 0 for its padding, (B, T)."""
        return (self.completion_ids != TokenClass.PAD).long()

    def to_frame(self) -> pd.DataFrame:
        """The score table with the tokens, the CIF and the prompt of every sample."""
        frame = self.table.to_frame()
        if self.prompts:
            new = [a is not b for a, b in zip(self.prompts, self.prompts[1:], strict=False)]
            frame["prompt"] = np.cumsum([0, *new])
            frame = frame.join(pd.DataFrame([prompt.columns() for prompt in self.prompts]))
        ids = [row[row != TokenClass.PAD].tolist() for row in self.completion_ids]
        frame["tokens"] = ids
        frame["cif"] = [str(structure.to(fmt="cif")) for structure in self.structures]
        frame["log_prob"] = self.log_probs.sum(dim=1).tolist()
        return frame


def collect(
    model: CrystalForCausalLM,
    codec: CrystalCodec,
    scorer: Scorer,
    *,
    batch_size: int,
    seed: int,
    step: int,
    temperature: float,
    prompts: Sequence[Prompt] = (),
) -> Rollout:
    """Sample a batch with the seeds (seed, step, index), decode and score it.

    Args:
        model: Policy.
        codec: Its tokenizer.
        scorer: Scores the structures.
        batch_size: B.
        seed: Of the run.
        step: Counted from 1.
        temperature: Sampling temperature.
        prompts: What each completion is asked for, B or none.
    """
    seeds = sequence_seeds(seed, batch_size, stream=step)
    asked = prompt_tensors(model, prompts)
    completions = sample(model, seeds, temperature=temperature, prompt=codec.prompt, **asked.keywords)
    structures = [codec.decode(row.tolist()) for row in completions.ids]
    prompt = torch.tensor([codec.prompt] * batch_size, device=completions.ids.device)
    table = scorer.score(structures, asked=[wish.targets() for wish in prompts])
    return Rollout(prompt, completions.ids, completions.log_probs, structures, table, prompts, asked)


def rollout_metrics(frame: pd.DataFrame, names: list[str]) -> dict[str, float]:
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
