"""What the unconditional samples of a policy are worth, and how much of the data they repeat.

    python benchmarks/policy_quality.py --policy P --data mp_train.csv.gz --validation mp_val.csv.gz

Valid, stable (below 0.1 eV/atom), S.U.N. and what describes the composition are the figures of
``materium-rl compare`` (``evaluation.metrics``) for the first n samples; elements are those of ``--data``.

A sample is a training structure if StructureMatcher (ltol 0.2, stol 0.3, angle 5) matches it with one of the
same reduced formula. Of ``--coverage`` samples the script tells the share of those (memorised), and the share
of the validation structures whose formula, and whose structure, is among them; 0 leaves this out.

The RMSD is that of ``--relax`` valid samples to what CHGNet makes of them in at most 200 FIRE steps of
positions and cell (``rewards.relaxation.rmsd``). A change of the cell alone counts nothing, and a structure
of one site has 0. 0 samples leave this out.

Intervals are of 95 %, bootstrapped over samples (over validation structures for what is found of them), exact
for shares of 0 and 1; distinct elements and the divergence have none, since resampling biases them.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from intervals import Estimate, percentage, print_table, quantile, write_json
from pymatgen.core import Structure

from materium_rl.config import RewardConfig
from materium_rl.datasets import read_reduced
from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.metrics import element_counts
from materium_rl.evaluation.scored import evaluate_structures, make_scorer
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.policies.sampling import sample, sequence_seeds
from materium_rl.rewards.relaxation import Relaxed, relaxation, rmsd
from materium_rl.structures import structures_match

FIGURES = ("valid", "stable", "sun", "elements", "mean_sites", "anion", "element_divergence")
BATCH, STEPS = 256, 200


def progress(text: str, start: float) -> None:
    print(f"{time.monotonic() - start:6.0f} s  {text}", file=sys.stderr, flush=True)


def sampled(policy: Policy, n: int, seed: int, start: float) -> list[Structure]:
    """N samples; the first ones are the same whatever n is."""
    structures: list[Structure] = []
    while len(structures) < n:
        seeds = sequence_seeds(seed, min(BATCH, n - len(structures)), first=len(structures))
        structures += [policy.codec.decode(ids.tolist()) for ids in sample(policy.model, seeds).ids]
        progress(f"{len(structures)} of {n} sampled", start)
    return structures


class Known:
    """Structures by reduced formula."""

    def __init__(self, structures: Sequence[Structure]) -> None:
        self.by_formula: dict[str, list[Structure]] = defaultdict(list)
        for structure in structures:
            self.by_formula[structure.reduced_formula].append(structure)

    def has_formula(self, structure: Structure) -> bool:
        return structure.reduced_formula in self.by_formula

    def has(self, structure: Structure) -> bool:
        same_formula = self.by_formula.get(structure.reduced_formula, [])
        return any(structures_match(structure, other) for other in same_formula)


def quality(
    structures: list[Structure], training: list[Structure], seed: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows of the figures that ``compare`` knows, and which structures are valid."""
    scorer, gap = make_scorer(RewardConfig())
    elements = element_counts(s.reduced_formula for s in training)
    with scorer:
        evaluation = evaluate_structures(
            structures, len(structures), scorer, gap=gap, training_elements=elements, seed=seed
        )
    valid = evaluation.frame["valid"].to_numpy()
    of_valid = ("mean_sites", "anion", "elements", "element_divergence")
    rows = []
    for d in DEFINITIONS:
        if d.key in FIGURES:
            found, scale = evaluation.figures[d.key], 100 if d.unit == "%" else 1
            unit = "" if d.unit == "count" else f", {d.unit}"
            n = int(valid.sum()) if d.key in of_valid else len(structures)
            estimate = Estimate(scale * found.value, scale * found.low, scale * found.high)
            rows.append({"figure": f"{d.title}{unit}", "n": n, "value": estimate})
    sites = Estimate(float(np.mean([len(s) for s in training])))
    rows.append({"figure": "mean sites of the training data", "n": len(training), "value": sites})
    return rows, valid


def relaxed_distances(structures: Sequence[Structure], start: float) -> list[dict[str, Any]]:
    distances, converged = [], []
    for structure, result in zip(structures, relaxation(STEPS)(structures), strict=True):
        if isinstance(result, Relaxed):
            distances.append(rmsd(structure, result.structure))
        converged.append(isinstance(result, Relaxed) and result.converged)
    progress(f"{len(structures)} relaxed", start)
    names = {0.25: "lower quartile", 0.5: "median", 0.75: "upper quartile"}
    rows = [
        {"figure": f"RMSD to relaxed, {name}, Å", "n": len(distances), "value": quantile(distances, q)}
        for q, name in names.items()
    ]
    return [
        *rows,
        {"figure": "relaxation converged, %", "n": len(converged), "value": percentage(converged)},
    ]


def shares(name: str, flags: Sequence[bool]) -> dict[str, Any]:
    return {"figure": f"{name}, %", "n": len(flags), "value": percentage(flags)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--data", type=Path, required=True, help="training structures of the policy")
    parser.add_argument("--validation", type=Path, required=True, help="structures unknown to the policy")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--relax", type=int, default=128, help="valid samples to relax")
    parser.add_argument("--coverage", type=int, default=10_000, help="samples that are held against the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.monotonic()
    policy = load_policy(arguments.policy)
    training = [row.structure for row in read_reduced(arguments.data).rows]
    validation = [row.structure for row in read_reduced(arguments.validation).rows]
    progress(f"{len(training)} training and {len(validation)} validation structures read", start)
    structures = sampled(policy, max(arguments.n, arguments.coverage), arguments.seed, start)
    rows, valid = quality(structures[: arguments.n], training, arguments.seed)
    progress(f"{arguments.n} scored", start)

    known = Known(training)
    repeated = []
    for i, structure in enumerate(structures, 1):
        repeated.append(known.has(structure))
        if i % 1000 == 0:
            progress(f"{i} of {len(structures)} held against the training data", start)
    rows.append(shares("training structures", repeated[: arguments.n]))
    if arguments.coverage:
        written = Known(structures[: arguments.coverage])
        rows.append(shares("memorised: training structures", repeated[: arguments.coverage]))
        formulas = [written.has_formula(s) for s in validation]
        rows.append(shares("validation formulas found", formulas))
        rows.append(shares("validation structures found", [written.has(s) for s in validation]))
        progress("coverage counted", start)
    if arguments.relax:
        chosen = [s for s, ok in zip(structures, valid, strict=False) if ok][: arguments.relax]
        rows += relaxed_distances(chosen, start)
    print(f"{arguments.policy}, seed {arguments.seed}\n")
    print_table(rows)
    if arguments.json:
        write_json({"arguments": vars(arguments), "figures": rows}, arguments.json)


if __name__ == "__main__":
    main()
