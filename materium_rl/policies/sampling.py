"""Static KV-cache batch sampler with a seed for every sequence.

All rows of a batch stand at the same position, so no attention mask is needed. The composition comes
first, so that the length of a sequence is known early: the rows are sorted by it, longest first, and
each leaves the batch as soon as it has ended. Each sequence draws its uniforms from its own
counter-based generator, so its crystal does not depend on the batch that it is sampled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from materium_rl.composition import CompositionRules
from materium_rl.grammar import Group, Places, Slot, lattice_index
from materium_rl.policies.conditioning import ConditionBatch
from materium_rl.policies.kv_cache import KeyValueCache
from materium_rl.policies.modeling import CrystalForCausalLM, guide
from materium_rl.token_layout import TokenClass


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


@torch.inference_mode()
def sample(
    model: CrystalForCausalLM,
    seeds: np.ndarray,
    *,
    temperature: float = 1.0,
    prompt: Sequence[int] = (1, 2),
    rules: CompositionRules | None = None,
    conditions: ConditionBatch | None = None,
    guidance: float = 1.0,
) -> Completions:
    """Sample one completion per seed, by inverting the cumulative distribution (no top-k, no top-p).

    Args:
        model: Policy; dropout is off while sampling, the mode is restored afterwards.
        seeds: One row of two unsigned 64-bit words per sequence, (N, 2).
        temperature: Divides the logits.
        prompt: Token ids that every sequence starts with.
        rules: Constraints on the composition of the N sequences (``model.grammar.rules``).
        conditions: Conditions of the N sequences (``model.encode_conditions``).
        guidance: Scale of classifier-free guidance; other than 1, each sequence takes two rows of a step.
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
    copies = 2 if conditions is not None and guidance != 1.0 else 1
    cache = KeyValueCache(model, copies * n, length)
    history = ids[:, : len(prompt)]
    places = grammar.places(history)

    def step() -> Tensor:
        """Last hidden states of the running rows; of guided ones two copies stand side by side."""
        x, after = model.embed(history, places, vectors, conditions)
        if after is None:
            return cache.step(x)
        if copies == 1:
            return cache.step(x) + after[:, -1]
        x = torch.stack([x, model.embed(history, places, vectors)[0]], dim=1).flatten(0, 1)
        pairs = cache.step(x).unflatten(0, (-1, 2))
        return guide(pairs[:, 0] + after[:, -1], pairs[:, 1], guidance)

    if conditions is None:
        beginning, _ = model.embed(history[:1], Places(*(p[:1] for p in places)), vectors)
        hidden = cache.step(beginning).expand(n, -1)
    else:
        hidden = step()
    for position in range(len(prompt), length):
        uniform = uniforms[alive, position]
        tokens, chosen = _draw(
            model, hidden, history, places.slot[:, -1], uniform, temperature, vectors, rules
        )
        ids[alive, position], log_probs[alive, position] = tokens, chosen
        history = torch.cat([history, tokens[:, None]], dim=1)
        places = grammar.places(history, position)
        running = places.slot[:, 0] != Slot.END
        count = int(running.sum())
        if count < len(alive):
            ids[alive[~running], position + 1] = int(TokenClass.EOS)
            if count == 0:
                break
            if not bool(running[:count].all()):  # rows had no length yet when they were last sorted
                order = _longest_first(history)
                cache.reorder(order if copies == 1 else _pairs(order))
                alive, history = alive[order], history[order]
                places = Places(*(p[order] for p in places))
                rules = rules and rules.at(order)
                conditions = conditions and conditions.at(order)
            cache.narrow(copies * count)
            alive, history = alive[:count], history[:count]
            places = Places(*(p[:count] for p in places))
            rules = rules and rules.at(slice(count))
            conditions = conditions and conditions.at(slice(count))
        hidden = step()
    model.train(training)
    end = int((ids != TokenClass.PAD).sum(dim=1).max())
    return Completions(ids[:, len(prompt) : end].clone(), log_probs[:, len(prompt) : end].clone())


def _longest_first(history: Tensor) -> Tensor:
    """Order of (R, T) sequences by length, those first whose number of sites is still open: (R,)."""
    return lattice_index(history).argsort(descending=True, stable=True)


def _pairs(order: Tensor) -> Tensor:
    """The order of rows that stand in pairs, from that of the pairs."""
    return torch.stack([2 * order, 2 * order + 1], dim=1).flatten()


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
        cumulative = distribution.exp().cumsum(dim=-1, dtype=torch.double)
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
    first: int = 0,
    rules: CompositionRules | None = None,
    conditions: ConditionBatch | None = None,
    guidance: float = 1.0,
) -> Completions:
    """Sample n completions in batches; sequence i has the seed (seed, 0, first + i)."""
    parts = [
        sample(
            model,
            sequence_seeds(seed, min(batch_size, n - start), first=first + start),
            temperature=temperature,
            rules=rules and rules.at(slice(start, start + batch_size)),
            conditions=conditions and conditions.at(slice(start, start + batch_size)),
            guidance=guidance,
        )
        for start in range(0, n, batch_size)
    ]
    width = max(p.ids.shape[1] for p in parts)
    return Completions(
        torch.cat([nn.functional.pad(p.ids, (0, width - p.ids.shape[1])) for p in parts]),
        torch.cat([nn.functional.pad(p.log_probs, (0, width - p.log_probs.shape[1])) for p in parts]),
    )
