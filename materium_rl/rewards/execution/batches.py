"""What is left to do of one batch, and who is to blame for what was lost.

A batch is cut into chunks of a fixed size, which are always measured together, so that the numbers do
not depend on how many workers there are. What happens to a chunk that does not come back:

- It hung: it is taken apart into single structures and single rewards, which run on their own. One
  that hangs alone has failed. (Halving the chunk again and again would cost more time limits.)
- Its worker died: it runs again, on another worker if there is one, since a worker may be killed by
  anything. If that one dies too, it is taken apart. Only what has killed three workers alone has failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure
from materium_rl.rewards.execution.measuring import Part, Sample

if TYPE_CHECKING:
    from pymatgen.core import Structure

Progress = Callable[[int, int], None]
"""Called with the number of structures that are settled, and that of all."""

CHUNK_DEATHS = 2
"""A chunk that was there at so many deaths of a worker is taken apart."""
DEATHS = 3
"""A structure and reward that were alone at so many deaths of a worker have failed."""
_STOP_AFTER = 8


@dataclass(frozen=True, slots=True)
class Task:
    """The smallest piece of work: these structures, the whole plan (``part`` None) or one part of it.

    Args:
        indices: Places in the batch.
        part: Of the plan.
        deaths: Workers that have died of it so far, as it is now.
        avoid: The worker that should not get it again, if there is another.
        suspect: It was in a call that did not come back in order, so it runs alone.
    """

    indices: tuple[int, ...]
    part: Part | None = None
    deaths: int = 0
    avoid: int | None = None
    suspect: bool = False


class Batch:
    """The tasks of one batch that are still to do, and what came back so far.

    Args:
        structures: N structures.
        chunk_size: Structures measured together.
        parts: Into which the plan can be taken apart.
        progress: Is told how far it is.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        chunk_size: int,
        parts: Sequence[Part],
        progress: Progress | None = None,
    ) -> None:
        self.structures = structures
        self.parts = parts
        self.samples = [Sample() for _ in structures]
        n = len(structures)
        self.pending = deque(Task(tuple(range(i, min(i + chunk_size, n)))) for i in range(0, n, chunk_size))
        self._progress = progress
        self._open = [1] * n  # tasks that a structure still waits for
        self._settled = 0
        self._culprits: set[int] = set()

    def inputs(self, tasks: Iterable[Task]) -> list[Structure]:
        """The structures of some tasks, in their order."""
        return [self.structures[i] for task in tasks for i in task.indices]

    def take(self, worker: int = 0, *, most: int = 1, alone: bool = True) -> list[Task]:
        """The next tasks for a worker: up to ``most`` that nothing speaks against, or one suspect.

        Args:
            worker: Who asks.
            most: So many at once.
            alone: No other worker could take what this one should not get again.
        """
        for place, task in enumerate(self.pending):
            if alone or task.avoid != worker:
                del self.pending[place]
                break
        else:
            return []
        tasks = [task]
        while not task.suspect and len(tasks) < most and self.pending and not self.pending[0].suspect:
            tasks.append(self.pending.popleft())
        return tasks

    def done(self, task: Task, samples: Sequence[Sample]) -> None:
        """Take over what came back for a task."""
        for i, sample in zip(task.indices, samples, strict=True):
            self.samples[i].merge(sample)
        self._close(task)

    def again(self, task: Task, worker: int) -> Task:
        """Let a task run once more, by another worker than this one if there is one."""
        task = replace(task, avoid=worker, suspect=True)
        self.pending.appendleft(task)
        return task

    def hung(self, tasks: Sequence[Task], reason: str) -> None:
        """A call ran over its time, or out of memory."""
        if len(tasks) > 1:
            alone = [replace(task, suspect=True) for task in tasks]
            self.pending.extendleft(reversed(alone))
        elif tasks[0].part is None:
            self._take_apart(tasks[0])
        else:
            self._blame(tasks[0], reason)

    def died(self, tasks: Sequence[Task], worker: int, reason: str) -> None:
        """A call did not come back, because its worker died."""
        marked = [replace(task, deaths=task.deaths + 1, avoid=worker, suspect=True) for task in tasks]
        if len(marked) > 1 or marked[0].deaths < (CHUNK_DEATHS if marked[0].part is None else DEATHS):
            self.pending.extend(marked)  # last: a kill from outside, too, hits what a new worker does first
        elif marked[0].part is None:
            self._take_apart(marked[0])
        else:
            self._blame(marked[0], reason)

    def _take_apart(self, task: Task) -> None:
        single = [
            replace(task, indices=(i,), part=part, deaths=0, suspect=True)
            for i in task.indices
            for part in self.parts
        ]
        for i in task.indices:
            self._open[i] = len(self.parts)
        self.pending.extendleft(reversed(single))

    def _blame(self, task: Task, reason: str) -> None:
        assert task.part is not None
        sample, failure = self.samples[task.indices[0]], Failure(reason)
        if task.part.kind == "term":
            sample.results[task.part.name] = failure
        else:
            sample.labels[task.part.name] = failure
        self._culprits.update(task.indices)
        self._close(task)
        settled = max(self._settled, len(self._culprits))
        if len(self._culprits) >= _STOP_AFTER and 2 * len(self._culprits) > settled:
            raise RewardError(
                f"{len(self._culprits)} of {settled} structures could not be measured "
                f"({task.part.name}: {reason}); try the reward with workers=0 on one structure"
            )

    def _close(self, task: Task) -> None:
        for i in task.indices:
            self._open[i] -= 1
            self._settled += self._open[i] == 0
        if self._progress is not None:
            self._progress(self._settled, len(self.structures))
