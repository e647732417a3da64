"""Where structures are measured: in this process, or in Ray actors. Both give equal results.

A batch is cut into chunks. A chunk that hangs, or kills its worker, is *lost*: it is taken apart into
single structures and single rewards, which run again on their own, so that only the culprit fails.
(Halving the chunk again and again would cost more time limits and more restarts.)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from materium_rl.errors import MateriumError, RewardError
from materium_rl.rewards.base import Failure
from materium_rl.rewards.measuring import Measurer, Part, Plan, Sample

if TYPE_CHECKING:
    from pymatgen.core import Structure

LOAD_TIMEOUT = 600.0
"""Seconds that a worker may take to start and load its rewards."""

_STOP_AFTER = 8
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads slow a busy machine down eightfold
}
_OBJECT_STORE = 100_000_000


class Backend(ABC):
    """Measures batches of structures according to a plan."""

    @abstractmethod
    def start(self) -> None:
        """Load every reward.

        Raises:
            RewardError: A reward cannot be loaded; names it.
        """

    @abstractmethod
    def run(self, structures: Sequence[Structure]) -> list[Sample]:
        """Measure N structures; N samples come back in the same order.

        Raises:
            RewardError: Most structures hang or kill their worker.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what ``start`` took."""


class _Unit(NamedTuple):
    """One call: these structures, the whole plan (``part`` None) or one part of it."""

    indices: list[int]
    part: Part | None = None


class _Batch:
    """The calls of one batch that are still to do, and what came back so far."""

    def __init__(self, structures: Sequence[Structure], chunk_size: int, parts: list[Part]) -> None:
        self.structures = structures
        self.parts = parts
        self.samples = [Sample() for _ in structures]
        chunks = range(0, len(structures), chunk_size)
        self.pending = deque(_Unit(list(range(i, min(i + chunk_size, len(structures))))) for i in chunks)
        self._settled: set[int] = set()
        self._culprits: set[int] = set()

    def inputs(self, unit: _Unit) -> list[Structure]:
        return [self.structures[i] for i in unit.indices]

    def done(self, unit: _Unit, samples: Sequence[Sample]) -> None:
        for i, sample in zip(unit.indices, samples, strict=True):
            self.samples[i].merge(sample)
        self._settled.update(unit.indices)

    def lost(self, unit: _Unit, reason: str) -> None:
        if unit.part is None:
            self.pending.extendleft(_Unit([i], part) for i in unit.indices for part in self.parts)
            return
        sample, failure = self.samples[unit.indices[0]], Failure(reason)
        if unit.part.kind == "term":
            sample.results[unit.part.name] = failure
        else:
            sample.labels[unit.part.name] = failure
        self._settled.update(unit.indices)
        self._culprits.update(unit.indices)
        if len(self._culprits) >= _STOP_AFTER and 2 * len(self._culprits) > len(self._settled):
            raise RewardError(
                f"{len(self._culprits)} of {len(self._settled)} structures could not be measured "
                f"({unit.part.name}: {reason}); try the reward with workers=0 on one structure"
            )


class InlineBackend(Backend):
    """Measures in this process.

    The time limit interrupts Python code in the main thread on POSIX systems; a call stuck inside
    compiled code, and a crash of the interpreter, need workers.

    Args:
        plan: What to measure.
        timeout: Seconds for one chunk.
        chunk_size: Structures in one call.
    """

    def __init__(self, plan: Plan, *, timeout: float = 120.0, chunk_size: int = 16) -> None:
        self._timeout = timeout
        self._chunk_size = chunk_size
        self._measurer = Measurer(plan)

    def start(self) -> None:
        """Load every reward here."""
        self._measurer.load()

    def run(self, structures: Sequence[Structure]) -> list[Sample]:
        """Measure chunk by chunk."""
        batch = _Batch(structures, self._chunk_size, self._measurer.parts)
        while batch.pending:
            unit = batch.pending.popleft()
            try:
                with _time_limit(self._timeout):
                    samples = self._measurer.measure(batch.inputs(unit), unit.part)
            except _TimeUpError:
                batch.lost(unit, _over_time(self._timeout))
            else:
                batch.done(unit, samples)
        return batch.samples

    def close(self) -> None:
        """Close the cache."""
        self._measurer.close()


class _Worker:
    """Lives in a Ray process."""

    def load(self, plan: Plan) -> str:
        """Build and load the plan's rewards; return what went wrong, or nothing."""
        try:
            self._measurer = Measurer(plan)
            self._measurer.load()
        except MateriumError as error:
            return str(error)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        return ""

    def measure(self, structures: list[Structure], part: Part | None) -> list[Sample]:
        return self._measurer.measure(structures, part)


@dataclass(slots=True, eq=False)
class _Seat:
    """One place for a worker: its actor, and the call it is busy with (``unit`` None: loading)."""

    actor: Any = None
    call: Any = None
    unit: _Unit | None = None
    deadline: float = 0.0


