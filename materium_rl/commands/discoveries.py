"""``materium-rl discoveries`` and ``export``: structures out of runs and files, for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from materium_rl.errors import ConfigError

DEFAULT_FORMATS = ("cif", "csv")

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="Run folder, folder of compare or generate, structure file or folder of them."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote there.")]


def discoveries(
    source: Source,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="FILTER",
            help="Such as \"band_gap > 1 and e_above_hull < 0.03 and 'O' in elements\".",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="KEY", help="Greatest first: a column, or such as -e_above_hull."),
    ] = None,
    by: Annotated[
        Literal["structure", "prototype", "framework"],
        typer.Option("--by", metavar="LEVEL", help="One per structure, prototype or framework."),
    ] = "structure",
    known: Annotated[bool, typer.Option("--known", help="Known structures, too.")] = False,
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="Most structures; 0 for all.")] = 20,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME,..", help="cif, extxyz, poscar, json, csv, dft; several at once."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to export to.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Rank the distinct structures that a run has found; filter and export them."""
    from materium_rl.evaluation.discoveries.exporters import FORMATS, check_formats
    from materium_rl.evaluation.discoveries.ranking import discover

    if formats and out is None:
        raise ConfigError("--format needs --out FOLDER, where the files are written")
    names = check_formats(formats or DEFAULT_FORMATS, FORMATS)
    if out is not None:
        _check_out(out, source, overwrite)
    discover(source, where=where, sort=sort, by=by, known=known, top=top, formats=names, out=out)


def export(
    source: Source,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            metavar="NAME,..",
            help="mattergen, lemat, cif, extxyz, poscar, json, csv, dft; several at once.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to write.")],
    number: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", metavar="N", min=1, help="The first N; lemat takes 2,500 unless told."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write samples unselected, for other programs and for the field's evaluators."""
    from materium_rl.evaluation.discoveries.export import export as write
    from materium_rl.evaluation.discoveries.exporters import BENCHMARKS, FORMATS, check_formats

    names = check_formats(formats, BENCHMARKS | FORMATS)
    _check_out(out, source, overwrite)
    write(source, names, out, number=number)


def _check_out(out: Path, source: Path, overwrite: bool) -> None:
    from materium_rl.runs import check_output_folder

    if source.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"--out {out} is the folder that is read, or holds it; choose another")
    check_output_folder(out, overwrite=overwrite)
