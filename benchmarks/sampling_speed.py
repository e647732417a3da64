"""How fast structures are sampled: this sampler, uncached loops, Hugging Face generate.

    python benchmarks/sampling_speed.py            # about 7 minutes on two quiet cores
    python benchmarks/sampling_speed.py --quick    # fp32 at batch 128 only, one repeat

All contenders sample from the same weights under the same grammar at temperature 1, and write the same
numbers of sites, which follow the training structures (``lengths.py``).

- plain loop: one sequence at a time, ``forward`` over the whole prefix for each token and a draw from its
  last logits (the code path of the Materium paper).
- lean loop: the same without what ``forward`` computes in vain: logits of the last position only and only of
  the range that the grammar allows; no layers for tokens that are forced.
- generate: ``model.generate`` with its dynamic and with its static cache; the faster of the two counts.

All are spared what this sampler pays once a batch and they would pay each token: the token vectors are
computed beforehand. Tokens per second count the written tokens through [EOS], without padding. The
contenders take turns; medians are given. The sequences of every run are checked. Prints a Markdown
table. Wants quiet cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lengths import preset_policy, rules_for, sites_like_training
from torch import Tensor

from materium_rl.composition import CompositionRules
from materium_rl.grammar import Grammar, Group
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import sample, sequence_seeds
from materium_rl.token_layout import PROMPT_LENGTH, TokenClass

PROMPT = [int(TokenClass.SOS), int(TokenClass.ATOMS)]
ALONE = 4
"""Structures that are written one by one, by the loops and at batch 1."""
WARM_UP_SITES = 2
CHECKED = 16
"""Sequences of each run that are read by the grammar."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Contender = Callable[[CrystalForCausalLM, CompositionRules], list[Tensor]]
"""(policy, numbers of sites of N rows) -> N whole sequences."""


def rows_of(rules: CompositionRules) -> int:
    assert rules.row is not None
    return len(rules.row)


def trimmed(rows: Tensor) -> list[Tensor]:
    """Each row of (N, T) through its [EOS]."""
    return [row[row != TokenClass.PAD] for row in rows]


def this_sampler(model: CrystalForCausalLM, rules: CompositionRules) -> list[Tensor]:
    ids = sample(model, sequence_seeds(0, rows_of(rules)), prompt=PROMPT, rules=rules).ids
    return trimmed(torch.cat([torch.tensor(PROMPT).expand(len(ids), -1), ids], dim=1))


@contextmanager
def ready_vectors(model: CrystalForCausalLM) -> Iterator[Tensor]:
    """Token vectors as a table, as in a model without numeric embeddings."""
    vectors = model.token_vectors()
    model.token_vectors = lambda: vectors  # type: ignore[method-assign]
    try:
        yield vectors
    finally:
        del model.token_vectors


@torch.inference_mode()
def plain_loop(model: CrystalForCausalLM, rules: CompositionRules) -> list[Tensor]:
    with ready_vectors(model):
        return [written_by_forward(model, rules.at(slice(i, i + 1))) for i in range(rows_of(rules))]


def written_by_forward(model: CrystalForCausalLM, rules: CompositionRules) -> Tensor:
    ids = torch.tensor([PROMPT])
    while ids[0, -1] != TokenClass.EOS:
        logits = model(ids, rules=rules, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return ids[0]


@torch.inference_mode()
def lean_loop(model: CrystalForCausalLM, rules: CompositionRules) -> list[Tensor]:
    with ready_vectors(model) as vectors:
        return [written_alone(model, rules.at(slice(i, i + 1)), vectors) for i in range(rows_of(rules))]


def written_alone(model: CrystalForCausalLM, rules: CompositionRules, vectors: Tensor) -> Tensor:
    grammar = model.grammar
    ids = torch.tensor([PROMPT])
    while ids[0, -1] != TokenClass.EOS:
        places = grammar.places(ids)
        slot = places.slot[:, -1]
        group, token = Group(int(grammar.group[slot])), grammar.forced_token[slot]
        if group is not Group.FORCED:
            hidden = model.model(inputs_embeds=model.embed(ids, places, vectors)[0], use_cache=False)
            position = torch.tensor([ids.shape[1] - 1])
            last = hidden.last_hidden_state[:, -1]
            logits = model.group_logits(last, ids, position, group, vectors, rules)
            token = torch.multinomial(logits.softmax(-1), 1)[0] + grammar.token_range(group)[0]
        ids = torch.cat([ids, token[None]], dim=1)
    return ids[0]


def hugging_face(cache: str) -> Contender:
    @torch.inference_mode()
    def generate(model: CrystalForCausalLM, rules: CompositionRules) -> list[Tensor]:
        prompt = torch.tensor([PROMPT] * rows_of(rules))
        with ready_vectors(model):
            rows = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=model.config.layout().max_completion_length,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=int(TokenClass.PAD),
                eos_token_id=int(TokenClass.EOS),
                cache_implementation=cache,
                rules=rules,
            )
        return trimmed(rows)

    return generate


