"""``materium-rl rewards``: the catalogue, and the plugin author's workshop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materium_rl.commands.options import Plugins
from materium_rl.errors import ConfigError, RewardError

if TYPE_CHECKING:
    from materium_rl.rewards.bench.report import Report

app = typer.Typer(help="Rewards: list, describe, write your own, check.", no_args_is_help=True)

Target = Annotated[
    str,
    typer.Argument(
        metavar="REWARD", help="Such as bandgap, 'bandgap(target=2)', file.py:Class or file.py:function."
    ),
]
COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}


@app.command("list")
def list_rewards(plugin: Plugins = None) -> None:
    """List every reward that can be named in an expression."""
    from materium_rl.rewards.registry import available

    load_plugins(plugin)
    rows = [("name", "unit", "scope", "needs", "from")]
    rows += [
        (r.name, r.unit or "-", r.scope or "-", ",".join(r.requires) or "-", r.error or r.source)
        for r in available()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]))


@app.command("show")
def show_reward(reward: Target, plugin: Plugins = None) -> None:
    """Describe one reward: what it measures, its options and their defaults, the curve of its score."""
    from materium_rl.rewards.describe import describe
    from materium_rl.rewards.expression import parse_one

    load_plugins(plugin)
    typer.echo(describe(parse_one(reward)))


@app.command("new")
def new_reward(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the reward, such as hardness.")],
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where to write.")] = Path(),
) -> None:
    """Write a working reward, NAME.py, and its test, test_NAME.py, to start from."""
    from materium_rl.rewards.scaffold import write_reward

    plugin, test = write_reward(name, folder)
    typer.echo(f"{plugin}: measures the volume per atom; put your own in place of it")
    typer.echo(f"{test}: its test; python -m pytest {test}")
    typer.echo(f"next: materium-rl rewards check {name} --plugin {plugin}")


@app.command("check")
def check_reward(
    reward: Target,
    plugin: Plugins = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds for one case.", min=1.0)
    ] = 120.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the findings here.")
    ] = None,
) -> None:
    """Run a reward against a zoo of odd crystals and faults; exit code 1 if it fails a case."""
    from materium_rl.rewards.bench.isolation import check
    from materium_rl.rewards.bench.subject import Verdict

    for path in plugin or []:
        if not path.is_file():
            raise ConfigError(f"--plugin: no file at {path}")
    report = check(reward, plugins=plugin or (), timeout=timeout)
    _print_report(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False), encoding="utf-8")
    if report.verdict is Verdict.FAIL:
        raise typer.Exit(1)


def load_plugins(paths: Sequence[Path] | None) -> None:
    """Register the rewards of plugin files.

    Raises:
        ConfigError: A file is missing or broken.
    """
    from materium_rl.rewards.registry import load_plugin

    for path in paths or []:
        try:
            load_plugin(path)
        except RewardError as error:
            raise ConfigError(str(error)) from error


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("case", "verdict", "what it did", title=report.target, title_justify="left")
    for finding in report.findings:
        verdict = Text(finding.verdict, style=COLOURS[finding.verdict])
        table.add_row(Text(finding.case), verdict, Text(finding.reason))
    console = Console()
    console.print(table)
    console.print(Text(f"{report.target}: {report.verdict} ({report.summary})"))
