"""How often a policy finds the known structure of a formula.

    python benchmarks/structure_prediction.py --data mp_val.csv.gz --samples 20

For every structure of a file that the policy has not seen, samples crystals of its composition (the grammar
spends exactly its atoms, and a policy that has learnt conditions is told formula and number of sites) and
asks whether pymatgen's StructureMatcher finds the known structure among the first one and among all of them
(ltol 0.3, stol 0.5, angle 10, the setting of CDVAE and DiffCSP). The RMSE is that of the best match,
divided by (volume / sites)^(1/3), averaged over what was matched. ``--formula-only`` leaves the number of
formula units to the policy, ``--untold`` gives no conditions. Intervals are bootstrapped over structures.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from materium_rl.conditions import Conditions
from materium_rl.constraints import Constraints
from materium_rl.datasets import read_reduced, tokenize
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.policies.sampling import sample, sequence_seeds

BATCH = 256


def sampled(
    policy: Policy, wanted: list[Structure], n: int, options: argparse.Namespace
) -> list[list[Structure]]:
    """N samples of the composition of each wanted structure."""
    formulas = [s.composition.reduced_formula for s in wanted]
    sizes = [None if options.formula_only else len(s) for s in wanted]
    requests = [
        Constraints(formula=formula, n_sites=None if size is None else str(size))
        for formula, size in zip(formulas, sizes, strict=True)
    ]
    told = None
    if not options.untold and "formula" in (policy.model.config.condition_statistics or {}):
        told = policy.model.encode_conditions(
            [
                Conditions(formula=formula) if size is None else Conditions(formula=formula, n_sites=size)
                for formula, size in zip(formulas, sizes, strict=True)
            ]
        )
    rows = np.repeat(np.arange(len(wanted)), n)
    found: list[list[Structure]] = [[] for _ in wanted]
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        chosen, row = np.unique(part, return_inverse=True)
        rules = policy.model.grammar.rules([requests[i] for i in chosen], row=torch.from_numpy(row))
        drawn = sample(
            policy.model,
            sequence_seeds(options.seed, len(part), first=first),
            rules=rules,
            temperature=options.temperature,
            conditions=told and told.at(part),
            guidance=options.guidance,
        )
        for i, ids in zip(part, drawn.ids, strict=True):
            found[i].append(policy.codec.decode(ids.tolist()))
    return found


def distances(known: Structure, candidates: list[Structure]) -> np.ndarray:
    """Normalised RMS distance of each candidate to the known structure, (n,); infinite without a match."""
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    pairs = (matcher.get_rms_dist(known, candidate) for candidate in candidates)
    return np.array([np.inf if pair is None else pair[0] for pair in pairs])


def row(name: str, table: np.ndarray, k: int, rng: np.random.Generator) -> str:
    best = table[:, :k].min(axis=1)
    hit = np.isfinite(best)
    resampled = rng.choice(hit, size=(2000, len(hit))).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    rmse = f"{best[hit].mean():.4f}" if hit.any() else "-"
    return f"| {name} | {k} | {100 * hit.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}) | {rmse} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--data", type=Path, required=True, help="structures unknown to the policy")
    parser.add_argument("--samples", type=int, default=20, help="samples for each structure")
    parser.add_argument("--limit", type=int, help="only so many structures, drawn with the seed")
    parser.add_argument("--formula-only", action="store_true", help="leave the number of sites to the policy")
    parser.add_argument("--untold", action="store_true", help="constraints only, no conditions")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the conditions")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.monotonic()
    policy, rng = load_policy(arguments.policy), np.random.default_rng(arguments.seed)
    result = read_reduced(arguments.data)
    tokenize(result, policy.codec).require_any(arguments.data)
    limit = policy.codec.settings.max_sites
    known = [r.structure for r in result.rows if len(r.structure) <= limit]
    if arguments.limit:
        known = [known[i] for i in rng.permutation(len(known))[: arguments.limit]]
    found = sampled(policy, known, arguments.samples, arguments)
    table = np.stack([distances(s, candidates) for s, candidates in zip(known, found, strict=True)])
    given = "formula" if arguments.formula_only else "formula and number of sites"
    print(
        f"{len(known)} structures of {arguments.data.name}, seed {arguments.seed}, given: {given}; "
        f"temperature {arguments.temperature:g}, guidance {arguments.guidance:g}"
        f"{', untold' * arguments.untold}.\n"
    )
    print("| policy | samples | matched, % | RMSE |\n|---|--:|--:|--:|")
    for k in sorted({1, arguments.samples}):
        print(row(arguments.policy, table, k, rng))
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
