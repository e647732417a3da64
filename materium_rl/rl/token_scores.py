"""Log-probabilities, entropies and values of the tokens of a batch, with little padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.token_layout import TokenClass

CHUNK_ROWS = 32
"""Rows of similar length that are computed together."""


def log_probs_by_length(
    policy: CrystalForCausalLM, input_ids: Tensor, temperature: float, first: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, each (B, T - first); see ``scores_by_length``."""
    log_probs, entropies = scores_by_length(policy, input_ids, temperature, first)
    return log_probs, entropies


def scores_by_length(
    policy: CrystalForCausalLM,
    input_ids: Tensor,
    temperature: float,
    first: int,
    *heads: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """``token_log_probs``, and heads on the hidden states, in chunks of similar length.

    Args:
        policy: Policy.
        input_ids: Whole sequences (B, T), right-padded.
        temperature: Sampling temperature.
        first: Index of the first token that is scored.
        *heads: Each makes (R, L) numbers of the hidden states (R, L, hidden) that the tokens follow.

    Returns:
        Log-probabilities, entropies and the numbers of each head, each (B, T - first).
    """
    lengths = (input_ids != TokenClass.PAD).sum(dim=1)
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.split(CHUNK_ROWS):
        longest = int(lengths[rows].max())
        log_probs, entropies, hidden = policy.token_scores(
            input_ids[rows, :longest], temperature=temperature, first=first
        )
        scores = [log_probs, entropies, *(head(hidden) for head in heads)]
        parts.append([nn.functional.pad(x, (0, input_ids.shape[1] - longest)) for x in scores])
    back = order.argsort()
    return [torch.cat(chunks)[back] for chunks in zip(*parts, strict=True)]
