"""A cluster of two Ray nodes on this machine: one is lost, and a run on it is interrupted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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
INTERRUPTED = """
import sys
from pymatgen.core import Lattice, Structure
from materium_rl.rewards.scoring import Scorer
expression, address = sys.argv[1:]
batch = [Structure(Lattice.cubic(a), ["Fe"], [[0, 0, 0]]) for a in (4.11, 4.06)]
try:
    with Scorer(expression, gates=(), shared=(), workers=2, chunk_size=1, ray_address=address) as scorer:
        scorer.score(batch, lambda *done: print(*done, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


class Nodes(NamedTuple):
    """Address and ``ray start`` processes of a cluster."""

    address: str
    head: subprocess.Popen[bytes]
    second: subprocess.Popen[bytes]

    def workers(self) -> list[int]:
        """Process ids of the workers, those of the second node last."""
        return _workers(self.head) + _workers(self.second)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = _node("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false")
    second = _node(f"--address={address}")
    yield Nodes(address, head, second)
    _kill(second)
    _kill(head)


def _node(*arguments: str) -> subprocess.Popen[bytes]:
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray)] if ray.is_file() else [sys.executable, "-m", "ray.scripts.scripts"]
    process = subprocess.Popen(
        [*command, "start", *options, "--block", "--disable-usage-stats", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"Ray runtime started" in line:
            return process
    raise AssertionError("the node did not start")


def _kill(node: subprocess.Popen[bytes]) -> None:
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            if process.is_running():
                process.kill()
        node.wait()


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_ctrl_c_ends_workers_and_their_children(nodes: Nodes) -> None:
    expression = (
        f'"{FAULTS}:EveryFault"(sleep="{SLEEP}")'  # one structure leaves a child behind, the other hangs
    )
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, expression, nodes.address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1 2\n"
    assert _sleepers()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.stdout.readline() == "interrupted\n"
    process.wait(timeout=60)
    assert time.monotonic() - start < 30  # 2 on a quiet machine; the structure would hang for 60
    deadline = time.monotonic() + 30
    while (_sleepers() or nodes.workers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _sleepers()
    assert not nodes.workers()


def test_a_lost_node_costs_nothing(nodes: Nodes) -> None:
    batch = [cell(3.0 + 0.001 * i) for i in range(240)]
    lost: list[int] = []

    def lose(done: int, total: int) -> None:
        if not lost and 3 * done > total:
            lost.extend(_workers(nodes.second))
            _kill(nodes.second)

    with Scorer(SLOW, gates=("validity",), workers=2, ray_address=nodes.address) as scorer:
        table = scorer.score(batch, lose)
    assert len(lost) == 1
    inline = Scorer(SLOW, gates=("validity",)).score(batch)
    assert table.to_frame().to_csv() == inline.to_frame().to_csv()


def _sleepers() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if SLEEP in (p.info["cmdline"] or [])]


def _workers(node: subprocess.Popen[bytes]) -> list[int]:
    if node.poll() is not None:
        return []
    family = psutil.Process(node.pid).children(recursive=True)
    return [process.pid for process in family if process.name().startswith("ray::Worker")]
