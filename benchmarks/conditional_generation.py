"""How often a sample has what it was asked for.

    python benchmarks/conditional_generation.py --policy P --data mp_train.csv.gz --formulas mp_val.csv.gz
    python benchmarks/conditional_generation.py --policy P --labels run/labels_training.parquet --only density

Rates are of all samples requested: what could not be measured is a miss. ``labels.measure`` says what a
sample has. It has a number within 10 % for density and hhi, 15 % for bulk_modulus, 0.5 eV for band_gap, 0.2
eV/atom for formation_energy, 0.03 eV/atom for e_above_hull and 0.01 mu_B/Å3 for magnetic_density, anything
else exactly (space groups at symprec 0.1).

Targets are fixed (band_gap; the ten commonest space groups; quantiles 10, 50 and 90 % of the training values)
or drawn from the training structures (density between its quantiles 5 and 95 %). Most training structures
have no moment and are on the hull: magnetic_density is taken of those above 0.01 mu_B/Å3, e_above_hull of
those above 0.01 eV/atom. Both targets of a pair are of one structure, whose band gap is at least 0.5 eV.

Each row has n samples. ``unasked`` is how often an unconditional sample of the same policy meets the same
targets, ``lift`` the hit rate over it, ``off`` the median of measured minus asked, ``over product`` the rate
of a pair over the product of the rates when its two conditions are asked alone. Intervals are bootstrapped
over samples, exact for shares of 0 and 1; a ratio of no hits has none.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from intervals import percentage, print_table, quantile, quotient, write_json
from pymatgen.core import Structure

from materium_rl.conditions import NUMBERS, Conditions
from materium_rl.constraints import Constraints
from materium_rl.datasets import read_reduced, tokenize
from materium_rl.labels import label, measure
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.base import Measurement
from materium_rl.rewards.catalogue.validity import Validity

RELATIVE = {"density": 0.10, "hhi": 0.10, "bulk_modulus": 0.15}
ABSOLUTE = {"band_gap": 0.5, "formation_energy": 0.2, "e_above_hull": 0.03, "magnetic_density": 0.01}
ABOVE = {"e_above_hull": 0.01, "magnetic_density": 0.01}
GAPS, PAIRED_GAP = [1.0, 2.0, 3.0, 4.0], 0.5
COMMONEST, LEAST_STRUCTURES = 10, 30
SINGLE = ("formula", "space_group", "density", "band_gap", "hhi", "n_sites", "chemical_system")
SINGLE += ("magnetic_density", "bulk_modulus", "formation_energy", "e_above_hull")
PAIRS = (("band_gap", "density"), ("space_group", "n_sites"), ("space_group", "density"))
PAIRS += (("chemical_system", "n_sites"),)

Wanted = dict[str, list[Any]]


def met(name: str, wanted: Any, found: Any) -> np.ndarray:
    """Whether values are what was asked for; the arrays broadcast, None is a miss."""
    if name not in NUMBERS:
        return np.asarray(found, dtype=object) == np.asarray(wanted, dtype=object)
    asked, values = np.asarray(wanted, dtype=float), np.asarray(found, dtype=float)
    return np.abs(values - asked) <= (RELATIVE[name] * asked if name in RELATIVE else ABSOLUTE[name])


def is_valid(structures: Sequence[Structure]) -> np.ndarray:
    return np.array([isinstance(result, Measurement) for result in Validity().measure(structures)])


@dataclass
class Answer:
    """N samples, each of its own request: values asked and found by name, hits and valid ones (N,)."""

    guidance: float | None
    wanted: Wanted
    found: Wanted
    hit: np.ndarray
    valid: np.ndarray

    def at(self, rows: slice) -> Answer:
        wanted, found = ({k: v[rows] for k, v in part.items()} for part in (self.wanted, self.found))
        return Answer(self.guidance, wanted, found, self.hit[rows], self.valid[rows])


class Benchmark:
    def __init__(self, policy: Policy, known: pd.DataFrame, arguments: argparse.Namespace) -> None:
        self.policy, self.known = policy, known
        self.n, self.seed, self.guidance = arguments.n, arguments.seed, arguments.guidance
        self.formulas: Path = arguments.formulas
        self.rng = np.random.default_rng(arguments.seed)
        self.unasked = self.draw("unasked", arguments.unasked)
        self.unasked_found: Wanted = {}

    def draw(self, what: str, n: int, **options: Any) -> list[Structure]:
        """N samples, independent of those for something else."""
        seed = zlib.crc32(f"{self.seed} {what}".encode())
        drawn = sample_many(self.policy.model, n, seed=seed, **options)
        return [self.policy.codec.decode(ids.tolist()) for ids in drawn.ids]

    def ask(self, what: str, wanted: Wanted, guidance: float | None, rules: Any = None) -> Answer:
        """A sample for each request; without a guidance the rules alone ask."""
        start, options = time.monotonic(), {"rules": rules}
        columns = zip(*wanted.values(), strict=True)
        requests = [Conditions(**dict(zip(wanted, values, strict=True))) for values in columns]
        if guidance is not None:
            batch = self.policy.model.encode_conditions(requests)
            options |= {"conditions": batch, "guidance": guidance}
        structures = self.draw(f"{what} {guidance}", len(requests), **options)
        found = measure(structures, list(wanted))
        hit = np.logical_and.reduce([met(name, wanted[name], found[name]) for name in wanted])
        seconds = f"{time.monotonic() - start:.0f} s"
        print(f"{what}, guidance {guidance}: {len(requests)} samples in {seconds}", file=sys.stderr)
        return Answer(guidance, wanted, found, hit, is_valid(structures))

    def by_chance(self, wanted: Wanted) -> np.ndarray:
        """Share of the requests that each unconditional sample meets."""
        missing = [name for name in wanted if name not in self.unasked_found]
        self.unasked_found |= measure(self.unasked, missing)
        flags = [
            met(name, np.array(values)[:, None], self.unasked_found[name]) for name, values in wanted.items()
        ]
        return np.logical_and.reduce(flags).mean(axis=0)

    def row(self, target: str, answer: Answer) -> dict[str, Any]:
        chance = self.by_chance(answer.wanted)
        row = {
            "target": target,
            "guidance": answer.guidance,
            "n": len(answer.hit),
            "valid, %": percentage(answer.valid),
            "hit, %": percentage(answer.hit),
            "hit and valid, %": percentage(answer.hit & answer.valid),
            "unasked, %": percentage(chance),
            "lift": quotient(answer.hit, chance),
        }
        name, *others = answer.wanted
        if name in NUMBERS and not others:
            row["off"] = quantile(np.array(answer.found[name], float) - np.array(answer.wanted[name]))
        return row

    def fixed(self, name: str, targets: list[Any]) -> list[dict[str, Any]]:
        """A row for each target and one for all of them."""
        rows = []
        for guidance in self.guidance:
            answer = self.ask(name, {name: [t for t in targets for _ in range(self.n)]}, guidance)
            for i, target in enumerate(targets):
                rows.append(self.row(f"{target:g}", answer.at(slice(i * self.n, (i + 1) * self.n))))
            rows.append(self.row("all of them", answer))
        return rows

    def shuffled(self, pool: Sequence[Any]) -> list[Any]:
        """N of a pool in random order, each as often as any other."""
        return [pool[i] for i in np.resize(self.rng.permutation(len(pool)), self.n)]

    def drawn(self, title: str, name: str, pool: Sequence[Any]) -> list[dict[str, Any]]:
        wanted = {name: self.shuffled(pool)}
        return [self.row(title, self.ask(f"{name} {title}", wanted, g)) for g in self.guidance]

    def section(self, name: str) -> list[dict[str, Any]]:
        if name == "formula":
            return self.formula()
        if name == "pairs":
            return [row for pair in PAIRS for row in self.pair(*pair)]
        if name == "band_gap":
            return self.fixed(name, GAPS)
        known = self.known[name].dropna()
        if name == "space_group":
            counts = known.astype(int).value_counts()
            others = [group for group, n in counts.iloc[COMMONEST:].items() if n >= LEAST_STRUCTURES]
            rows = self.fixed(name, counts.index[:COMMONEST].tolist())
            return rows + (self.drawn(f"{len(others)} other groups", name, others) if others else [])
        if name == "density":
            low, high = known.quantile([0.05, 0.95])
            return self.density(known[known.between(low, high)].tolist())
        if name in NUMBERS:
            known = known[known > ABOVE.get(name, -np.inf)]
            return self.fixed(name, [float(f"{value:.3g}") for value in known.quantile([0.1, 0.5, 0.9])])
        return self.drawn("of training structures", name, known.tolist())

    def density(self, pool: Sequence[float]) -> list[dict[str, Any]]:
        """By the condition, and by a constraint to the same 10 % of which the policy is told, or not."""
        rows, within = self.drawn("5 to 95 %", "density", pool), RELATIVE["density"]
        wanted = {"density": self.shuffled(pool)}
        requests = [Constraints(density=((1 - within) * d, (1 + within) * d)) for d in wanted["density"]]
        rules = self.policy.model.grammar.rules(requests, row=torch.arange(self.n))
        for guidance in (None, *self.guidance):
            answer = self.ask("density by construction", wanted, guidance, rules)
            rows.append(self.row("by construction", answer))
        return rows

    def formula(self) -> list[dict[str, Any]]:
        unknown = tokenize(read_reduced(self.formulas), self.policy.codec).require_any(self.formulas)
        wanted = {"formula": self.shuffled(sorted(set(unknown.formulas)))}
        requests = [Constraints(formula=formula) for formula in wanted["formula"]]
        rules = self.policy.model.grammar.rules(requests, row=torch.arange(self.n))
        rows = [self.row("by construction", self.ask("formula by construction", wanted, None, rules))]
        return rows + [self.row("by condition", self.ask("formula", wanted, g)) for g in self.guidance]

    def pair(self, first: str, second: str) -> list[dict[str, Any]]:
        known = self.known[[first, second]].dropna()
        if first == "band_gap":
            known = known[known[first] >= PAIRED_GAP]
        chosen = self.shuffled(list(zip(known[first].tolist(), known[second].tolist(), strict=True)))
        wanted = {first: [a for a, _ in chosen], second: [b for _, b in chosen]}
        title, rows = f"{first} x {second}", []
        for guidance in self.guidance:
            both = self.ask(title, wanted, guidance)
            a, b = (self.ask(f"{title}: {name}", {name: wanted[name]}, guidance).hit for name in wanted)
            alone = {"first alone, %": percentage(a), "second alone, %": percentage(b)}
            rows.append(self.row(title, both) | alone | {"over product": quotient(both.hit, a, b)})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", required=True)
    training = parser.add_mutually_exclusive_group(required=True)
    training.add_argument("--data", type=Path, help="the training structures; what they have is measured")
    training.add_argument("--labels", type=Path, help="labels_training.parquet of the policy's run instead")
    parser.add_argument("--formulas", type=Path, help="structures whose formulas the policy has not seen")
    parser.add_argument("-n", type=int, default=256, help="samples for each row")
    parser.add_argument("--unasked", type=int, default=2048, help="unconditional samples")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--only", nargs="+", choices=(*SINGLE, "pairs"), default=[*SINGLE, "pairs"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if "formula" in arguments.only and arguments.formulas is None:
        parser.error("the section formula needs --formulas")
    warnings.simplefilter("ignore")
    policy = load_policy(arguments.policy)
    names = {*arguments.only} - {"pairs"} | {k for p in PAIRS for k in p if "pairs" in arguments.only}
    if unknown := sorted(names - {*(policy.model.config.condition_statistics or {})}):
        parser.error(f"{arguments.policy} has not learnt {', '.join(unknown)}; choose others with --only")
    if arguments.labels:
        known = pd.read_parquet(arguments.labels)
    else:
        known = label(read_reduced(arguments.data).rows, sorted(names - {"formula"}))
    benchmark = Benchmark(policy, known, arguments)
    unasked = percentage(is_valid(benchmark.unasked))
    print(f"{arguments.policy}, seed {arguments.seed}; {len(known):,} training structures.")
    print(f"Of {arguments.unasked} unconditional samples {unasked} % are valid.")
    record = {"arguments": vars(arguments), "unasked valid, %": unasked, "sections": {}}
    for section in arguments.only:
        rows = record["sections"][section] = benchmark.section(section)
        print(f"\n### {section}\n")
        print_table(rows)
    if arguments.json:
        write_json(record, arguments.json)


if __name__ == "__main__":
    main()
