"""Run the bench on a reward in a process of its own, which may hang, exit or crash."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from materium_rl.errors import ConfigError
from materium_rl.rewards.bench.report import CASES, Report
from materium_rl.rewards.bench.subject import TOLERANCE, Finding, Verdict
from materium_rl.rewards.execution.line_process import LineProcess

LOAD_TIMEOUT = 600.0
"""Seconds for starting Python and loading the reward."""
HANG = "hang"
HANG_TIMEOUT = 1.0
"""Seconds after which the hang that the bench brings about is stopped."""
_STDERR_SHOWN = 200


def check(
    target: str,
    *,
    plugins: Sequence[str | Path] = (),
    timeout: float = 120.0,
    cases: Sequence[str] = (*CASES, HANG),
    progress: Callable[[Finding], None] = lambda _finding: None,
) -> Report:
    """Run the bench on one reward.

    Args:
        target: A term of a reward expression: ``name``, ``name(option=1)``, ``"file.py:Class"``.
        plugins: Python files with rewards.
        timeout: Seconds for one case; a reward that takes longer fails it.
        cases: Which cases to run.
        progress: Called with every finding.

    Returns:
        One finding for each case; a reward that cannot be loaded has the single finding ``load``.

    Raises:
        ConfigError: No such reward, option or file.
    """
    bench = _Bench(target, [str(Path(path).resolve()) for path in plugins], timeout)
    findings: list[Finding] = []
    try:
        problem = bench.start()
        if problem:
            return Report(target, (Finding("load", Verdict.FAIL, problem),))
        for case in cases:
            findings.append(bench.hang() if case == HANG else bench.run(case))
            progress(findings[-1])
    finally:
        bench.stop()
    return Report(target, tuple(findings))


class _Bench:
    """The worker process, replaced whenever a case has cost it."""

    def __init__(self, target: str, plugins: list[str], timeout: float) -> None:
        self._setup = {"target": target, "plugins": plugins}
        self._timeout = timeout
        self._worker: LineProcess | None = None

    def start(self) -> str:
        """Start the worker and load the reward there; returns why it cannot be loaded, or nothing."""
        self._worker = LineProcess(
            [sys.executable, "-P", "-m", "materium_rl.rewards.bench.worker"],
            {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        answer = self._ask(self._setup, LOAD_TIMEOUT)
        if answer.get("usage"):
            raise ConfigError(answer["error"])
        return str(answer.get("error", ""))

    def run(self, case: str) -> Finding:
        """Run one case."""
        answer = self._answer({"case": case})
        if "error" in answer:
            return Finding(case, Verdict.FAIL, answer["error"])
        return Finding(case, Verdict(answer["verdict"]), answer["reason"])

    def hang(self) -> Finding:
        """Make the reward hang: it is stopped, and a new process measures the same."""
        before = self._answer({"case": HANG})
        worker = self._worker
        if "error" in before or worker is None:
            return Finding(HANG, Verdict.FAIL, before.get("error", "the process is gone"))
        try:
            worker.receive(time.monotonic() + HANG_TIMEOUT)
        except TimeoutError:
            self.stop()
        except EOFError as error:
            self.stop()
            return Finding(HANG, Verdict.FAIL, f"does not hang when told to: {error}")
        after = self._answer({"case": "values"})
        if "error" in after:
            return Finding(HANG, Verdict.FAIL, after["error"])
        if not all(map(_equal, before["values"], after["values"])):
            return Finding(HANG, Verdict.FAIL, "a new process measures other values")
        return Finding(
            HANG, Verdict.PASS, f"stopped after {HANG_TIMEOUT:g} s; a new process measures the same"
        )

    def stop(self) -> None:
        """Kill the worker and its children."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer to a request, from a new worker if the last one is gone."""
        problem = self.start() if self._worker is None else ""
        return {"error": problem} if problem else self._ask(request, self._timeout)

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The worker's answer, or ``error`` with what became of it."""
        assert self._worker is not None
        self._worker.send(json.dumps(request))
        try:
            answer: dict[str, Any] = json.loads(self._worker.receive(time.monotonic() + seconds))
        except TimeoutError:
            problem = f"no answer within {seconds:g} s"
        except EOFError as error:
            problem = f"the process {error}"
        else:
            return answer
        words = " ".join(self._worker.stderr.split())[-_STDERR_SHOWN:]
        self.stop()
        return {"error": f"{problem}; stderr: {words}" if words else problem}


def _equal(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is after
    return math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=1e-9)
