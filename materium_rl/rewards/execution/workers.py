"""Ray actors that measure structures: a crash, a hang or a lost node costs nothing but the culprit.

Three faults are told apart. A *structure* on which a reward hangs or dies fails alone (``batches``). A
*worker* that dies of, or fails at, what others can do is restarted after a growing pause, and taken out
when it goes on. A *reward* or machine with which nothing works at all stops the run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure
from materium_rl.rewards.execution.backends import Backend, out_of_memory, over_time
from materium_rl.rewards.execution.batches import Batch, Progress, Task
from materium_rl.rewards.execution.measuring import Measurer, Part, Plan, Sample
from materium_rl.rewards.execution.packing import pack
from materium_rl.rewards.execution.worker_process import ENVIRONMENT, Worker

if TYPE_CHECKING:
    from pymatgen.core import Structure

LOAD_TIMEOUT = 600.0
"""Seconds that a worker may take to start and load its rewards."""

CALL_SECONDS = 0.5
"""Cheap chunks are sent together in calls that take about so long: a call costs a few milliseconds."""
LONG_CALL = 30.0
"""Seconds after which such a call is sent again chunk by chunk, each with the time limit of its own."""

FAULTS = 5
"""A worker is taken out when it has so often, in a row, lost or failed what others could measure."""
LOADS = 3
"""A worker that dies so often in a row while it loads is not tried again."""
DEATHS_AT_FIRST = 6
"""Deaths of workers that stop the run when nothing at all has been measured yet."""
LONGEST_PAUSE = 30.0
FEWEST_TO_DOUBT = 4
"""Structures at which one reward must fail, all of a chunk, to have another worker try it too."""

_OBJECT_STORE = 100_000_000
_DIED = "the worker process died (crash, exit or out of memory)"
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Seat:
    """One place for a worker.

    Without an actor: empty until ``not_before``. With a call but no tasks: loading. ``deaths`` and
    ``faults`` are counted since the last call that came back in order, ``loads`` since the last load.
    """

    number: int
    actor: Any = None
    call: Any = None
    tasks: list[Task] = field(default_factory=list)
    deadline: float = 0.0
    deaths: int = 0
    faults: int = 0
    loads: int = 0
    not_before: float = 0.0
    taken_out: bool = False


class RayBackend(Backend):
    """Measures in Ray actors of one thread each.

    Args:
        plan: What to measure.
        n_workers: Number of actors.
        timeout: Seconds for one chunk; after it the actor is killed and replaced.
        chunk_size: Structures measured together.
        memory: GB that an actor may take beyond what its rewards took when they were loaded (Linux).
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
        memory: float = 8.0,
        address: str | None = None,
    ) -> None:
        self._plan = plan
        self._parts = Measurer(plan).parts
        self._timeout = timeout
        self._chunk_size = chunk_size
        self._memory = memory
        self._address = address
        self._seats = [_Seat(number) for number in range(n_workers)]
        self._owns_ray = False
        self._chunk_seconds: float | None = None
        self._deaths_at_first = 0
        self._measured = False
        self._doubted: dict[Task, tuple[_Seat, set[Part]]] = {}
        self._hopeless: set[Part] = set()

    def start(self) -> None:
        """Start Ray, unless it runs already, and the actors; all load at the same time."""
        ray = _ray()
        if not ray.is_initialized():
            connect(self._address, len(self._seats))
            self._owns_ray = True
        try:
            for seat in self._seats:
                self._fill(seat)
            while loading := [seat for seat in self._seats if seat.call is not None]:
                self._wait(loading)
                for seat in self._seats:
                    if seat.actor is None and not seat.taken_out:
                        self._fill(seat)
        except BaseException:
            self.close()
            raise

    def run(self, structures: Sequence[Structure], progress: Progress | None = None) -> list[Sample]:
        """Hand chunks to free actors until all are done."""
        batch = Batch(structures, self._chunk_size, self._parts, progress)
        self._doubted.clear()
        try:
            while batch.pending or any(seat.tasks for seat in self._seats):
                self._assign(batch)
                self._collect(batch)
        except BaseException:  # an interrupt must not leave calls of this batch behind
            for seat in self._seats:
                if seat.tasks:
                    self._empty(seat)
            raise
        return batch.samples

    def close(self) -> None:
        """Kill the actors; shut Ray down only if ``start`` started it."""
        ray = _ray()
        for seat in self._seats:
            if ray.is_initialized():
                self._empty(seat)
        self._seats = [_Seat(seat.number) for seat in self._seats]
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    @property
    def _alive(self) -> list[_Seat]:
        return [seat for seat in self._seats if not seat.taken_out]

    def _assign(self, batch: Batch) -> None:
        alive = self._alive
        for seat in alive:
            if seat.actor is None and time.monotonic() >= seat.not_before:
                self._fill(seat)
            if seat.actor is None or seat.call is not None:
                continue
            most = 1
            if self._chunk_seconds is not None:
                share = ceil(len(batch.pending) / (2 * len(alive)))
                most = max(1, min(share, int(CALL_SECONDS / max(self._chunk_seconds, 1e-6))))
            seat.tasks = batch.take(seat.number, most=most, alone=len(alive) == 1)
            if seat.tasks:
                pieces = [(len(task.indices), task.part) for task in seat.tasks]
                seat.call = seat.actor.measure.remote(pack(batch.inputs(seat.tasks)), pieces)
                limit = self._timeout if len(seat.tasks) == 1 else min(self._timeout, LONG_CALL)
                seat.deadline = time.monotonic() + limit

    def _collect(self, batch: Batch) -> None:
        """Wait until a call ends, a worker has loaded, a time limit or a pause is over."""
        waiting = [seat for seat in self._alive if seat.call is not None]
        if waiting:
            self._wait(waiting, batch)
        else:
            moment = min(seat.not_before for seat in self._alive)
            time.sleep(max(0.0, moment - time.monotonic()))

    def _wait(self, waiting: list[_Seat], batch: Batch | None = None) -> None:
        empty = [seat.not_before for seat in self._alive if seat.actor is None]
        moment = min([seat.deadline for seat in waiting] + empty)
        calls = [seat.call for seat in waiting]
        ready, _ = _ray().wait(calls, timeout=max(0.0, moment - time.monotonic()))
        now = time.monotonic()
        for seat in waiting:
            if seat.call not in ready and now < seat.deadline:
                continue
            if not seat.tasks:
                self._settle_load(seat, in_time=seat.call in ready)
            elif batch is not None and seat.call in ready:
                self._settle(seat, batch)
            elif batch is not None:
                tasks = seat.tasks
                self._empty(seat)
                batch.hung(tasks, over_time(self._timeout))

    def _settle(self, seat: _Seat, batch: Batch) -> None:
        ray = _ray()
        tasks = seat.tasks
        try:
            answers, seconds = ray.get(seat.call)
        except ray.exceptions.RayTaskError as error:
            self._empty(seat)
            if isinstance(error.cause, MemoryError):
                batch.hung(tasks, out_of_memory(error.cause))
            else:
                cause = error.cause
                batch.hung(tasks, f"the answer could not be sent: {type(cause).__name__}: {cause!s:.200}")
        except ray.exceptions.RayError as error:
            self._died(seat)
            self._check_first_deaths(error)
            batch.died(tasks, seat.number, _DIED)
        else:
            seat.call, seat.tasks = None, []
            if all(task.part is None for task in tasks):
                before, now = self._chunk_seconds, seconds / len(tasks)
                self._chunk_seconds = now if before is None else (before + now) / 2
            self._accept(seat, tasks, answers, batch)

    def _accept(self, seat: _Seat, tasks: list[Task], answers: list[list[Sample]], batch: Batch) -> None:
        self._measured = True
        in_doubt = [task for task, samples in zip(tasks, answers, strict=True) if self._doubts(task, samples)]
        for task, samples in zip(tasks, answers, strict=True):
            if task in in_doubt:
                self._doubted[batch.again(task, seat.number)] = seat, _failing(samples)
            else:
                batch.done(task, samples)
                self._judge(seat, task, samples, batch)
        if not in_doubt:
            seat.deaths = seat.faults = 0
        elif len(self._alive) == 1:
            self._empty(seat)  # its successor gives the second opinion

    def _doubts(self, task: Task, samples: list[Sample]) -> bool:
        """Whether all failed at something that has not been seen to fail with every worker."""
        return task.part is None and task not in self._doubted and bool(_failing(samples) - self._hopeless)

    def _judge(self, seat: _Seat, task: Task, samples: list[Sample], batch: Batch) -> None:
        """Whose fault was it, if this task was not measured at the first try?"""
        failing = _failing(samples)
        self._hopeless = (self._hopeless | failing) - _working(samples)
        first, failed_first = self._doubted.pop(task, (None, set()))
        if first not in (None, seat) and failed_first - failing:
            names = ", ".join(sorted(part.name for part in failed_first - failing))
            self._recall(first, batch)
            self._fault(first, f"failed at what another could measure ({names})", batch)
        elif task.deaths and task.part is None and task.avoid not in (None, seat.number):
            self._fault(self._seats[task.avoid], "died of what another could measure", batch)

    def _fault(self, seat: _Seat, what: str, batch: Batch) -> None:
        """A worker was at fault, not the structures; it is taken out when it is so again and again."""
        seat.faults += 1
        if seat.faults >= FAULTS and not seat.taken_out:
            self._recall(seat, batch)
            self._take_out(seat, f"{seat.faults} times in a row it {what}")

    def _recall(self, seat: _Seat, batch: Batch) -> None:
        """Kill the actor of a seat and give back what it is busy with."""
        for task in reversed(seat.tasks):
            batch.again(task, seat.number)
        self._empty(seat)

    def _take_out(self, seat: _Seat, reason: str) -> None:
        seat.taken_out = True
        if not self._alive:
            raise RewardError(f"no worker is left, the structures are not at fault: {reason}")
        _log.warning("worker %d is taken out: %s; %d go on", seat.number, reason, len(self._alive))

    def _fill(self, seat: _Seat) -> None:
        """Start an actor on an empty seat; it loads."""
        actor_class = _ray().remote(
            num_cpus=0.5,  # whole CPUs would starve every other task of the machine
            max_restarts=0,
            max_task_retries=0,  # a retried poison structure would kill the next worker too
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": ENVIRONMENT},
        )(Worker)
        seat.actor = actor_class.remote()
        seat.call, seat.tasks = seat.actor.load.remote(self._plan, self._memory), []
        seat.deadline = time.monotonic() + LOAD_TIMEOUT

    def _empty(self, seat: _Seat) -> None:
        """Kill the actor of a seat, if it has one."""
        if seat.actor is not None:
            _ray().kill(seat.actor)
        seat.actor = seat.call = None
        seat.tasks = []

    def _died(self, seat: _Seat) -> None:
        """Clear the seat of a dead worker; the next one comes after a pause that grows with each death."""
        self._empty(seat)
        seat.deaths += 1
        seat.not_before = time.monotonic() + _pause(seat.deaths)

    def _check_first_deaths(self, error: Exception) -> None:
        self._deaths_at_first += not self._measured
        if not self._measured and self._deaths_at_first >= DEATHS_AT_FIRST:
            raise RewardError(
                f"the workers died {DEATHS_AT_FIRST} times and have measured nothing; try the reward with "
                f"workers=0 on one structure. Ray says: {error}"
            )

    def _settle_load(self, seat: _Seat, *, in_time: bool) -> None:
        ray = _ray()
        try:
            problem = ray.get(seat.call) if in_time else ""
        except ray.exceptions.RayError as error:
            names = ", ".join(part.name for part in self._parts)
            seat.loads += 1
            self._died(seat)
            if seat.loads < LOADS:
                return
            problem = f"a worker died {LOADS} times while it loaded {names}: {error}"
        if not in_time:
            problem = (
                f"a worker was not ready after {LOAD_TIMEOUT:.0f} s; "
                f"are there {0.5 * len(self._seats):g} free CPUs for {len(self._seats)} workers?"
            )
        if not problem:
            seat.call, seat.loads = None, 0
        elif self._measured:
            self._empty(seat)
            self._take_out(seat, problem)
        else:
            raise RewardError(problem)


