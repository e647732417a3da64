"""How fast samples of a policy are scored: Ray workers against this process.

    python benchmarks/scoring_speed.py

Samples structures (not timed) and scores them with the default gates and single-point energies, once in this
process and once in Ray workers. The time of a score is end to end: structures in, finished table out. Loading
the models, and starting Ray, is given apart. Prints a Markdown table. Wants a quiet machine with a core for
each worker.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.scoring import Scorer


@dataclass(frozen=True)
class Timing:
    """Seconds of one backend on the same structures."""

    start: float
    score: float
    table: ScoreTable


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


def timed(expression: str, structures: list[Structure], workers: int) -> Timing:
    scorer = Scorer(expression, workers=workers)
    begin = time.perf_counter()
    scorer.start()
    started = time.perf_counter()
    table = scorer.score(structures)
    scored = time.perf_counter()
    scorer.close()
    return Timing(started - begin, scored - started, table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=1024, help="structures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reward", default="novelty+bandgap")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    structures = sampled(arguments.policy, arguments.n, arguments.seed)
    # Workers first: this process must not hold models of its own beside theirs.
    timings = {
        f"{arguments.workers} Ray workers": timed(arguments.reward, structures, arguments.workers),
        "in this process": timed(arguments.reward, structures, 0),
    }
    tables = [timing.table for timing in timings.values()]
    outcomes = {name: int((tables[0].outcomes == name).sum()) for name in ("ok", "invalid", "failed")}
    sites = np.mean([len(structure) for structure in structures])
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    print(
        f"{len(structures):,} samples of {arguments.policy} (seed {arguments.seed}, {sites:.1f} sites in the "
        f"mean; {counts}), `{arguments.reward}`, "
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}.\n"
    )
    print("| | start-up, s | scoring, s | structures/s |\n|---|--:|--:|--:|")
    for name, timing in timings.items():
        speed = len(structures) / timing.score
        print(f"| {name} | {timing.start:.1f} | {timing.score:.1f} | {speed:.1f} |")
    difference = np.nanmax(np.abs(tables[0].rewards - tables[1].rewards))
    print(f"\nLargest difference of a reward between the two: {difference:.1g}.")


if __name__ == "__main__":
    main()
