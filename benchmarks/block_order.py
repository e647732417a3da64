"""Whether composition, cell and positions should be written in this order or in another.

    python benchmarks/block_order.py --data mp_train.csv.gz --validation mp_val.csv.gz

The grammar of the crystal policy needs the composition first (to spend the atoms of a formula) and the cell
before the positions (to keep atoms apart). Here an ordinary Llama without grammar, which has no such needs,
learns the same structures in several orders of the same tokens: width 128, 4 layers, the same seed, batches
and number of epochs. Given are nats per validation structure; a difference of two orders is that of the same
structures, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from intervals import Estimate, print_table
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from materium_rl.datasets import bucketed_batches, pad, read_reduced, tokenize
from materium_rl.token_layout import CELL_NUMBERS, PROMPT_LENGTH
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of

Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Species (N,), cell with its ``[LATTICE]`` token (7,), positions (N, 3)."""

RATE, DROPOUT, BATCH, WARM_UP = 2e-3, 0.05, 32, 0.1
ORDERS: dict[str, Callable[[Blocks], list[np.ndarray]]] = {
    "composition, cell, positions": lambda b: [b[0], b[1], b[2].ravel()],
    "cell, composition, positions": lambda b: [b[1], b[0], b[2].ravel()],
    "composition, positions, cell": lambda b: [b[0], b[2].ravel(), b[1]],
    "sites with their positions, cell": lambda b: [np.column_stack([b[0], b[2]]).ravel(), b[1]],
    "cell, sites with their positions": lambda b: [b[1], np.column_stack([b[0], b[2]]).ravel()],
}


def blocks(ids: np.ndarray) -> Blocks:
    n_sites = (len(ids) - PROMPT_LENGTH - CELL_NUMBERS - 2) // 4
    cell = PROMPT_LENGTH + n_sites
    positions = cell + 1 + CELL_NUMBERS
    return ids[PROMPT_LENGTH:cell], ids[cell:positions], ids[positions:-1].reshape(n_sites, 3)


def in_order(sequences: list[np.ndarray], order: str) -> list[np.ndarray]:
    return [np.concatenate([ids[:1], *ORDERS[order](blocks(ids)), ids[-1:]]) for ids in sequences]


def nats(model: LlamaForCausalLM, batch: Tensor) -> Tensor:
    """Nats of each of (B, T) sequences after their first token: (B,)."""
    logits = model(batch, attention_mask=batch != 0).logits[:, :-1].float()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
    return (losses * (batch[:, 1:] != 0)).sum(dim=1)


def trained(sequences: list[np.ndarray], vocabulary: int, epochs: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=344,
        attention_dropout=DROPOUT,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    steps = epochs * -(-len(sequences) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=WARM_UP)
    scale = BATCH * float(np.mean([len(s) for s in sequences]))
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in bucketed_batches([len(s) for s in sequences], BATCH, rng):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nats(model, pad([sequences[i] for i in rows])).sum() / scale
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    return model.eval()


def mean(values: np.ndarray) -> Estimate:
    margin = 1.96 * float(values.std()) / len(values) ** 0.5
    return Estimate(float(values.mean()), float(values.mean()) - margin, float(values.mean()) + margin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--structures", type=int, default=8000, help="training structures that are used")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.monotonic()
    read = read_reduced(options.data)
    chosen = pd.Series(range(len(read.rows))).sample(min(options.structures, len(read.rows)), random_state=0)
    read.rows[:] = [read.rows[i] for i in chosen]
    codec = CrystalCodec(TokenizerSettings(species=species_of(row.structure for row in read.rows)))
    training, validation = (tokenize(r, codec).sequences for r in (read, read_reduced(options.validation)))
    found: dict[str, np.ndarray] = {}
    for order in ORDERS:
        model = trained(in_order(training, order), codec.layout.vocab_size, options.epochs)
        held_out = in_order(validation, order)
        with torch.inference_mode():
            parts = [
                nats(model, pad(held_out[i : i + BATCH])).numpy() for i in range(0, len(held_out), BATCH)
            ]
        found[order] = np.concatenate(parts).astype(float)
        print(f"{time.monotonic() - start:6.0f} s  {order}: {found[order].mean():.2f}", file=sys.stderr)
    base = next(iter(found.values()))
    print(f"{len(training)} training and {len(validation)} validation structures, {options.epochs} epochs\n")
    print_table(
        [{"order": name, "nats": mean(v), "less the first": mean(v - base)} for name, v in found.items()]
    )


if __name__ == "__main__":
    main()
