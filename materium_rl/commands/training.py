"""``materium-rl pretrain`` and ``finetune``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from materium_rl.commands.options import (
    Cache,
    Configs,
    DryRun,
    Expression,
    Overwrite,
    Plugins,
    Policy,
    Resume,
    Run,
    Seed,
    Sets,
    Workers,
    check_rewards,
    print_config,
)
from materium_rl.errors import ConfigError


def pretrain(
    run: Run,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="CSV, parquet, extxyz, folder or zip.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option("--validation", metavar="PATH", help="Held-out structures.")
    ] = None,
    preset: Annotated[
        Literal["nano", "base", "large"] | None,
        typer.Option("--preset", metavar="nano|base|large", help="Size of the policy."),
    ] = None,
    seed: Seed = None,
    config: Configs = None,
    sets: Sets = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a policy on crystal structures by next-token prediction."""
    from materium_rl.config import PretrainConfig, load_config
    from materium_rl.runs import check_run_folder

    presets = [f"pretrain_{preset}"] if preset else []
    files = [*_resumed(run, resume), *presets, *(config or [])]
    overrides = {"data": data, "validation_data": validation, "seed": seed}
    settings = load_config(PretrainConfig, files, overrides, sets or [])
    _check_exists(settings.data, "--data")
    if settings.validation_data:
        _check_exists(settings.validation_data, "--validation")
    check_run_folder(run, resume=resume, overwrite=overwrite)
    if dry_run:
        print_config(settings)
        return

    from materium_rl.pretrain import pretrain as train

    train(settings, run, resume=resume, overwrite=overwrite)


def finetune(
    run: Run,
    policy: Policy = None,
    reward: Expression = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="REWARD",
            help="Reward that multiplies the sum; repeatable, 'none' switches all off.",
        ),
    ] = None,
    algorithm: Annotated[
        Literal["grpo", "ppo", "best-of-n", "sft-accept", "temperature", "shuffled-reward"] | None,
        typer.Option(
            "--algorithm",
            metavar="NAME",
            help="grpo, ppo (with its preset), or a control at equal reward calls: best-of-n, sft-accept, "
            "temperature, shuffled-reward.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Batches of completions to learn from.")
    ] = None,
    seed: Seed = None,
    plugin: Plugins = None,
    workers: Workers = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Ray cluster to join.")
    ] = None,
    cache: Cache = None,
    config: Configs = None,
    sets: Sets = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a policy with reinforcement learning against rewards on its crystals."""
    from materium_rl.config import FinetuneConfig, load_config
    from materium_rl.resources import policy_path
    from materium_rl.runs import check_run_folder

    overrides = {
        "policy": policy,
        "seed": seed,
        "rl.algorithm": algorithm,
        "rl.steps": steps,
        "reward.expression": reward,
        "reward.gates": _gates(gate),
        "reward.plugins": plugin or None,
        "reward.workers": workers,
        "reward.ray_address": ray_address,
        "reward.cache": cache,
    }
    presets = ["finetune_ppo"] if algorithm == "ppo" and not resume else []
    files = [*_resumed(run, resume), *presets, *(config or [])]
    settings = load_config(FinetuneConfig, files, overrides, sets or [])
    policy_path(settings.policy)
    check_rewards(settings.reward)
    check_run_folder(run, resume=resume, overwrite=overwrite)
    if dry_run:
        print_config(settings)
        return

    from materium_rl.rl.finetune import finetune as train

    train(settings, run, resume=resume, overwrite=overwrite)


def _resumed(run: Path, resume: bool) -> list[str]:
    """A resumed run starts from its own config, not from the defaults."""
    from materium_rl.runs import check_run_folder

    if not resume:
        return []
    check_run_folder(run, resume=True, overwrite=False)
    return [str(run / "config.yaml")]


def _gates(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if not names:
        return None
    if "none" in names:
        if len(names) > 1:
            raise ConfigError("--gate none cannot be combined with other gates")
        return ()
    return tuple(names)


def _check_exists(path: Path, option: str) -> None:
    if not path.exists():
        raise ConfigError(f"{option}: no file or folder at {path}")
