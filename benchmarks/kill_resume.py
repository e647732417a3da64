"""A fine-tuning run that is killed by signal 9 again and again, beside one that is not.

    python benchmarks/kill_resume.py                     # GRPO, scored in the process
    python benchmarks/kill_resume.py --algorithm ppo --workers 1
    python benchmarks/kill_resume.py --checkpoint-of nano   # what a checkpoint costs, beside a step

A tiny policy (random weights), every part that remembers switched on. Every other kill comes at a random
moment, the others while a checkpoint is half written. After each the run is resumed; at the end weights,
optimizer, critic, tables of samples and metrics are compared to the bit with those of the run left alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from materium_rl.config import FinetuneConfig, ModelConfig, load_config
from materium_rl.files import TEMPORARY
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.rl.finetune import finetune
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import TokenizerSettings

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["materium_rl.rl.finetune"])
SPECIES = ("Na", "Mg", "Al", "Ti", "Fe", "Zn", "O", "S", "Cl")
TIMES = {"step_time", "epoch"}


def tiny_policy(folder: Path) -> Path:
    settings = TokenizerSettings(species=SPECIES, max_sites=4)
    torch.manual_seed(0)
    shape = ModelConfig(hidden_size=32, layers=2, heads=4, intermediate_size=64, dropout=0.0)
    save_policy(build_model(settings, shape), settings, folder)
    return folder


def settings_of(policy: Path, args: argparse.Namespace) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        ["finetune_ppo"] if args.algorithm == "ppo" else [],
        {
            "policy": str(policy),
            "rl.steps": args.steps,
            "rl.batch_size": 32,
            "rl.group_size": 16,
            "rl.num_iterations": 2,
            "rl.learning_rate": 3e-3,
            "rl.kl_target": 0.05,
            "replay.batch_size": 8,
            "guards.descriptors": ["n_elements"],
            "guards.floors": [],
            "reward.expression": "n_sites(target=2, width=1) + uniqueness(window=200)",
            "reward.gates": ["validity"],
            "reward.aggregation": "sum",
            "reward.workers": args.workers,
        },
    )


def quietly(config: FinetuneConfig, run: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as sys.stdout:
        finetune(config, run, resume=resume)


def start(config: FinetuneConfig, run: Path, *, resume: bool) -> BaseProcess:
    process = CONTEXT.Process(target=quietly, args=(config, run, resume))
    process.start()
    return process


def complete(run: RunFolder) -> int:
    """Last step whose checkpoint has its name."""
    return max((int(path.name[-6:]) for path in run.checkpoints.glob("step_*")), default=0)


def wait_for(process: BaseProcess, reached: Callable[[], bool]) -> None:
    while process.is_alive() and not reached():
        time.sleep(0.001)


def kill_somewhere(
    process: BaseProcess, run: RunFolder, rng: random.Random, at_write: bool
) -> tuple[int, bool]:
    """Kill a run up to three steps on: the last step complete before, and whether a write was cut."""
    goal = complete(run) + rng.randint(0, 3)
    wait_for(process, lambda: complete(run) >= goal and any(run.samples.glob("step_*")))
    if at_write:
        wait_for(process, lambda: any(run.checkpoints.glob(f"{TEMPORARY}*-step_*")))
    else:
        time.sleep(rng.uniform(0, 1.5))
    before = complete(run)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return before, any(run.checkpoints.glob(f"{TEMPORARY}*"))


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one == other


def differences(one: RunFolder, other: RunFolder, steps: int) -> list[str]:
    """What is not equal to the bit in two runs."""
    found = []
    last = [run.latest_checkpoint() for run in (one, other)]
    files = sorted(path.relative_to(last[0]) for path in last[0].rglob("*.safetensors"))
    for name in files:
        pair = [load_file(folder / name) for folder in last]
        if not all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0] | pair[1]):
            found.append(str(name))
    for name in ("optimizer.pt", "scheduler.pt", "rollout_state.pt"):
        states = [torch.load(folder / name, weights_only=False) for folder in last]
        if not same(*states):
            found.append(name)
    if len({(folder / "archives.json").read_text() for folder in last}) > 1:
        found.append("archives.json")
    tables = [run.sample_tables() for run in (one, other)]
    found += [
        f"samples of step {step}"
        for step in range(1, steps + 1)
        if not pd.read_parquet(tables[0][step]).equals(pd.read_parquet(tables[1][step]))
    ]
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in r.read_metrics()] for r in (one, other)
    ]
    if rows[0] != rows[1] or [row["step"] for row in rows[1]] != list(range(1, steps + 1)):
        found.append("metrics.jsonl")
    if list(other.path.rglob(f"{TEMPORARY}*")):
        found.append("leftovers")
    return found


def kill_and_resume(args: argparse.Namespace, folder: Path) -> bool:
    config = settings_of(tiny_policy(folder / "policy"), args)
    whole, cut = RunFolder(folder / "whole"), RunFolder(folder / "cut")
    begun = time.monotonic()
    alone = start(config, whole.path, resume=False)
    alone.join()
    print(f"left alone: {args.steps} steps, {time.monotonic() - begun:.0f} s, exit {alone.exitcode}")
    rng, lost, writes = random.Random(args.seed), 0, 0
    for kill in range(1, args.kills + 1):
        resume = (cut.path / "config.yaml").is_file()
        process = start(config, cut.path, resume=resume)
        before, writing = kill_somewhere(process, cut, rng, at_write=kill % 2 == 0)
        if process.exitcode != -signal.SIGKILL:
            print(f"kill {kill}: the run had ended, exit {process.exitcode}")
            break
        recorded = max((row["step"] for row in cut.read_metrics()), default=0)
        lost += max(before - cut.latest_step(), 0)
        writes += writing
        where = "while writing" if writing else ""
        print(f"kill {kill}: step {recorded} recorded, goes on from {cut.latest_step()} {where}", flush=True)
    last = start(config, cut.path, resume=True)
    last.join()
    different = differences(whole, cut, args.steps)
    print(
        f"{kill} kills, {writes} of them while writing; completed steps lost: {lost}; exit {last.exitcode}; "
        f"different: {', '.join(different) or 'nothing'}"
    )
    return not different and lost == 0 and last.exitcode == 0


def checkpoint_cost(policy: str, folder: Path) -> None:
    """Size and time of the checkpoint of each step, medians."""
    times, save = [], CrystalGRPOTrainer._save_checkpoint

    def timed(self: CrystalGRPOTrainer, *args: object) -> None:
        begun = time.perf_counter()
        save(self, *args)
        times.append(time.perf_counter() - begun)

    CrystalGRPOTrainer._save_checkpoint = timed
    cheap = {"reward.expression": "n_sites(target=4, width=2)", "reward.gates": []}
    config = load_config(FinetuneConfig, [], {"policy": policy, "rl.steps": 5} | cheap)
    run = RunFolder(finetune(config, folder / "run"))
    size = sum(path.stat().st_size for path in run.latest_checkpoint().rglob("*") if path.is_file())
    steps = [row["step_time"] for row in run.read_metrics()]
    saving, step = statistics.median(times), statistics.median(steps)
    share = f"{saving / step:.1%} of a step whose reward costs nothing"
    print(f"checkpoint: {size / 1e6:.0f} MB, {saving:.2f} s, {share}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithm", choices=["grpo", "ppo"], default="grpo")
    parser.add_argument("--workers", type=int, default=0, help="Ray workers that score")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--checkpoint-of", metavar="POLICY", help="only measure the checkpoints of this policy"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.checkpoint_of:
            checkpoint_cost(args.checkpoint_of, Path(folder))
        elif not kill_and_resume(args, Path(folder)):
            sys.exit(1)


if __name__ == "__main__":
    main()
