"""What the Ray executor costs, and what it gains.

    python benchmarks/executor.py

Overhead: a cheap reward on 2,000 samples of a policy, by two workers; from structures in this process to
results in this process, without start-up. Compared with

- the bare loop split in two: two forked processes that hold their half already, call the reward in a plain
  loop, chunk by chunk, and send the results back through a pipe;
- multiprocessing: a pool of two processes that is given the same chunks, as one would write it by hand.

Speed-up: an expensive reward (--expensive) with one worker and with two. It needs two free cores.

The three are run in turn, --repeats times, and the least cost of each counts. On a busy machine, or on one
core (taskset), look at the overhead in CPU seconds: the clock then tells how many processes compete.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
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


class Cost(NamedTuple):
    """Seconds of the clock, and of all processes that work."""

    wall: float
    cpu: float


def bare_loop(structures: list[Structure], processes: int) -> Cost:
    """Cost of the plain loop in forked processes that wait for the word with their share in hand."""
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
    with cost(running) as spent:
        for ours, _ in go:
            ours.send(None)
        found = [sample for ours, _ in answers for sample in ours.recv()]
    for process in running:
        process.join()
    assert len(found) == len(structures)
    return spent[0]


@contextmanager
def cost(processes: Sequence[Any]) -> Iterator[list[Cost]]:
    """What this block costs in this process and some others, which are still there at its end."""
    others = [psutil.Process(process.pid) for process in processes]

    def cpu() -> float:
        return time.process_time() + sum(sum(other.cpu_times()[:2]) for other in others)

    spent: list[Cost] = []
    before, start = cpu(), time.perf_counter()
    yield spent
    spent.append(Cost(time.perf_counter() - start, cpu() - before))


def by_hand(structures: list[Structure], processes: int) -> Cost:
    pool = multiprocessing.get_context("fork").Pool(processes)
    pool.map(abs, range(processes))
    with cost(multiprocessing.active_children()) as spent:
        pool.map(measured, chunks(structures), chunksize=1)
    pool.close()
    pool.join()
    return spent[0]


def measured(structures: Sequence[Structure]) -> list[Sample]:
    return _measurer.measure(structures)


def executor(backend: RayBackend, structures: list[Structure]) -> Cost:
    family = psutil.Process().children(recursive=True)
    with cost([process for process in family if process.name().startswith("ray::Worker")]) as spent:
        backend.run(structures)
    return spent[0]


def started(expression: str, workers: int, warm_up: list[Structure]) -> RayBackend:
    backend = RayBackend(plan_of(expression), workers, chunk_size=CHUNK)
    backend.start()
    backend.run(warm_up)
    return backend


def least(repeats: int, *ways: Callable[[], Cost]) -> list[Cost]:
    """Least cost of each way, run in turn so that a busy moment does not hit one alone."""
    costs = [[way() for way in ways] for _ in range(repeats)]
    return [
        Cost(*(min(figures) for figures in zip(*column, strict=True))) for column in zip(*costs, strict=True)
    ]


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

    def asked(way: str) -> Cost:
        ours.send(way)
        return ours.recv()

    asked("bare")
    backend = started(expression, 2, structures[: 4 * CHUNK])
    bare, pool, ray = least(
        repeats, lambda: asked("bare"), lambda: asked("pool"), lambda: executor(backend, structures)
    )
    backend.close()
    ours.send("")
    process.join()
    more = [f"{a / b - 1:+.1%}" for way in (ray, pool) for a, b in zip(way, bare, strict=True)]
    milliseconds = 1000 * bare.cpu / len(structures)
    print(
        f"| `{expression}` | {milliseconds:.2f} | {bare.wall:.2f} | {ray.wall:.2f} | {' | '.join(more)} |",
        flush=True,
    )


def speed_up(expression: str, structures: list[Structure], repeats: int) -> None:
    times = []
    for workers in (1, 2):
        backend = started(expression, workers, structures[: 4 * CHUNK])
        times += least(repeats, lambda b=backend: executor(b, structures))
        backend.close()
    one, two = (spent.wall for spent in times)
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
    print("| reward | bare, ms | bare loop, s | executor, s | overhead | in CPU | by hand | in CPU |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for expression in arguments.cheap:
        overhead(expression, structures, arguments.repeats)
    if arguments.expensive:
        speed_up(arguments.expensive, structures, 1)


if __name__ == "__main__":
    main()
