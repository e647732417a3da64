"""Who is blamed for what was lost, with workers that are played by a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure, Measurement
from materium_rl.rewards.execution.batches import Batch, Task
from materium_rl.rewards.execution.measuring import Part, Sample

PARTS = [Part("term", "a"), Part("term", "b"), Part("label", "c")]
Fate = Callable[[list[Task], int], str]
"""What becomes of a call: its tasks and the worker -> "", "hangs" or "dies"."""


def answers(task: Task) -> list[Sample]:
    names = {"a", "b"} if task.part is None else {task.part.name} & {"a", "b"}
    return [Sample({name: Measurement(float(i)) for name in names}) for i in task.indices]


def played(n: int, fate: Fate, *, workers: int = 2, most: int = 3) -> tuple[Batch, Counter[str]]:
    """Run a batch of n to its end; also count the calls by what became of them."""
    said: list[tuple[int, int]] = []
    batch = Batch([None] * n, 4, PARTS, lambda done, total: said.append((done, total)))  # type: ignore[list-item]
    calls: Counter[str] = Counter()
    while batch.pending:
        for worker in range(workers):
            tasks = batch.take(worker, most=most, alone=workers == 1)
            if not tasks:
                continue
            what = fate(tasks, worker)
            calls[what] += 1
            if what == "hangs":
                batch.hung(tasks, what)
            elif what == "dies":
                batch.died(tasks, worker, what)
            else:
                for task in tasks:
                    batch.done(task, answers(task))
    assert said[-1] == (n, n)
    assert said == sorted(said)
    return batch, calls


def failed(batch: Batch) -> set[tuple[int, str]]:
    return {
        (i, name)
        for i, sample in enumerate(batch.samples)
        for name, result in {**sample.results, **sample.labels}.items()
        if isinstance(result, Failure)
    }


def holds(tasks: list[Task], index: int, name: str = "a") -> bool:
    return any(index in task.indices and task.part in (None, Part("term", name)) for task in tasks)


def test_without_faults_chunks_travel_together_in_order() -> None:
    sizes: list[list[int]] = []

    def fate(tasks: list[Task], _: int) -> str:
        sizes.append([len(task.indices) for task in tasks])
        return ""

    batch, _ = played(18, fate)
    assert sizes == [[4, 4, 4], [4, 2]]
    assert [sample.results["b"].value for sample in batch.samples] == list(range(18))  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("what", ["hangs", "dies"])
def test_only_the_culprit_fails(what: str, workers: int) -> None:
    batch, calls = played(24, lambda tasks, _: what if holds(tasks, 9, "b") else "", workers=workers)
    assert failed(batch) == {(9, "b")}
    assert all(batch.samples[i].results["a"] == Measurement(float(i)) for i in range(24))
    assert calls[what] == (3 if what == "hangs" else 5)  # among three chunks, in its own, alone (3 deaths)


def test_a_chunk_that_travels_alone_is_tried_twice_before_it_is_taken_apart() -> None:
    _, calls = played(4, lambda tasks, _: "dies" if holds(tasks, 2) else "")
    assert calls["dies"] == 2 + 3
    _, calls = played(4, lambda tasks, _: "hangs" if holds(tasks, 2) else "")
    assert calls["hangs"] == 2


def test_what_a_worker_died_of_goes_to_another() -> None:
    tried: list[tuple[int, int]] = []

    def fate(tasks: list[Task], worker: int) -> str:
        tried.extend((index, worker) for task in tasks for index in task.indices)
        return "dies" if worker == 1 else ""

    batch, _ = played(12, fate, most=1)
    assert not failed(batch)
    assert {i for i, worker in tried if worker == 0} == set(range(12))


def test_random_deaths_blame_nobody() -> None:
    rng = np.random.default_rng(0)
    deaths = [0]

    def fate(tasks: list[Task], _worker: int) -> str:
        work = sum(len(task.indices) * (3 if task.part is None else 1) for task in tasks)
        if deaths[0] < 20 and rng.random() < 0.02 * work:  # of a whole chunk: one in four
            deaths[0] += 1
            return "dies"
        return ""

    batch, calls = played(400, fate, most=1)
    assert calls["dies"] == 20
    assert not failed(batch)


def test_when_most_are_culprits_the_run_stops() -> None:
    with pytest.raises(RewardError, match=r"8 of 8 structures could not be measured \(a: hangs\)"):
        played(64, lambda tasks, _: "hangs" if any(holds(tasks, i) for i in range(64)) else "")


def test_an_empty_batch_is_done() -> None:
    batch = Batch([], 4, PARTS)
    assert batch.take() == []
    assert batch.samples == []
