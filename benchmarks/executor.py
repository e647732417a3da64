"""What the Ray executor costs, and what it gains.

    python benchmarks/executor.py

Overhead: a cheap reward on 2,000 samples of a policy, by two workers; from structures in this process to
results in this process, without start-up. Compared with

- the bare loop split in two: two forked processes that hold their half already, call the reward in a plain
  loop, chunk by chunk, and send the results back through a pipe;
- multiprocessing: a pool of two processes that is given the same chunks, as one would write it by hand.

Speed-up: an expensive reward (--expensive) with one worker and with two. It needs two free cores.

The three are run in turn, --repeats times, and the shortest time of each counts. Where only one core can be
had (taskset), the processes of both sides share it: the overhead keeps its meaning, the speed-up does not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pymatgen.core import Structure

from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.execution.measuring import Measurer, Plan, Sample
from materium_rl.rewards.execution.workers import RayBackend
from materium_rl.rewards.expression import parse
from materium_rl.structures import strip_oxidation_states

CHUNK = 16
_measurer: Measurer


def plan_of(expression: str) -> Plan:
    return Plan(terms=tuple(parse(expression)))


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    policy = load_policy(policy_name)
    ids = sample_many(policy.model, n, seed=seed).ids
    return [strip_oxidation_states(policy.codec.decode(row.tolist())) for row in ids]


def chunks(structures: Sequence[Structure]) -> list[Sequence[Structure]]:
    return [structures[i : i + CHUNK] for i in range(0, len(structures), CHUNK)]


def loop(structures: Sequence[Structure], go: Any, answers: Any) -> None:
    go.recv()
    answers.send([sample for chunk in chunks(structures) for sample in _measurer.measure(chunk)])


def bare_loop(structures: list[Structure], processes: int) -> float:
    """Seconds of the plain loop in forked processes that wait for the word with their share in hand."""
    context = multiprocessing.get_context("fork")
    go = [context.Pipe() for _ in range(processes)]
    answers = [context.Pipe() for _ in range(processes)]
    n = -(-len(structures) // processes)
    running = [
        context.Process(target=loop, args=(structures[i * n : (i + 1) * n], go[i][1], answers[i][1]))
        for i in range(processes)
    ]
    for process in running:
        process.start()
    time.sleep(1)
    start = time.perf_counter()
    for ours, _ in go:
        ours.send(None)
    found = [sample for ours, _ in answers for sample in ours.recv()]
    seconds = time.perf_counter() - start
    for process in running:
        process.join()
    assert len(found) == len(structures)
    return seconds


def by_hand(structures: list[Structure], processes: int) -> float:
    pool = multiprocessing.get_context("fork").Pool(processes)
    pool.map(abs, range(processes))
    start = time.perf_counter()
    pool.map(measured, chunks(structures), chunksize=1)
    seconds = time.perf_counter() - start
    pool.close()
    pool.join()
    return seconds


def measured(structures: Sequence[Structure]) -> list[Sample]:
    return _measurer.measure(structures)


def executor(backend: RayBackend, structures: list[Structure]) -> float:
    start = time.perf_counter()
    backend.run(structures)
    return time.perf_counter() - start


def started(expression: str, workers: int, warm_up: list[Structure]) -> RayBackend:
    backend = RayBackend(plan_of(expression), workers, chunk_size=CHUNK)
    backend.start()
    backend.run(warm_up)
    return backend


def shortest(repeats: int, *ways: Callable[[], float]) -> list[float]:
    """Shortest time of each way, run in turn so that a busy moment does not hit one alone."""
    times = [[way() for way in ways] for _ in range(repeats)]
    return [min(column) for column in zip(*times, strict=True)]


def rival(expression: str, structures: list[Structure], connection: Any) -> None:
    """Time what is asked for, in a process of its own: forks of one that talks to Ray slow both down."""
    global _measurer
    _measurer = Measurer(plan_of(expression))
    _measurer.load()
    _measurer.measure(structures[:CHUNK])
    ways = {"bare": bare_loop, "pool": by_hand}
    while way := connection.recv():
        connection.send(ways[way](structures, 2))


def overhead(expression: str, structures: list[Structure], repeats: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=rival, args=(expression, structures, theirs)
    )
    process.start()

    def asked(way: str) -> float:
        ours.send(way)
        return ours.recv()

    asked("bare")
    backend = started(expression, 2, structures[: 4 * CHUNK])
    bare, pool, ray = shortest(
        repeats, lambda: asked("bare"), lambda: asked("pool"), lambda: executor(backend, structures)
    )
    backend.close()
    ours.send("")
    process.join()
    print(
        f"| `{expression}` | {1000 * bare / len(structures):.2f} | {bare:.2f} | {ray:.2f} "
        f"| {ray / bare - 1:+.1%} | {pool:.2f} | {pool / bare - 1:+.1%} |",
        flush=True,
    )


def speed_up(expression: str, structures: list[Structure], repeats: int) -> None:
    times = []
    for workers in (1, 2):
        backend = started(expression, workers, structures[: 4 * CHUNK])
        times += shortest(repeats, lambda b=backend: executor(b, structures))
        backend.close()
    one, two = times
    print(
        f"\n`{expression}`: {one:.1f} s with one worker, {two:.1f} s with two, {one / two:.2f} times faster."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=2000, help="structures")
    parser.add_argument("--cheap", nargs="*", default=["validity", "novelty"])
    parser.add_argument("--expensive", default="stability", help="empty: skip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"

    structures = sampled(arguments.policy, arguments.n, arguments.seed)
    cores = len(os.sched_getaffinity(0))
    print(f"{len(structures):,} structures, {cores} cores, load {os.getloadavg()[0]:.1f}.\n")
    print("| reward | bare, ms | bare loop, s | executor, s | overhead | multiprocessing, s | overhead |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for expression in arguments.cheap:
        overhead(expression, structures, arguments.repeats)
    if arguments.expensive:
        speed_up(arguments.expensive, structures, 1)


if __name__ == "__main__":
    main()
