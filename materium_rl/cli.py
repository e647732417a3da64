"""The command line: parse arguments, check what is cheap to check, call one function, print errors.

Nothing heavy is imported at the top: ``materium-rl --help`` must answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from materium_rl import __version__, discovery_commands
from materium_rl.errors import ConfigError, MateriumError, PolicyError, RewardError, StructureFileError
from materium_rl.policy_commands import app as policies_app
from materium_rl.reward_commands import Plugins
from materium_rl.reward_commands import app as rewards_app

if TYPE_CHECKING:
    from materium_rl.config import RewardConfig, Section

USAGE_ERRORS = (ConfigError, StructureFileError, PolicyError)
INTERRUPTED = 130

app = typer.Typer(
    name="materium-rl",
    help="Train crystal generators and fine-tune them with reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(rewards_app, name="rewards")
app.add_typer(policies_app, name="policies")

Configs = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="FILE", help="YAML file or bundled preset; repeatable, later ones win."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any config key, as in --set rl.kl_coef=0.1."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved config and stop; nothing is written.")
]
Run = Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Run folder to create.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run from its latest checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="POLICY", help="Bundled name (nano), policy folder, run folder or hub id."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder for the results.")]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Ray workers that score; 0 uses this process.")
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FOLDER", help="Keep measurements there, and use those of other runs."),
]
Evaluator = Annotated[
    str | None,
    typer.Option(
        "--evaluator", metavar="POTENTIAL", help="Second judge of stability, such as sevenn; auto finds one."
    ),
]
Relax = Annotated[
    int | None, typer.Option("--relax", metavar="STEPS", help="Relax with the evaluator before judging.")
]
Relaxer = Annotated[
    str | None,
    typer.Option("--relaxer", metavar="POTENTIAL", help="Relax with this one instead; chgnet is fast."),
]
RelaxWithin = Annotated[
    float | None,
    typer.Option("--relax-within", metavar="EV", help="Relax only up to this e_above_hull, eV/atom."),
]
Expression = Annotated[
    str | None,
    typer.Option(
        "--reward", metavar="EXPRESSION", help="Such as novelty+bandgap or '0.5*novelty + bandgap(target=2)'."
    ),
]


@app.command()
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
        _print_config(settings)
        return

    from materium_rl.pretrain import pretrain as train

    train(settings, run, resume=resume, overwrite=overwrite)


@app.command()
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
    _check_rewards(settings.reward)
    check_run_folder(run, resume=resume, overwrite=overwrite)
    if dry_run:
        _print_config(settings)
        return

    from materium_rl.rl.finetune import finetune as train

    train(settings, run, resume=resume, overwrite=overwrite)


@app.command()
def generate(
    policy: Policy = None,
    n: Annotated[
        int | None, typer.Option("-n", "--number", metavar="N", help="Structures to sample.")
    ] = None,
    seed: Seed = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="1 samples the policy as it is.")
    ] = None,
    elements: Annotated[
        str | None, typer.Option("--elements", metavar="Li,Fe,O", help="No other elements may occur.")
    ] = None,
    require: Annotated[
        str | None, typer.Option("--require", metavar="Fe,..", help="Elements that must occur.")
    ] = None,
    forbid: Annotated[
        str | None, typer.Option("--forbid", metavar="Pb,..", help="Elements that may not occur.")
    ] = None,
    sites: Annotated[
        str | None, typer.Option("--sites", metavar="N|A..B", help="Sites of the primitive cell.")
    ] = None,
    n_elements: Annotated[
        str | None, typer.Option("--n-elements", metavar="N|A..B", help="Distinct elements.")
    ] = None,
    formula: Annotated[
        str | None, typer.Option("--formula", metavar="LiFeO2", help="Exact formula, up to a factor.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME=V[,V..]",
            help="Property to ask for, such as band_gap=1.5; repeatable. Several values: every combination.",
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", metavar="S", help="Above 1 conditions count for more.")
    ] = None,
    out: Out = None,
    config: Configs = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Sample crystals and write them as extxyz, parquet and CIF."""
    from materium_rl.config import GenerateConfig, load_config
    from materium_rl.resources import policy_path
    from materium_rl.runs import check_output_folder

    composition = {"allowed": elements, "required": require, "forbidden": forbid, "n_sites": sites}
    composition |= {"n_elements": n_elements, "formula": formula}
    overrides: dict[str, Any] = {
        "policy": policy,
        "n": n,
        "seed": seed,
        "temperature": temperature,
        "out": out,
    }
    overrides |= {f"constraints.{key}": value for key, value in composition.items()}
    overrides |= {"conditions": _conditions(condition), "guidance": guidance}
    settings = load_config(GenerateConfig, config or [], overrides, sets or [])
    policy_path(settings.policy)
    check_output_folder(settings.out, overwrite=overwrite)
    if dry_run:
        _print_config(settings)
        return

    from materium_rl.generate import generate as sample

    sample(settings)


@app.command()
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
    _check_rewards(settings.reward)
    if dry_run:
        _print_config(settings)
        return

    from materium_rl.evaluation.evaluate.command import evaluate as run_evaluation

    run_evaluation(settings)


@app.command()
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
    _check_rewards(settings.reward)
    choose(settings.evaluator, settings.reward)
    check_output_folder(settings.out, overwrite=overwrite)
    if dry_run:
        _print_config(settings)
        return

    from materium_rl.evaluation.comparison.compare import compare as run_comparison

    run_comparison(settings)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that compare has written.")],
) -> None:
    """Draw the report of a finished comparison again, as FOLDER/report.html."""
    from materium_rl.evaluation.report.page import write_report

    typer.echo(write_report(folder))


app.command()(discovery_commands.discoveries)
app.command()(discovery_commands.export)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"materium-rl {__version__}")


def main() -> None:
    """Run the command line; errors made on purpose become one message and an exit code.

    Exit codes: 0, 1 at run time, 2 usage or config, 130 interrupted.
    """
    try:
        app()
    except MateriumError as error:
        _fail(str(error), 2 if isinstance(error, USAGE_ERRORS) else 1)
    except OSError as error:  # disk full, no permission
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


def _print_config(config: Section) -> None:
    from materium_rl.config import dump_config

    typer.echo(dump_config(config), nl=False)


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


def _conditions(texts: Sequence[str] | None) -> dict[str, str] | None:
    """``["band_gap=1", "band_gap=2"]`` -> ``{"band_gap": "1,2"}``; None if none is given."""
    from materium_rl.errors import ConfigError

    values: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise ConfigError(f"--condition {text!r}: expected name=value, such as band_gap=1.5")
        values[name] = f"{values[name]},{value}" if name in values else value
    return values or None


def _check_exists(path: Path, option: str) -> None:
    if not path.exists():
        raise ConfigError(f"{option}: no file or folder at {path}")


def _check_rewards(config: RewardConfig) -> None:
    """Build the scorer, without loading any model: wrong names, options, expressions and plugins end here."""
    from materium_rl.rewards.scoring import Scorer

    try:
        Scorer(**config.model_dump())
    except RewardError as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    main()
