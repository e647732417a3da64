"""``materium-rl export``: samples as they were drawn, for other programs and for the field's evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries.benchmarks import (
    COMMANDS,
    ENERGIES_COMMAND,
    ENERGIES_FILE,
    LEMAT_SAMPLES,
)
from materium_rl.evaluation.discoveries.exporters import BENCHMARKS, tell_written, write_exports
from materium_rl.evaluation.discoveries.provenance import Entry, properties_of
from materium_rl.evaluation.discoveries.sources import Samples, read_samples


def export(source: Path, formats: Sequence[str], out: Path, *, number: int | None = None) -> Path:
    """Write the samples of a source in their order and print what to run then.

    Args:
        source: Whatever ``read_samples`` reads.
        formats: Names of ``FORMATS`` or ``BENCHMARKS``.
        out: Folder to write; the caller has checked it.
        number: Write the first so many. All if None, but for LeMat-GenBench exactly ``LEMAT_SAMPLES``.

    Returns:
        The folder.

    Raises:
        ConfigError: The samples are not of one policy, or not as many as are asked for.
        StructureFileError: There is nothing to read.
    """
    samples = read_samples(source)
    judges = [name for name in formats if name in BENCHMARKS]
    if judges:
        _check_one_policy(samples, source, judges[0])
    rows = [row for row in range(len(samples)) if samples.structure(row) is not None]
    if number is None and "lemat" in formats:
        if len(rows) > LEMAT_SAMPLES:
            raise ConfigError(
                f"LeMat-GenBench takes exactly {LEMAT_SAMPLES:,} structures, {source} holds {len(rows):,}: "
                f"-n {LEMAT_SAMPLES} takes the first ones"
            )
        number = LEMAT_SAMPLES
    if number is not None and len(rows) < number:
        raise ConfigError(_too_few(samples, source, len(rows), number))
    entries = _entries(samples, rows[:number])
    record = {"command": "export", **samples.origin, "samples": len(samples), "readable": len(rows)}
    faults = write_exports(entries, formats, out, record)
    tell_written(len(entries), formats, out, [*samples.unread, *faults])
    for judge in judges:
        print(f"  {COMMANDS[judge].format(folder=out, name=out.resolve().name)}")
    if (out / ENERGIES_FILE).is_file():
        print(f"or by the energies of the reward, unrelaxed:\n  {ENERGIES_COMMAND.format(folder=out)}")
    return out


def _entries(samples: Samples, rows: Sequence[int]) -> list[Entry]:
    width = max(3, len(str(len(rows))))
    entries = []
    for number, row in enumerate(rows, 1):
        structure = samples.structure(row)
        assert structure is not None
        entries.append(Entry.of(f"{number:0{width}d}", structure, properties_of(samples, row)))
    return entries


def _check_one_policy(samples: Samples, source: Path, judge: str) -> None:
    """Refuse samples of several policies, of which an evaluator would give one figure."""
    if samples.kind == "run":
        raise ConfigError(
            f"--format {judge} judges one policy, but every step of the run {source} sampled from another: "
            f"draw samples with materium-rl generate --policy {source} -n {LEMAT_SAMPLES}, and export those"
        )
    if samples.kind == "comparison" and len(policies := samples.frame["policy"].unique()) > 1:
        files = " or ".join(str(source / f"samples_{policy}.parquet") for policy in policies)
        raise ConfigError(
            f"--format {judge} judges one policy, {source} holds {len(policies)}: export {files}"
        )


def _too_few(samples: Samples, source: Path, found: int, wanted: int) -> str:
    unread = f" ({len(samples.unread):,} not read: {samples.unread[0]})" if samples.unread else ""
    return (
        f"{source} holds {found:,} structures{unread}, expected {wanted:,}: {wanted - found:,} are missing; "
        f"draw more with materium-rl generate -n {wanted}, or ask for fewer with -n {found}"
    )
