"""2,000 structures in, 2,000 rows out: here fewer, with every fault that a reward or a machine can have."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import RewardError
from materium_rl.rewards.scoring import Scorer

FAULTS = Path(__file__).parent / "plugins" / "faults.py"
LENGTH, SLOW = f'"{FAULTS}:length"', f'"{FAULTS}:slow"'
SLEEP = f"4321.{os.getpid()}"
"""Seconds that a left-behind process sleeps: tells it from those of other tests."""
KINDS = (
    "raise", "nan", "inf", "none", "short", "text", "hang", "crash", "segfault", "memory", "print",
    "children", "invalid",
)  # fmt: skip
SAID = {
    "raise": "ValueError: no such parameter", "nan": "returned nan", "inf": "returned -inf",
    "none": "NoneType", "short": "0 results for 1 structures", "text": "expected a number",
    "hang": "time limit of 4 s", "crash": "died", "segfault": "died", "memory": "ran out of memory",
}  # fmt: skip
OPTIONS: dict[str, Any] = {"gates": ("validity",), "chunk_size": 16, "timeout": 4, "worker_memory": 0.2}


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[Any]:
    """One Ray instance for the module; the backends find it running and leave it alone."""
    from materium_rl.rewards.execution.workers import connect

    connect(None, 2)
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("materium_rl.rewards.execution.workers.LONGEST_PAUSE", 0.1)
        yield ray
    ray.shutdown()


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def broken(kind: str, folder: Path, sound: int | None = None) -> str:
    return f'"{FAULTS}:BrokenWorker"(kind="{kind}", folder="{folder}", sound={sound})'


def actors(scorer: Scorer) -> list[Any]:
    return [seat.actor for seat in scorer._backend._seats]


def sleepers() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if SLEEP in (p.info["cmdline"] or [])]


def test_every_fault_at_once_costs_the_culprits_only(capfd: pytest.CaptureFixture[str]) -> None:
    batch = [cell(3.0 + 0.005 * i) for i in range(48)]
    batch[20 : 20 + len(KINDS)] = [cell(4 + i / 100) for i in range(len(KINDS))]
    seen: list[tuple[int, int]] = []
    left_behind: list[psutil.Process] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        left_behind.extend(sleepers())

    with Scorer(f'{LENGTH} + "{FAULTS}:EveryFault"(sleep="{SLEEP}")', workers=2, **OPTIONS) as scorer:
        table = scorer.score(batch, progress)
    assert left_behind
    expected = {20 + i: kind for i, kind in enumerate(KINDS)}
    assert [row.index for row in table] == list(range(48))
    for row in table:
        kind = expected.get(row.index, "")
        if kind in SAID:
            assert (row.outcome, row.terms["length"].outcome) == ("failed", "ok"), kind
            assert SAID[kind] in row.reason
        else:
            assert row.outcome == ("invalid" if kind == "invalid" else "ok"), kind
    assert seen[-1] == (48, 48)
    assert len(capfd.readouterr().out) < 100_000
    deadline = time.monotonic() + 20
    while sleepers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not sleepers()


def test_workers_killed_at_random_lose_nothing() -> None:
    batch = [cell(3.0 + 0.001 * i) for i in range(200)]
    inline = Scorer(SLOW, **OPTIONS).score(batch)
    stop = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not stop.wait(0.4) and len(killed) < 3:
            busy = [p for p in psutil.Process().children(recursive=True) if "Worker.measure" in p.name()]
            if busy:
                killed.append(busy[len(killed) % len(busy)].pid)
                os.kill(killed[-1], signal.SIGKILL)

    with Scorer(SLOW, workers=2, **OPTIONS) as scorer:
        thread = threading.Thread(target=kill)
        thread.start()
        table = scorer.score(batch)
        stop.set()
        thread.join()
    assert len(killed) == 3
    assert table.to_frame().to_csv() == inline.to_frame().to_csv()


def test_a_broken_worker_is_told_from_a_bad_reward(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the first process fails at the other can do; its successor is sound."""
    batch = [cell(3.0 + 0.001 * i) for i in range(96)]
    with Scorer(broken("raise", tmp_path), workers=2, **OPTIONS) as scorer:
        before = actors(scorer)
        table = scorer.score(batch)
        kept = [old is new for old, new in zip(before, actors(scorer), strict=True)]
    assert list(table.outcomes) == ["ok"] * 96
    assert sorted(kept) == [False, True]
    assert not caplog.records


def test_a_worker_that_stays_broken_is_taken_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("materium_rl.rewards.execution.workers.FAULTS", 3)
    batch = [cell(3.0 + 0.001 * i) for i in range(192)]
    expression = f"{SLOW} + {broken('crash', tmp_path, sound=1)}"
    with Scorer(expression, workers=2, **OPTIONS) as scorer:
        tables = [scorer.score(batch)]
        while not caplog.records and len(tables) < 12:  # a busy machine restarts it late
            tables.append(scorer.score(batch))
        again = scorer.score(batch[:32])
    assert all(list(table.outcomes) == ["ok"] * 192 for table in tables)
    assert list(again.outcomes) == ["ok"] * 32
    (record,) = caplog.records
    assert "is taken out: 3 times in a row it died of what another could measure; 1 go on" in record.message


def test_a_bad_reward_is_the_rewards_fault(tmp_path: Path) -> None:
    """With one worker, a new one gives the second opinion; the reward fails there too."""
    expression = f"{LENGTH} + 0*{broken('raise', tmp_path, sound=99)}"
    with Scorer(expression, workers=1, **OPTIONS) as scorer:
        table = scorer.score([cell(3.0 + 0.01 * i) for i in range(64)])
    assert list(table.outcomes) == ["ok"] * 64
    assert {row.terms["broken_worker"].reason for row in table} == {"raised OSError: no such device"}
    assert len(list(tmp_path.iterdir())) == 2


def test_when_nothing_works_anywhere_the_run_stops(tmp_path: Path) -> None:
    with (
        Scorer(broken("crash", tmp_path, sound=99), workers=1, gates=(), shared=()) as scorer,
        pytest.raises(RewardError, match=r"died 6 times and have measured nothing"),
    ):
        scorer.score([cell(3.0)] * 16)
