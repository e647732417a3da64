"""Whether the novelty ladder says what outside judges say.

    pip install average-minimum-distance     # licence CC BY-NC-SA: a judge for this script, no dependency
    python benchmarks/ladder_agreement.py --validation mp_val.csv.gz

1. StructureMatcher: 500 structures against the bundled training structures by pymatgen's own brute force,
   at the three tolerances. They are samples of a policy, validation structures, and training structures in
   disguise: strained by up to 3 %, half of them with one atom pushed by up to 1 Å along each axis. It is
   asked about the references of the same formula; of others it says no after a look at the formula.
2. Uniqueness of the same 500, and of each fifth of them in a second disguise, against
   StructureMatcher.group_structures.
3. AMD and PDD of 300 structures against the average-minimum-distance package, and the earth mover's
   distances of 300 pairs.
4. How often the closest structure, the nearest by PDD of the twelve nearest by AMD, is the nearest by PDD of
   all (against each eighth training structure).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

from materium_rl.evaluation.novelty.distances import amd, pdd, pdd_distance
from materium_rl.evaluation.novelty.ladder import Ladder, Reference
from materium_rl.evaluation.novelty.levels import TOLERANCES
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.structure_files import read_structures
from materium_rl.structures import strip_oxidation_states

LEVELS = {"strict": "new_structure_strict", "standard": "new_structure", "loose": "new_structure_loose"}


def read(path: Path, limit: int | None = None) -> list[Structure]:
    return [strip_oxidation_states(row.structure) for row in read_structures(path, limit=limit).rows]


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    from materium_rl.policies.loading import load_policy
    from materium_rl.policies.sampling import sample_many

    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


def disguised(structure: Structure, rng: np.random.Generator) -> Structure:
    """Other site order, origin, a strain of up to 3 %, perhaps a supercell, perhaps one atom pushed."""
    order = rng.permutation(len(structure))
    kinds = [structure[int(i)].specie for i in order]
    strain = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))
    coords = structure.frac_coords[order] + rng.random(3)
    changed = Structure(structure.lattice.matrix @ strain, kinds, coords)
    if rng.random() < 0.5:
        changed.translate_sites([0], rng.uniform(-1, 1, 3), frac_coords=False)
    return changed * rng.permutation([1, 1, int(rng.integers(1, 3))])


def against_pymatgen(queries: list[Structure], index: ReferenceIndex) -> None:
    known = Reference("known", "the training structures", index)
    start = time.process_time()
    frame = Ladder([known]).climb(queries).to_frame()
    seconds = time.process_time() - start
    same_formula = {
        formula: [index.structure(row) for row, other in enumerate(index.formulas) if other == formula]
        for formula in map(_formula, queries)
    }
    read = np.flatnonzero(frame["outcome"] == "ok")
    print(f"{len(queries)} structures, {len(read)} readable; {len(index):,} references.")
    print(f"Ladder: {seconds:.1f} s of processor time.\n")
    print("| tolerances | new by the ladder | new by pymatgen | equal verdicts |\n|---|--:|--:|--:|")
    for name, tolerance in TOLERANCES.items():
        matcher = StructureMatcher(
            tolerance.ltol, tolerance.stol, tolerance.angle_tol, comparator=ElementComparator()
        )
        mine = frame[f"known.{LEVELS[name]}"].to_numpy(dtype=bool, na_value=False)[read]
        brute = np.array(
            [not any(matcher.fit(queries[i], r) for r in same_formula[_formula(queries[i])]) for i in read]
        )
        equal = int((mine == brute).sum())
        print(f"| {name} ({tolerance}) | {mine.sum()} | {brute.sum()} | {equal} of {len(read)} |")


def _formula(structure: Structure) -> str:
    return str(structure.composition.reduced_formula)


def uniqueness(queries: list[Structure]) -> None:
    frame = Ladder([]).climb(queries).to_frame()
    read = np.flatnonzero(frame["outcome"] == "ok")
    groups = StructureMatcher(comparator=ElementComparator()).group_structures([queries[i] for i in read])
    first = {id(structure): id(group[0]) for group in groups for structure in group}
    theirs = [first[id(queries[i])] for i in read]
    duplicate_of = frame["duplicate_of"].to_numpy(dtype=float, na_value=np.nan)
    mine = [id(queries[i] if np.isnan(duplicate_of[i]) else queries[int(duplicate_of[i])]) for i in read]
    equal = sum(a == b for a, b in zip(mine, theirs, strict=True))
    print(
        f"\nUniqueness: {frame['unique'].sum()} of {len(read)} unique, by pymatgen {len(groups)}; the same "
        f"first structure named for {equal} of {len(read)}.\n"
    )


def distances(structures: list[Structure]) -> None:
    try:
        import amd as package
    except ImportError:
        print("AMD and PDD not compared: pip install average-minimum-distance\n")
        return
    sets = [package.PeriodicSet(motif=s.cart_coords, cell=s.lattice.matrix) for s in structures]
    amds = max(
        float(np.abs(amd(s) - package.AMD(p, 100)).max()) for s, p in zip(structures, sets, strict=True)
    )
    mine = [pdd(s) for s in structures]
    theirs = [package.PDD(p, 100, collapse=False) for p in sets]
    rows = max(float(np.abs(_sorted(a) - _sorted(b[:, 1:])).max()) for a, b in zip(mine, theirs, strict=True))
    pairs = list(
        zip(range(len(structures)), np.random.default_rng(0).permutation(len(structures)), strict=True)
    )
    movers = max(abs(pdd_distance(mine[i], mine[j]) - package.EMD(theirs[i], theirs[j])) for i, j in pairs)
    print(
        f"Largest difference from average-minimum-distance {package.__version__} over {len(structures)} "
        f"structures (k = 100): AMD {amds:.1e} Å, PDD {rows:.1e} Å, earth mover's distance {movers:.1e} Å "
        f"({len(pairs)} pairs).\n"
    )


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(6).T[::-1])]


def closest(queries: list[Structure], references: list[Structure]) -> None:
    known = Reference.from_structures("known", references)
    rungs = Ladder([known]).climb(queries).as_written
    tables = [pdd(reference) for reference in references]
    averages = np.array([table.mean(axis=0) for table in tables])
    excess = []
    for query, rung in zip(queries, rungs, strict=True):
        found = rung.verdicts["known"].closest if rung.verdicts else None
        if found is None:
            continue
        own = pdd(query)
        bounds = np.abs(averages - own.mean(axis=0)).max(axis=1)  # never above the earth mover's distance
        best = found.pdd
        for row in np.argsort(bounds):
            if bounds[row] >= best:
                break
            best = min(best, pdd_distance(own, tables[row]))
        excess.append(found.pdd - best)
    gaps = np.array(excess)
    print(
        f"Closest of {len(references):,}: the nearest by PDD of all in {np.mean(gaps < 2e-3):.0%} of "
        f"{len(gaps)}; else {np.median(gaps[gaps >= 2e-3]) if (gaps >= 2e-3).any() else 0:.3f} Å farther in "
        f"the median, {gaps.max():.2f} Å at most."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=500, help="structures in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    rng = np.random.default_rng(arguments.seed)
    index = ReferenceIndex.bundled()
    third = arguments.n // 3
    chosen = rng.choice(len(index), arguments.n - 2 * third, replace=False)
    samples = sampled(arguments.policy, third, arguments.seed)
    hidden = [disguised(index.structure(int(row)), rng) for row in chosen]
    queries = [*samples, *read(arguments.validation, third), *hidden]
    against_pymatgen(queries, index)
    uniqueness([*queries, *(disguised(query, rng) for query in queries[::5])])
    distances([*samples[:100], *(index.structure(row) for row in range(0, 10_000, 50))])
    closest(queries[:200], [index.structure(row) for row in range(0, len(index), 8)])


if __name__ == "__main__":
    main()
