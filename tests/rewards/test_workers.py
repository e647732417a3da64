"""Ray workers: same results as inline, and a bad reward costs nothing but the culprit."""

from __future__ import annotations

import os
import time
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
MARK = 4.44


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """One Ray instance for the module; the backends find it running and leave it alone."""
    import ray

    from materium_rl.rewards.workers import _connect

    _connect(None, 2)
    yield ray
    ray.shutdown()


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def fault(kind: str) -> str:
    return f'"{FAULTS}:Fault"(kind="{kind}")'


def test_ray_equals_inline_byte_for_byte(ray_session: Any) -> None:
    rng = np.random.default_rng(0)
    batch: list[Any] = [
        Structure(
            Lattice.from_parameters(*rng.uniform(3, 6, 3), 80, 90, 100), ["Na", "Cl"], rng.random((2, 3))
        )
        for _ in range(37)
    ]
    batch[5] = None
    options: dict[str, Any] = {"gates": ("validity", "uniqueness"), "chunk_size": 4}
    inline = Scorer(LENGTH, **options)
    with Scorer(LENGTH, workers=2, **options) as workers:
        for _ in range(2):
            a, b = inline.score(batch), workers.score(batch)
            assert a.rewards.tobytes() == b.rewards.tobytes()
            assert a.to_frame().to_csv() == b.to_frame().to_csv()
            assert [row.shared for row in a] == [row.shared for row in b]
    assert {"ok", "invalid"} == set(a.outcomes)
    assert ray_session.is_initialized()


@pytest.mark.parametrize(
    ("kind", "said", "monitor", "timeout"),
    [("crash", "died", False, 60), ("hang", "time limit of 5 s", True, 5)],
)
def test_only_the_culprit_fails(
    ray_session: Any, kind: str, said: str, monitor: bool, timeout: float
) -> None:
    batch = [cell(3.0 + 0.01 * i) for i in range(20)]
    batch[6] = cell(MARK)
    expression = f"{LENGTH} + {'0*' if monitor else ''}{fault(kind)}"
    with Scorer(expression, gates=("validity",), workers=2, chunk_size=8, timeout=timeout) as scorer:
        table = scorer.score(batch)
        again = scorer.score(batch[:6])  # the replaced worker works
    expected = ["ok"] * 20
    if not monitor:
        expected[6] = "failed"
    assert list(table.outcomes) == expected
    culprit = table.rows[6].terms
    assert culprit["fault"].outcome == "failed"
    assert said in culprit["fault"].reason
    assert culprit["length"].value == pytest.approx(MARK / 10)
    assert list(table.values("length")) == pytest.approx([s.lattice.a / 10 for s in batch])
    assert list(again.outcomes) == ["ok"] * 6


def test_worker_killed_from_outside_costs_nothing(ray_session: Any) -> None:
    batch = [cell(3.0 + 0.01 * i) for i in range(20)]
    with Scorer(LENGTH, gates=("validity",), workers=1, chunk_size=8) as scorer:
        first = scorer.score(batch)
        ray_session.kill(scorer._backend._seats[0].actor)
        second = scorer.score(batch)
    assert first.to_frame().to_csv() == second.to_frame().to_csv()


def test_a_reward_that_always_crashes_stops_the_run(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("materium_rl.rewards.workers._STOP_AFTER", 2)
    with (
        Scorer(fault("crash"), gates=(), shared=(), workers=1) as scorer,
        pytest.raises(RewardError, match=r"2 of 2 structures could not be measured .*died"),
    ):
        scorer.score([cell(MARK)] * 16)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("load", r"FileNotFoundError: model\.pt"), ("exit_in_load", "died while it loaded fault")],
)
def test_a_reward_that_cannot_load_stops_at_the_start(ray_session: Any, kind: str, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        Scorer(fault(kind), gates=(), workers=1).start()


def test_an_interrupted_batch_leaves_nothing_behind(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scorer(fault("hang"), gates=(), workers=1, timeout=30) as scorer:
        start = time.monotonic()
        monkeypatch.setattr(ray_session, "wait", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            scorer.score([cell(MARK)])
        monkeypatch.undo()
        assert list(scorer.score([cell(3.0)]).outcomes) == ["ok"]
        assert time.monotonic() - start < 25


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_workers_run_one_thread_each(ray_session: Any) -> None:
    from materium_rl.rewards.workers import _WORKER_ENVIRONMENT

    remote = ray_session.remote(num_cpus=0.5, runtime_env={"env_vars": _WORKER_ENVIRONMENT})(
        lambda: (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"])
    )
    assert ray_session.get(remote.remote()) == ("1", "PASSIVE")
