"""``materium-rl evaluate``, ``compare`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from materium_rl.commands.options import (
    Cache,
    Configs,
    DryRun,
    Evaluator,
    Expression,
    Out,
    Overwrite,
    Plugins,
    Relax,
    Relaxer,
    RelaxWithin,
    Seed,
    Sets,
    Workers,
    check_rewards,
    print_config,
)
from materium_rl.errors import ConfigError


def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Structure file, folder or archive; a policy or run, which is sampled."
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="FILE", help="Known structures: files, an .npz index or a policy."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", "--number", metavar="N", help="Structures to sample, or the first N of files."),
    ] = None,
    requested: Annotated[
        int | None,
        typer.Option("--requested", metavar="N", help="Structures asked for, if the files hold fewer."),
    ] = None,
    seed: Seed = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="1 samples the policy as it is.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="NAME=A..B", help="Property and range that is wanted; repeatable."),
    ] = None,
    evaluator: Evaluator = None,
    relax: Relax = None,
    relaxer: Relaxer = None,
    relax_within: RelaxWithin = None,
    reward: Expression = None,
    plugin: Plugins = None,
    workers: Workers = None,
    cache: Cache = None,
    out: Out = None,
    config: Configs = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Judge any structures: valid, unique, novel, stable, on target, near to a reference; and why."""
    from materium_rl.config import EvaluateConfig, load_config
    from materium_rl.runs import check_output_folder

    overrides = {
        "source": source,
        "reference": reference,
        "n": n,
        "requested": requested,
        "seed": seed,
        "temperature": temperature,
        "targets": target or None,
        "evaluator.potential": evaluator,
        "evaluator.relax": relax,
        "evaluator.relaxer": relaxer,
        "evaluator.relax_within": relax_within,
        "out": out,
        "reward.expression": reward,
        "reward.plugins": plugin or None,
        "reward.workers": workers,
        "reward.cache": cache,
    }
    settings = load_config(EvaluateConfig, config or [], overrides, sets or [])
    if Path(source).expanduser().resolve().is_relative_to(settings.out.resolve()):
        raise ConfigError(f"--out {settings.out} is the folder that is read, or holds it; choose another")
    check_output_folder(settings.out, overwrite=overwrite)

    from materium_rl.evaluation.evaluate.inputs import check_options

    settings = check_options(settings, temperature=temperature)
    check_rewards(settings.reward)
    if dry_run:
        print_config(settings)
        return

    from materium_rl.evaluation.evaluate.command import evaluate as run_evaluation

    run_evaluation(settings)


def compare(
    policies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A B [C..]",
            help="Policies or run folders; the first is the baseline. a,b,c: one recipe, several seeds.",
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--number", metavar="N", help="Structures to sample from each.")
    ] = None,
    seed: Seed = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="1 samples the policies as they are.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also a hotter baseline, and its best at equal reward calls.")
    ] = False,
    max_calls: Annotated[
        int | None,
        typer.Option("--max-calls", metavar="N", help="With --controls: most reward calls of best-of-n."),
    ] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Also n/4 structures of every checkpoint of each run.")
    ] = False,
    evaluator: Evaluator = None,
    relax: Relax = None,
    relaxer: Relaxer = None,
    relax_within: RelaxWithin = None,
    reward: Expression = None,
    plugin: Plugins = None,
    workers: Workers = None,
    cache: Cache = None,
    out: Out = None,
    config: Configs = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Sample several policies alike and report validity, stability, novelty and what it cost."""
    from materium_rl.config import CompareConfig, load_config
    from materium_rl.evaluation.comparison.entries import entries, with_reward_of_runs
    from materium_rl.evaluation.evaluate.judges import choose
    from materium_rl.runs import check_output_folder

    overrides = {
        "policies": policies or None,
        "n": n,
        "seed": seed,
        "temperature": temperature,
        "controls.enabled": controls or None,
        "controls.max_calls": max_calls,
        "trajectory": trajectory or None,
        "out": out,
        "evaluator.potential": evaluator,
        "evaluator.relax": relax,
        "evaluator.relaxer": relaxer,
        "evaluator.relax_within": relax_within,
        "reward.expression": reward,
        "reward.plugins": plugin or None,
        "reward.workers": workers,
        "reward.cache": cache,
    }
    settings = load_config(CompareConfig, config or [], overrides, sets or [])
    entries(settings.policies)
    settings, _ = with_reward_of_runs(settings)
    check_rewards(settings.reward)
    choose(settings.evaluator, settings.reward)
    check_output_folder(settings.out, overwrite=overwrite)
    if dry_run:
        print_config(settings)
        return

    from materium_rl.evaluation.comparison.compare import compare as run_comparison

    run_comparison(settings)


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that compare has written.")],
) -> None:
    """Draw the report of a finished comparison again, as FOLDER/report.html."""
    from materium_rl.evaluation.report.page import write_report

    typer.echo(write_report(folder))