def _failing(samples: Sequence[Sample]) -> set[Part]:
    """What failed for every structure that it was asked of, if these are enough to wonder at."""
    return {part for part, results in _by_part(samples).items() if _is_doubtful(results)}


def _is_doubtful(results: list[Any]) -> bool:
    return len(results) >= FEWEST_TO_DOUBT and all(isinstance(result, Failure) for result in results)


def _working(samples: Sequence[Sample]) -> set[Part]:
    """What did not fail for some structure."""
    by_part = _by_part(samples).items()
    return {part for part, results in by_part if not all(isinstance(r, Failure) for r in results)}


def _by_part(samples: Sequence[Sample]) -> dict[Part, list[Any]]:
    found: dict[Part, list[Any]] = {}
    for sample in samples:
        for name, result in sample.results.items():
            found.setdefault(Part("term", name), []).append(result)
        for name, label in sample.labels.items():
            found.setdefault(Part("label", name), []).append(label)
    return found


def _pause(deaths: int) -> float:
    """Seconds before the next try: none after a first death, then 0.5, 1, 2, ..."""
    return 0.0 if deaths < 2 else min(LONGEST_PAUSE, 0.5 * 2.0 ** (deaths - 2))


def _ray() -> Any:
    """Ray, imported with its messages about each dead worker, which are told here, switched off."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    import ray

    return ray


def connect(address: str | None, n_workers: int) -> None:
    """Join a cluster, or start Ray on the loopback interface of this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = _ray()
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
