"""What a worker process does: load a plan's rewards, measure what it is sent, and keep to itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from materium_rl.errors import MateriumError
from materium_rl.rewards.execution import guardian
from materium_rl.rewards.execution.measuring import Measurer, Part, Plan, Sample
from materium_rl.rewards.execution.packing import PackedStructures, pack, unpack

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads slow a busy machine down eightfold
}
"""Of every worker process, before it starts."""

_STDOUT, _STDERR = 1, 2


class Worker:
    """The actor."""

    def load(self, plan: Plan, memory: float) -> str:
        """Build and load the plan's rewards; return what went wrong, or nothing.

        Args:
            plan: What to measure.
            memory: GB that may be taken beyond what is taken after loading.
        """
        _start_guardian()
        _drop_output()
        try:
            self._measurer = Measurer(plan)
            self._measurer.load()
        except MateriumError as error:
            return str(error)
        unpack(pack([]))  # imports what every call needs
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        _limit_memory(memory)
        return ""

    def measure(
        self, packed: PackedStructures, tasks: Sequence[tuple[int, Part | None]]
    ) -> tuple[list[list[Sample]], float]:
        """Measure structures task by task; also tell the seconds that it took.

        Args:
            packed: The structures of all tasks, in order.
            tasks: Number of structures of each task, and the part of the plan to run (None: all).

        Raises:
            MemoryError: The limit was reached.
        """
        start = time.perf_counter()
        structures = unpack(packed)
        answers, first = [], 0
        for n, part in tasks:
            answers.append(self._measurer.measure(structures[first : first + n], part))
            first += n
        return answers, time.perf_counter() - start


def _start_guardian() -> None:
    """Have everything killed that this process starts and leaves behind (Linux)."""
    if sys.platform != "linux":
        return
    with suppress(PermissionError):  # it leads a group already
        os.setpgid(0, 0)
    subprocess.Popen(
        [sys.executable, "-I", "-S", guardian.__file__, str(os.getpid())],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _drop_output() -> None:
    """Let rewards print what they like: nobody would read it, and it would fill the disk."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDOUT)
        os.dup2(nowhere.fileno(), _STDERR)


def _limit_memory(gigabytes: float) -> None:
    """Make an allocation beyond the limit a MemoryError (Linux; its child processes inherit the limit)."""
    if sys.platform != "linux":
        return
    import resource

    status = Path("/proc/self/status").read_text().split()
    taken = int(status[status.index("VmData:") + 1]) * 1024
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = taken + int(gigabytes * 1e9)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
