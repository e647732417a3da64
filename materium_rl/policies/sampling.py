"""Static KV-cache batch sampler with a seed for every sequence.

All rows of a batch stand at the same position, so no attention mask is needed; rows that have ended
leave the batch. Each sequence draws its uniforms from its own counter-based generator, so its crystal
does not depend on the batch that it is sampled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from materium_rl.composition import CompositionRules
from materium_rl.grammar import Group, Places, Slot, TokenClass
from materium_rl.policies.modeling import CrystalForCausalLM

COMPACT_BELOW = 0.85
"""Ended rows leave the batch when at most this share of it is still alive."""


@dataclass(frozen=True)
class Completions:
    """Sampled completions, without the prompt.

    Args:
        ids: Token ids (N, T), right-padded with ``[PAD]``.
        log_probs: Behaviour log-probabilities (N, T) in nats at the sampling temperature; 0 for pads.
    """

    ids: Tensor
    log_probs: Tensor


def sequence_seeds(seed: int, n: int, *, stream: int = 0, first: int = 0) -> np.ndarray:
    """Seeds of n sequences, shape (n, 2), from (seed, stream, index) alone.

    Args:
        seed: Seed of the run.
        n: Number of sequences.
        stream: For example the training step.
        first: Index of the first sequence.
    """
    high = np.full(n, (seed << 32) ^ stream, dtype=np.uint64)
    return np.stack([high, np.arange(first, first + n, dtype=np.uint64)], axis=1)


class _Cache:
    """Keys and values of all layers, and the weights in the shape that one-token steps like."""

    def __init__(self, model: CrystalForCausalLM, rows: int, length: int) -> None:
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_dim
        self.layers: list[Any] = list(model.model.layers)  # of transformers' decoder layers, untyped
        shape = (len(self.layers), 2, rows, self.kv_heads, length, self.width)
        self.store = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.norm = model.model.norm
        self.qkv = [
            torch.cat([x.self_attn.q_proj.weight, x.self_attn.k_proj.weight, x.self_attn.v_proj.weight])
            for x in self.layers
        ]
        self.gate_up = [torch.cat([x.mlp.gate_proj.weight, x.mlp.up_proj.weight]) for x in self.layers]
        positions = torch.arange(length, device=model.device)[None]
        self.cos, self.sin = model.model.rotary_emb(self.store, positions)

    def keep(self, rows: Tensor) -> None:
        self.store = self.store[:, :, rows]

    def step(self, x: Tensor, begin: int) -> Tensor:
        """Feed (R, L, hidden) at positions begin..begin+L; returns the last hidden state (R, hidden)."""
        rows, length, _ = x.shape
        end = begin + length
        cos, sin = self.cos[:, begin:end], self.sin[:, begin:end]
        sizes = [self.heads * self.width, self.kv_heads * self.width, self.kv_heads * self.width]
        for i, layer in enumerate(self.layers):
            parts = nn.functional.linear(layer.input_layernorm(x), self.qkv[i]).split(sizes, dim=-1)
            q, k, v = (p.view(rows, length, -1, self.width).transpose(1, 2) for p in parts)
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            self.store[i, 0, :, :, begin:end] = k
            self.store[i, 1, :, :, begin:end] = v
            attended = nn.functional.scaled_dot_product_attention(
                q,
                self.store[i, 0, :, :, :end],
                self.store[i, 1, :, :, :end],
                is_causal=length > 1,
                enable_gqa=self.heads != self.kv_heads,
            )
            x = x + layer.self_attn.o_proj(attended.transpose(1, 2).reshape(rows, length, -1))
            normed = layer.post_attention_layernorm(x)
            gate, up = nn.functional.linear(normed, self.gate_up[i]).chunk(2, dim=-1)
            x = x + layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)
        last: Tensor = self.norm(x[:, -1])
        return last


@torch.inference_mode()
def sample(
    model: CrystalForCausalLM,
    seeds: np.ndarray,
    *,
    temperature: float = 1.0,
    prompt: Sequence[int] = (1, 2),
    rules: CompositionRules | None = None,
) -> Completions:
    """Sample one completion per seed, by inverting the cumulative distribution (no top-k, no top-p).

    Args:
        model: Policy; dropout is off while sampling, the mode is restored afterwards.
        seeds: One row of two unsigned 64-bit words per sequence, (N, 2).
        temperature: Divides the logits.
        prompt: Token ids that every sequence starts with.
        rules: Constraints on the composition of the N sequences (``model.grammar.rules``).
    """
    training = model.training
    model.eval()
    grammar, device = model.grammar, model.device
    n, length = len(seeds), len(prompt) + model.config.layout().max_completion_length
    uniforms = torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(key=key)).random(length) for key in seeds])
    ).to(device)
    vectors = model.token_vectors()
    ids = torch.zeros((n, length), dtype=torch.long, device=device)
    log_probs = torch.zeros((n, length), device=device)
    ids[:, : len(prompt)] = torch.tensor(prompt, device=device)
    alive = torch.arange(n, device=device)
    cache = _Cache(model, n, length)
    history = ids[:, : len(prompt)]
    places = grammar.places(history)
    hidden = cache.step(model.embed(history, places, vectors), 0)
    for position in range(len(prompt), length):
        uniform = uniforms[alive, position]
        tokens, chosen = _draw(
            model, hidden, history, places.slot[:, -1], uniform, temperature, vectors, rules
        )
        ids[alive, position], log_probs[alive, position] = tokens, chosen
        history = torch.cat([history, tokens[:, None]], dim=1)
        places = grammar.places(history, position)
        running = places.slot[:, 0] != Slot.DONE
        count = int(running.sum())
        if count == 0:
            break
        if count <= COMPACT_BELOW * len(alive):
            cache.keep(running.nonzero()[:, 0])
            alive, history = alive[running], history[running]
            places = Places(places.slot[running], places.site[running])
            rules = rules and rules.at(running)
        hidden = cache.step(model.embed(history, places, vectors), position)
    model.train(training)
    end = int((ids != TokenClass.PAD).sum(dim=1).max())
    return Completions(ids[:, len(prompt) : end].clone(), log_probs[:, len(prompt) : end].clone())


def _draw(
    model: CrystalForCausalLM,
    hidden: Tensor,
    history: Tensor,
    slot: Tensor,
    uniform: Tensor,
    temperature: float,
    vectors: Tensor,
    rules: CompositionRules | None,
) -> tuple[Tensor, Tensor]:
    """Next token of each row of (R, T) sequences, and its log-probability: (R,), (R,)."""
    grammar = model.grammar
    groups, tokens = grammar.group[slot], grammar.forced_token[slot]
    chosen = torch.zeros(len(tokens), device=tokens.device)
    for group in Group:
        rows = (groups == group).nonzero()[:, 0]
        if group is Group.FORCED or len(rows) == 0:
            continue
        positions = torch.full_like(rows, history.shape[1] - 1)
        these = rules and rules.at(rows)
        logits = model.group_logits(hidden[rows], history[rows], positions, group, vectors, these)
        distribution = torch.log_softmax(logits / temperature, dim=-1)
        cumulative = distribution.double().exp().cumsum(dim=-1)
        point = uniform[rows, None] * cumulative[:, -1:]
        index = torch.searchsorted(cumulative, point, right=True).clamp(max=logits.shape[1] - 1)
        tokens[rows] = index[:, 0] + grammar.token_range(group)[0]
        chosen[rows] = distribution.gather(1, index)[:, 0]
    return tokens, chosen


def sample_many(
    model: CrystalForCausalLM,
    n: int,
    *,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 128,
    rules: CompositionRules | None = None,
) -> Completions:
    """Sample n completions in batches; sequence i has the seed (seed, 0, i)."""
    parts = [
        sample(
            model,
            sequence_seeds(seed, min(batch_size, n - first), first=first),
            temperature=temperature,
            rules=rules and rules.at(slice(first, first + batch_size)),
        )
        for first in range(0, n, batch_size)
    ]
    width = max(p.ids.shape[1] for p in parts)
    return Completions(
        torch.cat([nn.functional.pad(p.ids, (0, width - p.ids.shape[1])) for p in parts]),
        torch.cat([nn.functional.pad(p.log_probs, (0, width - p.log_probs.shape[1])) for p in parts]),
    )
