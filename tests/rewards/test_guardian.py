"""Nothing that a worker has started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from materium_rl.rewards.execution import guardian

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WORKER = """
import os, subprocess, time
from materium_rl.rewards.execution import worker_process
worker_process._start_guardian()
pids = [subprocess.Popen(["sleep", "300"]).pid,
        subprocess.Popen(["sleep", "300"], start_new_session=True).pid,
        subprocess.Popen(["sh", "-c", "sleep 300 & wait"]).pid]
pids.append(os.fork())
if not pids[-1]:
    time.sleep(300)
print(*pids, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_of_any_kind_die_with_the_worker(number: int) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    children = [int(word) for word in worker.stdout.readline().split()]
    assert len(children) == 4
    deadline = time.monotonic() + 30
    while len(guardian.descendants([worker.pid])) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)  # four children, the shell's and the guardian
    time.sleep(2 * guardian.INTERVAL)
    family = guardian.descendants([worker.pid])
    assert set(children) < set(family)
    os.kill(worker.pid, number)
    worker.wait()
    while (alive := _alive(family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def test_a_process_is_told_from_another_with_its_id() -> None:
    started = guardian.start_time(os.getpid())
    assert int(started) > 0
    ended = subprocess.Popen(["true"])
    while Path(f"/proc/{ended.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert guardian.start_time(ended.pid) == ""
    ended.wait()
    assert guardian.start_time(ended.pid) == ""


def _alive(family: dict[int, str]) -> list[int]:
    return [pid for pid, started in family.items() if guardian.start_time(pid) == started]
