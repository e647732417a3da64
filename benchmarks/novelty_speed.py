"""How fast `novelty` is, and whether it says what StructureMatcher says.

    python benchmarks/novelty_speed.py --data mp_train.csv.gz --validation mp_val.csv.gz

Three kinds of queries: samples of a policy, validation structures, and reference structures in disguise
(supercell, strained, other origin, other site order).

1. Against the structures of --data. Brute force asks StructureMatcher about one reference after the other
   until one matches; that is timed on a few queries. Whether the verdicts (known or not) agree is counted on
   all queries, where StructureMatcher is asked about the references of the same formula only: about the
   others it says no after a look at the formula, which the timed queries confirm.
2. Against a synthetic index of --large structures, made from the real ones: each copy has its elements
   permuted (rare earths among themselves), its cell scaled and its fingerprint distorted as by a strain of
   1 %. A new process loads it and measures, so that its memory can be told.

Times are of one process and one thread, in seconds of that process, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition, Element, Structure
from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

from materium_rl.rewards.base import Measurement
from materium_rl.rewards.catalogue.novelty import Novelty, Tier
from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.prototypes import family_formula, prototypes
from materium_rl.rewards.reference_arrays import build_arrays, formula_hash
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.structure_files import read_structures
from materium_rl.structures import strip_oxidation_states

HEAVIEST = 94
MATCHER = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5, comparator=ElementComparator())


def read(path: Path, limit: int | None = None) -> list[Structure]:
    return [strip_oxidation_states(row.structure) for row in read_structures(path, limit=limit).rows]


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    from materium_rl.policies.loading import load_policy
    from materium_rl.policies.sampling import sample_many

    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


def disguised(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same crystal: other order of sites, other origin, strained by up to 2 %, perhaps a supercell."""
    order = rng.permutation(len(structure))
    mixed = Structure.from_sites([structure[int(i)] for i in order])
    strain = np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3))
    changed = Structure(mixed.lattice.matrix @ strain, mixed.species, mixed.frac_coords + rng.random(3))
    return changed * rng.permutation([1, 1, int(rng.integers(1, 3))])


def timed(reward: Novelty, queries: list[Structure]) -> tuple[list[bool], float]:
    """Which queries are known, and milliseconds for each."""
    start = time.process_time()
    results = reward.measure(queries)
    seconds = time.process_time() - start
    known = [isinstance(r, Measurement) and r.details["tier"] == Tier.KNOWN.value for r in results]
    return known, 1000 * seconds / len(queries)


