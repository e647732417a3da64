"""``materium-rl generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from materium_rl.commands.options import Configs, DryRun, Out, Overwrite, Policy, Seed, Sets, print_config
from materium_rl.errors import ConfigError


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
    density: Annotated[
        str | None, typer.Option("--density", metavar="A..B", help="Density in g/cm3.")
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

    wanted = {"allowed": elements, "required": require, "forbidden": forbid, "n_sites": sites}
    wanted |= {"n_elements": n_elements, "formula": formula, "density": density}
    overrides: dict[str, Any] = {
        "policy": policy,
        "n": n,
        "seed": seed,
        "temperature": temperature,
        "out": out,
    }
    overrides |= {f"constraints.{key}": value for key, value in wanted.items()}
    overrides |= {"conditions": _conditions(condition), "guidance": guidance}
    settings = load_config(GenerateConfig, config or [], overrides, sets or [])
    policy_path(settings.policy)
    check_output_folder(settings.out, overwrite=overwrite)
    if dry_run:
        print_config(settings)
        return

    from materium_rl.generate import generate as sample

    sample(settings)


def _conditions(texts: Sequence[str] | None) -> dict[str, str] | None:
    """``["band_gap=1", "band_gap=2"]`` -> ``{"band_gap": "1,2"}``; None if none is given."""
    values: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise ConfigError(f"--condition {text!r}: expected name=value, such as band_gap=1.5")
        values[name] = f"{values[name]},{value}" if name in values else value
    return values or None