CONTENDERS: dict[str, Contender] = {
    "this sampler": this_sampler,
    "plain loop": plain_loop,
    "lean loop": lean_loop,
    "dynamic": hugging_face("dynamic"),
    "static": hugging_face("static"),
}


@dataclass(frozen=True)
class Setting:
    """One line of measurements.

    Args:
        names: Contenders.
        sites: Numbers of sites, (N,).
        batch: Sequences at once.
        repeats: At least this many, twice as many where they are short.
    """

    names: tuple[str, ...]
    sites: Tensor
    batch: int
    repeats: int

    def speeds(self, model: CrystalForCausalLM) -> dict[str, float]:
        """Median tokens/s of each contender."""
        short = rules_for(model, torch.full((self.batch,), WARM_UP_SITES))
        for name in self.names:
            CONTENDERS[name](model, short)
        rules = rules_for(model, self.sites)
        rounds: dict[str, list[float]] = {name: [] for name in self.names}
        begin = time.perf_counter()
        for repeat in range(2 * self.repeats):
            if repeat >= self.repeats and time.perf_counter() - begin > 20:
                break
            for name in self.names:
                seconds, written = self.timed(model, CONTENDERS[name], rules)
                rounds[name].append(sum(len(row) - PROMPT_LENGTH for row in written) / seconds)
                check(written, self.sites, model.grammar)
        return {name: statistics.median(values) for name, values in rounds.items()}

    def timed(
        self, model: CrystalForCausalLM, contender: Contender, rules: CompositionRules
    ) -> tuple[float, list[Tensor]]:
        """Seconds of one run, and what it wrote."""
        begin = time.perf_counter()
        written: list[Tensor] = []
        for first in range(0, len(self.sites), self.batch):
            written += contender(model, rules.at(slice(first, first + self.batch)))
        return time.perf_counter() - begin, written


def check(written: list[Tensor], sites: Tensor, grammar: Grammar) -> None:
    """Raise unless every sequence has its number of sites and the first ``CHECKED`` follow the grammar."""
    lengths = [len(row) - PROMPT_LENGTH for row in written]
    if lengths != (4 * sites + 8).tolist():
        raise AssertionError(f"sequences of {lengths} tokens, expected {(4 * sites + 8).tolist()}")
    for row in written[:CHECKED]:
        if not grammar.accepts(row):
            raise AssertionError(f"the grammar does not allow {row.tolist()}")


def lines(name: str, dtypes: list[str], batches: list[int], repeats: int) -> Iterator[str]:
    """Rows of the table for one preset."""
    model, weights = preset_policy(name)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    for dtype in dtypes:
        model = model.to(DTYPES[dtype])
        loops = Setting(("plain loop", "lean loop"), sites_like_training(ALONE), 1, repeats).speeds(model)
        plain, lean = loops.values()
        for batch in batches:
            sites = sites_like_training(max(batch, ALONE))
            speeds = Setting(("this sampler", "dynamic", "static"), sites, batch, repeats).speeds(model)
            ours, cache = speeds["this sampler"], max("dynamic", "static", key=speeds.__getitem__)
            yield (
                f"| {name}, {size:.1f}M, {weights} | {dtype} | {batch} | {ours:.0f} | {plain:.0f} | "
                f"{lean:.0f} | {speeds[cache]:.0f} ({cache}) | {ours / plain:.1f} | {ours / lean:.1f} | "
                f"{ours / speeds[cache]:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", nargs="+", default=["nano", "base"], help="names of presets")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128])
    parser.add_argument("--quick", action="store_true", help="fp32 at batch 128, one repeat")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    dtypes = ["fp32"] if arguments.quick else arguments.dtypes
    batches = [128] if arguments.quick else arguments.batches
    print(
        f"{torch.get_num_threads()} torch threads, {len(os.sched_getaffinity(0))} cores, load "
        f"{os.getloadavg()[0]:.1f}; tokens/s; {float(sites_like_training(128).float().mean()):.1f} sites in "
        "the mean at batch 128.\n"
    )
    print(
        "| policy | weights in | batch | this sampler | plain loop | lean loop | generate (its cache) | "
        "times the plain loop | times the lean loop | times generate |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name in arguments.policies:
        for line in lines(name, dtypes, batches, repeats=1 if arguments.quick else 2):
            print(line, flush=True)
    print(f"\n{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