def against_brute_force(
    references: list[Structure], queries: dict[str, list[Structure]], n_timed: int
) -> None:
    start = time.process_time()
    index = ReferenceIndex.from_structures(references, [str(i) for i in range(len(references))])
    print(f"{len(references):,} references, indexed in {time.process_time() - start:.0f} s.\n")
    same_formula = defaultdict(list)
    for reference in references:
        same_formula[reference.composition.reduced_formula].append(reference)
    reward = Novelty().against(index)
    reward.measure([references[0]])  # what is imported and built once
    usable = {name: [q for q in some if _readable(q)] for name, some in queries.items()}
    print("| queries | n | known | equal verdicts | novelty, ms | brute force, ms | times |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    equal, total, times = 0, 0, []
    for name, some in usable.items():
        known, milliseconds = timed(reward, some)
        verdicts = [
            any(MATCHER.fit(query, other) for other in same_formula[query.composition.reduced_formula])
            for query in some
        ]
        start = time.process_time()
        brute = [any(MATCHER.fit(query, reference) for reference in references) for query in some[:n_timed]]
        slow = 1000 * (time.process_time() - start) / len(brute)
        assert brute == verdicts[:n_timed], "a reference of another formula matched"
        agree = sum(a == b for a, b in zip(known, verdicts, strict=True))
        equal, total = equal + agree, total + len(some)
        times.append((milliseconds, slow))
        print(
            f"| {name} | {len(some)} | {sum(known)} | {agree / len(some):.1%} | {milliseconds:.2f} "
            f"| {slow:,.0f} | {slow / milliseconds:,.0f} |"
        )
    fast, slow = (sum(column) for column in zip(*times, strict=True))
    print(
        f"\nEqual verdicts in all: {equal} of {total}, {equal / total:.2%}. As many of each kind: "
        f"{slow / fast:,.0f} times faster.\n"
    )


def _readable(structure: Structure) -> bool:
    return hasattr(prototypes([structure])[0], "label")


def synthetic_arrays(references: list[Structure], n: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays of an index of n structures, from those of the references with other elements and volumes."""
    base = build_arrays(references, [str(i) for i in range(len(references))], [])
    rng = np.random.default_rng(seed)
    rows = np.arange(n) % len(references)
    maps = [_permuted(rng) for _ in range(n // len(references) + 1)]
    amounts = [Counter(site.specie.symbol for site in s) for s in references]
    formulas, families = [], []
    for i, row in enumerate(rows):
        swapped = {maps[i // len(references)][symbol]: k for symbol, k in amounts[row].items()}
        formulas.append(Composition(swapped).reduced_formula)
        families.append(family_formula(swapped))
    first = np.concatenate([[0], np.cumsum(base["n_sites"].astype(np.int64))])
    sites = np.concatenate([np.arange(first[row], first[row + 1]) for row in rows])
    numbers = base["numbers"][sites]
    tables = np.zeros((len(maps), HEAVIEST + 1), dtype=np.uint8)
    for table, swaps in zip(tables, maps, strict=True):
        for symbol, other in swaps.items():
            table[Element(symbol).Z] = Element(other).Z
    copies = np.repeat(np.arange(n) // len(references), base["n_sites"][rows])
    strain = 1 + 0.01 * rng.normal(size=(n, 1)) * np.linspace(-1, 1, base["fingerprints"].shape[1])
    arrays: dict[str, np.ndarray] = {
        "formula_hashes": np.array(sorted({formula_hash(f) for f in formulas}), dtype=np.uint64),
        "fingerprints": (base["fingerprints"][rows] * strain).astype(np.float16),
        "lattices": base["lattices"][rows] * rng.uniform(0.9, 1.1, (n, 1, 1)).astype(np.float32),
        "coords": base["coords"][sites],
        "numbers": tables[copies, numbers],
        "n_sites": base["n_sites"][rows],
        "material_id": _packed(map(str, range(n))),
        "formula": _packed(formulas),
        "family_formula": _packed(families),
    }
    for name in base:
        if name.endswith("_code"):
            arrays |= {name: base[name][rows], name.removesuffix("_code"): base[name.removesuffix("_code")]}
    return arrays


def _permuted(rng: np.random.Generator) -> dict[str, str]:
    swaps = {}
    symbols = [Element.from_Z(z).symbol for z in range(1, HEAVIEST + 1)]
    for group in ([s for s in symbols if s in RARE_EARTHS], [s for s in symbols if s not in RARE_EARTHS]):
        swaps |= dict(zip(group, rng.permutation(group).tolist(), strict=True))
    return swaps


def _packed(texts: Any) -> np.ndarray:
    return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)


def measure_large(path: Path, queries: dict[str, list[Structure]], connection: Any) -> None:
    """In a process of its own: load, measure everything twice, tell memory."""
    before = peak_memory()
    start = time.process_time()
    reward = Novelty().against(ReferenceIndex.load(path))
    loaded = time.process_time() - start
    times = {}
    for name, some in queries.items():
        _, first = timed(reward, some)
        known, again = timed(reward, some)
        times[name] = len(some), sum(known), first, again
    connection.send((loaded, before, peak_memory(), times))


def peak_memory() -> float:
    """GB that this process has had in memory at most (not ru_maxrss: that includes its parent's)."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1e6


def against_many(references: list[Structure], queries: dict[str, list[Structure]], n: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npz"
        np.savez_compressed(path, **synthetic_arrays(references, n, seed))
        index = ReferenceIndex.load(path)
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, n, len(queries["disguised references"]))
        queries = queries | {
            "disguised references": [disguised(index.structure(int(row)), rng) for row in rows]
        }
        del index
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=measure_large, args=(path, queries, theirs)
        )
        process.start()
        loaded, before, peak, times = ours.recv()
        process.join()
        size = path.stat().st_size / 1e6
    print(
        f"{n:,} references: file {size:.0f} MB, loaded in {loaded:.1f} s; peak memory of the process "
        f"{peak:.2f} GB ({before:.2f} before loading).\n"
    )
    print("| queries | n | known | first time, ms | again, ms |\n|---|--:|--:|--:|--:|")
    for name, (count, known, first, again) in times.items():
        print(f"| {name} | {count} | {known} | {first:.2f} | {again:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the references")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=400, help="queries of each kind")
    parser.add_argument("--timed", type=int, default=5, help="queries of each kind for brute force")
    parser.add_argument("--large", type=int, default=600_000, help="structures of the synthetic index, or 0")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    rng = np.random.default_rng(arguments.seed)
    references = read(arguments.data)
    chosen = rng.choice(len(references), arguments.n, replace=False)
    queries = {
        f"samples of {arguments.policy}": sampled(arguments.policy, arguments.n, arguments.seed),
        "validation structures": read(arguments.validation, arguments.n),
        "disguised references": [disguised(references[int(i)], rng) for i in chosen],
    }
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}.\n")
    against_brute_force(references, queries, arguments.timed)
    if arguments.large:
        against_many(references, queries, arguments.large, arguments.seed)


if __name__ == "__main__":
    main()
