"""Log-probabilities, entropies and hidden states of the tokens of a batch, with little padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.prompting import UNPROMPTED, PromptTensors
from materium_rl.token_layout import TokenClass

CHUNK_ROWS = 32
"""Rows of similar length that are computed together."""


def log_probs_by_length(
    policy: CrystalForCausalLM,
    input_ids: Tensor,
    temperature: float,
    first: int,
    asked: PromptTensors = UNPROMPTED,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of ``scores_by_length``; arguments as there."""
    log_probs, entropies, _ = scores_by_length(policy, input_ids, temperature, first, asked)
    return log_probs, entropies


def scores_by_length(
    policy: CrystalForCausalLM,
    input_ids: Tensor,
    temperature: float,
    first: int,
    asked: PromptTensors = UNPROMPTED,
) -> tuple[Tensor, Tensor, Tensor]:
    """``token_scores`` in chunks of similar length, so that little padding is computed.

    Args:
        policy: Policy.
        input_ids: Whole sequences (B, T), right-padded.
        temperature: Sampling temperature.
        first: Index of the first token that is scored.
        asked: What the B sequences were asked for when they were sampled.

    Returns:
        Log-probabilities and entropies, each (B, T - first), and hidden states (B, T - first, hidden).
    """
    lengths = (input_ids != TokenClass.PAD).sum(dim=1)
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.split(CHUNK_ROWS):
        longest = int(lengths[rows].max())
        scores = policy.token_scores(
            input_ids[rows, :longest], temperature=temperature, first=first, **asked.at(rows).keywords
        )
        parts.append([_lengthened(x, input_ids.shape[1] - longest) for x in scores])
    back = order.argsort()
    log_probs, entropies, hidden = (torch.cat(chunks)[back] for chunks in zip(*parts, strict=True))
    return log_probs, entropies, hidden


def _lengthened(x: Tensor, columns: int) -> Tensor:
    """(R, L) or (R, L, hidden) with columns of zeros behind."""
    return nn.functional.pad(x, (*[0] * (2 * x.dim() - 4), 0, columns))
