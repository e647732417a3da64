"""Ray workers: same results as inline, and a bad reward costs nothing but the culprit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import RewardError
from materium_rl.rewards.scoring import Scorer

FAULTS = Path(__file__).parent / "plugins" / "faults.py"
LENGTH = f'"{FAULTS}:length"'
CRASH, HANG = 4.44, 5.55
"""Lattice lengths in Å on which a worker of the shared scorer dies, and on which it hangs."""
TIME_LIMIT = 5
OPTIONS: dict[str, Any] = {"gates": ("validity", "uniqueness"), "chunk_size": 4, "timeout": TIME_LIMIT}


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """One Ray instance for the module; the backends find it running and leave it alone."""
    import ray

    from materium_rl.rewards.execution.workers import connect

    connect(None, 2)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def workers(ray_session: Any) -> Iterator[Scorer]:
    """Two workers for the module, so that the tests also show that they go on after each fault."""
    with Scorer(expression(), workers=2, **OPTIONS) as scorer:
        yield scorer
    assert ray_session.is_initialized()


def expression() -> str:
    """A length, a crash that counts, and a hang that is only watched."""
    return f"{LENGTH} + {fault('crash')} + 0*\"{FAULTS}:SecondFault\"(kind='hang', mark={HANG})"


def fault(kind: str) -> str:
    return f'"{FAULTS}:Fault"(kind="{kind}")'


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def actors(scorer: Scorer) -> list[Any]:
    return [seat.actor for seat in scorer._backend._seats]


def same_as_inline(workers: Scorer, batch: list[Any], *, times: int = 1) -> Any:
    inline = Scorer(expression(), **OPTIONS)
    workers.load_state_dict(inline.state_dict())
    for _ in range(times):
        a, b = inline.score(batch), workers.score(batch)
        assert a.rewards.tobytes() == b.rewards.tobytes()
        assert a.to_frame().to_csv() == b.to_frame().to_csv()
        assert [row.shared for row in a] == [row.shared for row in b]
    return a


def test_ray_equals_inline_byte_for_byte(workers: Scorer) -> None:
    rng = np.random.default_rng(0)
    batch: list[Any] = [
        Structure(
            Lattice.from_parameters(*rng.uniform(3, 6, 3), 80, 90, 100), ["Na", "Cl"], rng.random((2, 3))
        )
        for _ in range(37)
    ]
    batch[5] = None
    table = same_as_inline(workers, batch, times=2)
    assert {"ok", "invalid"} == set(table.outcomes)


def test_only_the_culprits_fail(workers: Scorer) -> None:
    batch = [cell(3.0 + 0.01 * i) for i in range(20)]
    batch[6], batch[13] = cell(CRASH), cell(HANG)
    table = workers.score(batch)
    expected = ["ok"] * 20
    expected[6] = "failed"  # the hang is only watched
    assert list(table.outcomes) == expected
    for row, name, said in [(6, "fault", "died"), (13, "second_fault", f"time limit of {TIME_LIMIT} s")]:
        assert table.rows[row].terms[name].outcome == "failed"
        assert said in table.rows[row].terms[name].reason
    failed = {
        (row.index, name) for row in table for name, term in row.terms.items() if term.outcome == "failed"
    }
    assert failed == {(6, "fault"), (13, "second_fault")}
    assert list(table.values("length")) == pytest.approx([s.lattice.a / 10 for s in batch])
    again = workers.score(batch[:6])  # the replaced workers work
    assert list(again.outcomes) == ["ok"] * 6


def test_workers_share_a_cache_and_pass_its_warning_on(ray_session: Any, tmp_path: Path) -> None:
    batch = [cell(3.0 + 0.01 * i) for i in range(20)]
    other = [cell(4.0 + 0.01 * i) for i in range(20)]
    options = OPTIONS | {"gates": ("validity",)}
    with Scorer(LENGTH, workers=2, cache=tmp_path, **options) as scorer:
        stored = scorer.score(batch).to_frame()
        with Scorer(LENGTH, cache=tmp_path, **options) as inline:
            assert inline.score(batch).to_frame().to_csv() == stored.to_csv()
        (file,) = tmp_path.glob("*.sqlite")
        holder = sqlite3.connect(file, isolation_level=None)
        assert holder.execute("SELECT count(*) FROM results").fetchone() == (60,)  # with the prototypes
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.warns(RuntimeWarning, match="is not used any more: database is locked") as caught:
            locked = scorer.score(other).to_frame()
        holder.close()
    assert [str(file) in str(warning.message) for warning in caught] == [True]
    assert locked.to_csv() == Scorer(LENGTH, **options).score(other).to_frame().to_csv()


def test_worker_killed_from_outside_costs_nothing(ray_session: Any, workers: Scorer) -> None:
    idle = next(seat for seat in workers._backend._seats if seat.call is None)
    ray_session.kill(idle.actor)
    same_as_inline(workers, [cell(3.0 + 0.01 * i) for i in range(20)])


def test_an_interrupted_batch_leaves_nothing_behind(
    ray_session: Any, workers: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = actors(workers)
    monkeypatch.setattr(ray_session, "wait", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        workers.score([cell(HANG)])
    monkeypatch.undo()
    kept = [old is new for old, new in zip(before, actors(workers), strict=True)]
    assert sorted(kept) == [False, True]  # the one that hung was replaced
    assert list(workers.score([cell(3.0)] * 8).outcomes) == ["ok"] * 8


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_workers_run_one_thread_each(ray_session: Any, workers: Scorer) -> None:
    threads = [
        actor.__ray_call__.remote(lambda _: (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]))
        for actor in actors(workers)
    ]
    assert ray_session.get(threads) == [("1", "PASSIVE")] * 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [("load", r"FileNotFoundError: model\.pt"), ("exit_in_load", "died 3 times while it loaded fault")],
)
def test_a_reward_that_cannot_load_stops_at_the_start(ray_session: Any, kind: str, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        Scorer(fault(kind), gates=(), shared=(), workers=1).start()
