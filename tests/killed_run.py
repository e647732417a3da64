"""Fine-tuning runs in processes of their own, some of which are killed.

A server process imports the package once; each run is forked off it, so that it starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["materium_rl.rl.finetune"])
LONGEST = 300.0
"""Seconds in which a run must get where it is awaited."""


def start(config: dict[str, Any], run: Path, *, resume: bool = False) -> BaseProcess:
    """Start ``finetune`` of a config given as plain values."""
    process = CONTEXT.Process(target=_finetune, args=(config, run, resume))
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    """Wait for the end of a run that must go well."""
    process.join(LONGEST)
    assert process.exitcode == 0, f"the run ended with {process.exitcode}"


def kill_when(process: BaseProcess, reached: Callable[[], bool]) -> None:
    """Kill a run by signal 9 as soon as something is so."""
    end = time.monotonic() + LONGEST
    while not reached():
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < end, "the run did not get where it was awaited"
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _finetune(config: dict[str, Any], run: Path, resume: bool) -> None:
    import torch

    from materium_rl.config import FinetuneConfig
    from materium_rl.rl.finetune import finetune

    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        finetune(FinetuneConfig.model_validate(config), run, resume=resume)
