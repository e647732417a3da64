"""Options that several commands share, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materium_rl.errors import ConfigError, RewardError

if TYPE_CHECKING:
    from materium_rl.config import RewardConfig, Section

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
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file with rewards; repeatable.")
]


def print_config(config: Section) -> None:
    """What ``--dry-run`` prints."""
    from materium_rl.config import dump_config

    typer.echo(dump_config(config), nl=False)


def check_rewards(config: RewardConfig) -> None:
    """Build the scorer, without loading any model: wrong names, options, expressions and plugins end here."""
    from materium_rl.rewards.scoring import Scorer

    try:
        Scorer(**config.model_dump())
    except RewardError as error:
        raise ConfigError(str(error)) from error
