"""A cluster of two Ray nodes on this machine: one is lost, and a run on it is interrupted."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.scoring import Scorer

FAULTS = Path(__file__).parent / "plugins" / "faults.py"
SLOW = f'"{FAULTS}:slow"'
SLEEP = f"4322.{os.getpid()}"
"""Seconds that a left-behind process sleeps: tells it from those of other tests."""
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell lets its children ignore it
from pymatgen.core import Lattice, Structure
from materium_rl.rewards.scoring import Scorer
expression, address, out, *lengths = sys.argv[1:]
batch = [Structure(Lattice.cubic(float(a)), ["Fe"], [[0, 0, 0]]) for a in lengths]
try:
    with Scorer(expression, gates=(), workers=2, chunk_size=1, timeout=600, ray_address=address) as scorer:
        table = scorer.score(batch, lambda *done: print(*done, flush=True))
    table.to_frame().to_csv(out)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


class Nodes(NamedTuple):
    """Address and ``ray start`` processes of a cluster."""

    address: str
    head: subprocess.Popen[str]
    second: subprocess.Popen[str]

    def workers(self) -> list[int]:
        """Process ids of the workers, those of the second node last."""
        return _workers(self.head) + _workers(self.second)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        head = _start("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false")
        stack.callback(_kill, head)
        _await_start(head)
        second = _start(f"--address={address}")
        stack.callback(_kill, second)
        _await_start(second)
        yield Nodes(address, head, second)


def _start(*arguments: str) -> subprocess.Popen[str]:
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    return subprocess.Popen(
        [*command, *options, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _await_start(node: subprocess.Popen[str]) -> None:
    assert node.stdout is not None
    said = []
    for line in node.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return
    raise AssertionError("the node did not start: " + "".join(said))


def _kill(node: subprocess.Popen[str]) -> None:
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            if process.is_running():
                process.kill()
        node.wait()


def driver(expression: str, nodes: Nodes, out: Path, lengths: Sequence[float]) -> subprocess.Popen[str]:
    """A process that scores on the cluster, one structure at a time, and says how far it is."""
    arguments = [expression, nodes.address, str(out), *map(str, lengths)]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, text=True)


def test_ctrl_c_ends_workers_and_their_children(nodes: Nodes, tmp_path: Path) -> None:
    # one structure leaves a child behind, the other hangs
    expression = f'"{FAULTS}:EveryFault"(sleep="{SLEEP}")'
    process = driver(expression, nodes, tmp_path / "table.csv", (4.11, 4.06))
    assert process.stdout is not None
    assert process.stdout.readline() == "1 2\n"
    assert _sleepers()
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    process.wait(timeout=60)
    assert time.monotonic() - start < 40  # 2 on a quiet machine; the structure would hang for 600
    deadline = time.monotonic() + 30
    while (_sleepers() or nodes.workers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _sleepers()
    assert not nodes.workers()


def test_a_lost_node_costs_nothing(nodes: Nodes, tmp_path: Path) -> None:
    lengths = [round(3.0 + 0.001 * i, 3) for i in range(240)]
    process = driver(SLOW, nodes, tmp_path / "table.csv", lengths)
    assert process.stdout is not None
    lost: list[int] = []
    for line in process.stdout:
        if not lost and int(line.split()[0]) > 80:
            lost = _workers(nodes.second)
            _kill(nodes.second)
    assert process.wait() == 0
    assert len(lost) == 1
    batch = [Structure(Lattice.cubic(a), ["Fe"], [[0, 0, 0]]) for a in lengths]
    inline = Scorer(SLOW, gates=(), chunk_size=1).score(batch)
    assert (tmp_path / "table.csv").read_text() == inline.to_frame().to_csv()


def _sleepers() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if SLEEP in (p.info["cmdline"] or [])]


def _workers(node: subprocess.Popen[str]) -> list[int]:
    if node.poll() is not None:
        return []
    family = psutil.Process(node.pid).children(recursive=True)
    return [process.pid for process in family if process.name().startswith("ray::Worker")]
