"""Where structures are measured: the interface, and the backend that does it in this process."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from materium_rl.rewards.execution.batches import Batch, Progress
from materium_rl.rewards.execution.measuring import Measurer, Plan, Sample

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Backend(ABC):
    """Measures batches of structures according to a plan."""

    @abstractmethod
    def start(self) -> None:
        """Load every reward.

        Raises:
            RewardError: A reward cannot be loaded; names it.
        """

    @abstractmethod
    def run(self, structures: Sequence[Structure], progress: Progress | None = None) -> list[Sample]:
        """Measure N structures; N samples come back in the same order.

        Args:
            structures: Without oxidation states and site properties.
            progress: Is called with the number of structures that are settled, and N.

        Raises:
            RewardError: Most structures hang or kill their worker, or the workers are broken.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what ``start`` took."""


class InlineBackend(Backend):
    """Measures in this process.

    The time limit interrupts Python code in the main thread on POSIX systems; a call stuck inside
    compiled code, and a crash of the interpreter, need workers.

    Args:
        plan: What to measure.
        timeout: Seconds for one chunk.
        chunk_size: Structures measured together.
    """

    def __init__(self, plan: Plan, *, timeout: float = 120.0, chunk_size: int = 16) -> None:
        self._timeout = timeout
        self._chunk_size = chunk_size
        self._measurer = Measurer(plan)

    def start(self) -> None:
        """Load every reward here."""
        self._measurer.load()

    def run(self, structures: Sequence[Structure], progress: Progress | None = None) -> list[Sample]:
        """Measure chunk by chunk."""
        batch = Batch(structures, self._chunk_size, self._measurer.parts, progress)
        while tasks := batch.take():
            (task,) = tasks
            try:
                with _time_limit(self._timeout):
                    samples = self._measurer.measure(batch.inputs(tasks), task.part)
            except _TimeUpError:
                batch.hung(tasks, over_time(self._timeout))
            except MemoryError as error:
                batch.hung(tasks, out_of_memory(error))
            else:
                batch.done(task, samples)
        return batch.samples

    def close(self) -> None:
        """Close the cache."""
        self._measurer.close()


def over_time(seconds: float) -> str:
    """The reason of a failure."""
    return f"ran longer than the time limit of {seconds:g} s"


def out_of_memory(error: BaseException) -> str:
    """The reason of a failure."""
    return f"ran out of memory ({error!s:.200})".replace(" ()", "")


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