class RayBackend(Backend):
    """Measures in Ray actors, one thread each; a crash or a hang costs nothing but the culprit.

    Args:
        plan: What to measure.
        n_workers: Number of actors.
        timeout: Seconds for one chunk; after it the actor is killed and replaced.
        chunk_size: Structures in one call (8-16 keep both overhead and waiting small).
        address: Ray cluster to join; None starts Ray on this machine's loopback interface, unless
            this process is connected already.
    """

    def __init__(
        self,
        plan: Plan,
        n_workers: int,
        *,
        timeout: float = 120.0,
        chunk_size: int = 16,
        address: str | None = None,
    ) -> None:
        self._plan = plan
        self._parts = Measurer(plan).parts
        self._timeout = timeout
        self._chunk_size = chunk_size
        self._address = address
        self._seats = [_Seat() for _ in range(n_workers)]
        self._owns_ray = False

    def start(self) -> None:
        """Start Ray, unless it runs already, and the actors; all load at the same time."""
        import ray

        if not ray.is_initialized():
            _connect(self._address, len(self._seats))
            self._owns_ray = True
        try:
            for seat in self._seats:
                self._seat_worker(seat)
            for seat in self._seats:
                self._await_load(seat)
        except BaseException:
            self.close()
            raise

    def run(self, structures: Sequence[Structure]) -> list[Sample]:
        """Hand chunks to free actors until all are done."""
        batch = _Batch(structures, self._chunk_size, self._parts)
        try:
            while batch.pending or any(seat.unit for seat in self._seats):
                self._assign(batch)
                self._collect(batch)
        except BaseException:  # an interrupt must not leave calls of this batch behind
            for seat in self._seats:
                if seat.unit is not None:
                    self._replace(seat)
            raise
        return batch.samples

    def close(self) -> None:
        """Kill the actors; shut Ray down only if ``start`` started it."""
        import ray

        for seat in self._seats:
            if seat.actor is not None and ray.is_initialized():
                ray.kill(seat.actor)
            seat.actor = seat.call = seat.unit = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def _assign(self, batch: _Batch) -> None:
        for seat in self._seats:
            if seat.call is None and batch.pending:
                seat.unit = batch.pending.popleft()
                seat.call = seat.actor.measure.remote(batch.inputs(seat.unit), seat.unit.part)
                seat.deadline = time.monotonic() + self._timeout

    def _collect(self, batch: _Batch) -> None:
        """Wait until a call ends, a replaced worker has loaded, or a time limit is over."""
        import ray

        waiting = [seat for seat in self._seats if seat.call is not None]
        patience = min(seat.deadline for seat in waiting) - time.monotonic()
        ready, _ = ray.wait([seat.call for seat in waiting], timeout=max(0.0, patience))
        for seat in waiting:
            late = time.monotonic() >= seat.deadline
            if seat.unit is None:
                if seat.call in ready or late:
                    self._await_load(seat)
            elif seat.call in ready:
                self._settle(seat, seat.unit, batch)
            elif late:
                unit = seat.unit
                self._replace(seat)
                batch.lost(unit, _over_time(self._timeout))

    def _settle(self, seat: _Seat, unit: _Unit, batch: _Batch) -> None:
        import ray

        try:
            samples = ray.get(seat.call)
        except ray.exceptions.RayActorError:
            self._replace(seat)
            batch.lost(unit, "the worker process died (crash, exit or out of memory)")
        except Exception as error:  # noqa: BLE001 (worker boundary: answers that cannot be sent)
            seat.call = seat.unit = None
            batch.lost(unit, f"the answer could not be sent: {type(error).__name__}: {error!s:.200}")
        else:
            seat.call = seat.unit = None
            batch.done(unit, samples)

    def _seat_worker(self, seat: _Seat) -> None:
        import ray

        actor_class = ray.remote(
            num_cpus=0.5,  # whole CPUs would starve every other task of the machine
            max_restarts=0,
            max_task_retries=0,  # a retried poison structure would kill the next worker too
            runtime_env={"env_vars": _WORKER_ENVIRONMENT},
        )(_Worker)
        seat.actor = actor_class.remote()
        seat.call, seat.unit = seat.actor.load.remote(self._plan), None
        seat.deadline = time.monotonic() + LOAD_TIMEOUT

    def _replace(self, seat: _Seat) -> None:
        import ray

        ray.kill(seat.actor)
        self._seat_worker(seat)

    def _await_load(self, seat: _Seat) -> None:
        import ray

        try:
            problem = ray.get(seat.call, timeout=max(0.0, seat.deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            problem = (
                f"a worker was not ready after {LOAD_TIMEOUT:.0f} s; "
                f"are there {0.5 * len(self._seats):g} free CPUs for {len(self._seats)} workers?"
            )
        except ray.exceptions.RayError as error:
            problem = f"a worker died while it loaded {', '.join(p.name for p in self._parts)}: {error}"
        if problem:
            raise RewardError(problem)
        seat.call = None


class _TimeUpError(BaseException):
    """Not an Exception, so that a reward's own handlers let it pass."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_signal: int, _frame: object) -> NoReturn:
        raise _TimeUpError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _over_time(seconds: float) -> str:
    return f"ran longer than the time limit of {seconds:g} s"


def _connect(address: str | None, n_workers: int) -> None:
    """Join a cluster, or start Ray on the loopback interface of this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",  # RAY_ADDRESS in the environment would otherwise join somebody's cluster
            "_node_ip_address": "127.0.0.1",
            "num_cpus": max(n_workers, os.cpu_count() or 1),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
        }
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises bare Exception
        ray.shutdown()
        where = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
        raise RewardError(f"cannot {where}: {error}; workers=0 scores without Ray") from error
