"""A small process beside each worker: when the worker is gone, it kills what the worker has started.

Run as a script with the worker's process id, by the worker itself. Needs Linux and nothing but the
standard library, so that it starts in milliseconds and holds a few megabytes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.5
"""Seconds between two looks at what the worker has started."""

PROC = Path("/proc")


def watch(worker: int) -> None:
    """Wait until this process is no longer a child of the worker, then kill the worker's descendants."""
    known: dict[int, str] = {}
    while os.getppid() == worker:
        known |= descendants([worker])
        known = {pid: started for pid, started in known.items() if start_time(pid) == started}
        time.sleep(INTERVAL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)  # what was started after the last look
    known |= descendants(list(known))
    for pid, started in known.items():
        if start_time(pid) == started:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def descendants(roots: list[int]) -> dict[int, str]:
    """Children of some processes and their children in turn, but this process, with their start times."""
    found: dict[int, str] = {}
    todo = list(roots)
    while todo:
        for pid in _children(todo.pop()):
            if pid not in found and pid != os.getpid():
                found[pid] = start_time(pid)
                todo.append(pid)
    return found


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot (its id may be used again); empty if it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for thread in (PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            children += map(int, thread.read_text().split())
    return children


if __name__ == "__main__":
    watch(int(sys.argv[1]))
