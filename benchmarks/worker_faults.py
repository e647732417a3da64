"""2,000 structures in, 2,000 rows out, while the workers are shot at.

    python benchmarks/worker_faults.py             # a Ray of its own, 20 kills by signal 9
    python benchmarks/worker_faults.py --cluster   # two Ray nodes on this machine, one of them is lost

Scores samples of a policy twice, in this process and by two workers, and compares the tables byte for byte.
Meanwhile workers are killed by signal 9 at 20 random points of the work; with --cluster, every process of the
second node is, when a third is done.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from pymatgen.core import Structure

from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.scoring import Scorer

RAY_START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


class Killer(threading.Thread):
    """Kills a worker by signal 9 at random points of the work, and a random moment later."""

    def __init__(self, times: int, total: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.points = sorted(self.random.randrange(total) for _ in range(times))
        self.done, self.killed = 0, 0
        self.stop = threading.Event()

    def progress(self, done: int, _total: int) -> None:
        self.done = done

    def run(self) -> None:
        while self.killed < len(self.points) and not self.stop.wait(self.random.uniform(0, 0.2)):
            if self.done < self.points[self.killed]:
                continue
            family = psutil.Process().children(recursive=True)
            workers = [process for process in family if process.name().startswith("ray::Worker.meas")]
            if workers:
                os.kill(self.random.choice(workers).pid, signal.SIGKILL)
                self.killed += 1


@contextmanager
def node(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One Ray node of one CPU; it dies with this block."""
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
    process = subprocess.Popen(
        [*RAY_START, *options, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said: list[str] = []
        for line in process.stdout or []:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise SystemExit("the node did not start: " + "".join(said))
        yield process
    finally:
        kill_family(process)


def kill_family(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            if member.is_running():
                member.kill()
        process.wait()


@contextmanager
def cluster() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Two nodes; yields the address and the second node."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with (
        node("--head", f"--port={port}", "--include-dashboard=false"),
        node(f"--address={address}") as second,
    ):
        yield address, second


def with_kills(expression: str, structures: list[Structure], killer: Killer) -> tuple[ScoreTable, float]:
    with Scorer(expression, gates=("validity",), workers=2) as scorer:
        start = time.perf_counter()
        killer.start()
        table = scorer.score(structures, killer.progress)
        seconds = time.perf_counter() - start
        killer.stop.set()
        return table, seconds


def with_a_lost_node(expression: str, structures: list[Structure]) -> tuple[ScoreTable, float, float]:
    """Also returns the share that was done when the node was killed."""
    lost: list[float] = []
    with cluster() as (address, second):

        def progress(done: int, total: int) -> None:
            if not lost and 3 * done > total:
                lost.append(done / total)
                kill_family(second)

        with Scorer(expression, gates=("validity",), workers=2, ray_address=address) as scorer:
            start = time.perf_counter()
            table = scorer.score(structures, progress)
            return table, time.perf_counter() - start, lost[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=2000, help="structures")
    parser.add_argument("--reward", default="novelty")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    structures = sampled(arguments.policy, arguments.n, arguments.seed)
    if arguments.cluster:
        table, seconds, share = with_a_lost_node(arguments.reward, structures)
        print(f"The second node was killed when {share:.0%} was done.")
    else:
        killer = Killer(arguments.kills, len(structures), arguments.seed)
        table, seconds = with_kills(arguments.reward, structures, killer)
        print(f"{killer.killed} workers were killed.")
    inline = Scorer(arguments.reward, gates=("validity",)).score(structures)
    counts = ", ".join(f"{int((table.outcomes == o).sum())} {o}" for o in ("ok", "invalid", "failed"))
    equal = table.to_frame().to_csv() == inline.to_frame().to_csv()
    print(
        f"{len(structures):,} structures in, {len(table):,} rows out in {seconds:.0f} s: {counts}. "
        f"{'Equal to' if equal else 'NOT EQUAL to'} this process's table, byte for byte."
    )
    for row, same in zip(table, inline, strict=True):
        if row.outcome != same.outcome:
            print(
                f"{row.index}: {row.outcome} ({row.reason}), in this process {same.outcome} ({same.reason})"
            )
    sys.exit(not equal)


if __name__ == "__main__":
    main()
