"""How much faster the same structures are scored once their measurements are in the cache.

    python benchmarks/cache_speed.py

Samples structures (not timed) and scores them three times with the defaults of a fine-tuning: without a
cache, with an empty one, and with the one that this filled. Each time by a new scorer in this process, so
nothing is remembered in memory. End to end: structures in, finished table out; loading the models is given
apart. Processor time beside the clock, since it holds on a busy machine too. The tables must be equal to the
byte. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pymatgen.core import Structure

from materium_rl.config import RewardConfig
from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.execution.cache import FILE
from materium_rl.rewards.scoring import Scorer


@dataclass(frozen=True)
class Timing:
    """Seconds of one scorer, and its table."""

    start: float
    score: float
    processor: float
    frame: pd.DataFrame


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


def timed(config: RewardConfig, structures: list[Structure]) -> Timing:
    scorer = Scorer(**config.model_dump())
    begin = time.perf_counter()
    scorer.start()
    started, processor = time.perf_counter(), time.process_time()
    table = scorer.score(structures)
    scored, processor = time.perf_counter(), time.process_time() - processor
    scorer.close()
    return Timing(started - begin, scored - started, processor, table.to_frame())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=1000, help="structures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    structures = sampled(arguments.policy, arguments.n, arguments.seed)
    timed(RewardConfig(), structures[:32])  # the first calls of every model take longer
    with tempfile.TemporaryDirectory() as folder:
        cached = RewardConfig(cache=Path(folder))
        timings = {
            "no cache": timed(RewardConfig(), structures),
            "empty cache": timed(cached, structures),
            "full cache": timed(cached, structures),
        }
        size = sum(path.stat().st_size for path in Path(folder).glob(f"{FILE}*")) / 1e6
    plain, first, second = (timing.frame for timing in timings.values())
    outcomes = ", ".join(f"{count} {name}" for name, count in plain["outcome"].value_counts().items())
    print(
        f"{len(structures):,} samples of {arguments.policy} (seed {arguments.seed}; {outcomes}), "
        f"`{cached.expression}` with the default gates, {len(os.sched_getaffinity(0))} cores, "
        f"load {os.getloadavg()[0]:.1f}.\n"
    )
    print("| | loading, s | scoring, s | processor, s | faster, processor |\n|---|--:|--:|--:|--:|")
    for name, timing in timings.items():
        ratio = timings["no cache"].processor / timing.processor
        print(f"| {name} | {timing.start:.1f} | {timing.score:.2f} | {timing.processor:.2f} | {ratio:.2f}x |")
    equal = first.to_csv() == second.to_csv() and first.equals(second)
    difference = (plain["reward"] - first["reward"]).abs().max()
    print(f"\nThe cache takes {size:.1f} MB. Empty and full: tables equal to the byte: {equal}.")
    print(f"Largest difference of a reward to no cache: {difference:.1g}.")


if __name__ == "__main__":
    main()
