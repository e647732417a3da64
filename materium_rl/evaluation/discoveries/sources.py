"""Samples with all that is known of them: of a run, a comparison, ``generate``, or any structure files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from materium_rl.cif import parse_cif
from materium_rl.config import read_yaml
from materium_rl.errors import ConfigError, MateriumError, StructureFileError
from materium_rl.evaluation.discoveries.filters import ELEMENTS
from materium_rl.evaluation.metrics import elements_of
from materium_rl.resources import POLICY_FILES, bundled_policies, file_sha256, policy_path
from materium_rl.runs import COMPARISON, EVALUATED, EVALUATION, RunFolder
from materium_rl.structure_files import GENERATED_TABLE, read_structures
from materium_rl.structure_parsers import PARSE_ERRORS, unreadable

if TYPE_CHECKING:
    from pymatgen.core import Structure

CIF, FORMULA = "cif", "formula"
OK = "ok"


class Samples:
    """N samples, one row each; structures are read when they are asked for.

    Args:
        frame: N rows: what the source knows of each sample, ``formula`` and the set ``elements``; ``cif``
            unless ``structures`` are given.
        origin: What holds for all of them: source, seed, policy and so on.
        unread: What could not be read, one text each, with the reason.
        kind: ``run``, ``comparison``, ``generated`` or ``files``.
        structures: N structures.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        origin: Mapping[str, Any],
        unread: Iterable[str],
        kind: str,
        structures: Iterable[Structure] = (),
    ) -> None:
        formulas = [formula if isinstance(formula, str) else None for formula in frame[FORMULA]]
        elements = [None if formula is None else frozenset(elements_of(formula)) for formula in formulas]
        self.frame = frame.assign(**{FORMULA: formulas, ELEMENTS: elements})
        self.origin = dict(origin)
        self.unread = list(unread)
        self.kind = kind
        self._structures: dict[int, Structure | None] = dict(enumerate(structures))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def accepted(self) -> pd.Series:
        """Whether each sample is neither invalid nor failed, by its rewards."""
        if "outcome" not in self.frame:
            return pd.Series(True, index=self.frame.index)
        return self.frame["outcome"] == OK

    def structure(self, row: int) -> Structure | None:
        """The structure of a row; None, and a line in ``unread``, if its CIF cannot be read."""
        if row not in self._structures:
            self._structures[row] = self._parse(row)
        return self._structures[row]

    def _parse(self, row: int) -> Structure | None:
        text = self.frame[CIF].iloc[row]
        try:
            if not isinstance(text, str):
                raise ValueError("the sample could not be decoded, so it has no CIF")
            (structure,) = parse_cif(text)
        except PARSE_ERRORS as error:
            self.unread.append(f"{self.place(row)}: {unreadable('', error).message}")
            return None
        return structure

    def place(self, row: int) -> str:
        """Where a row comes from, for messages: ``step 12, sample 3``."""
        record = self.frame.iloc[row]
        names = {"step": "step", "policy": "policy", "index": "sample", "source": ""}
        found = [f"{title} {record[key]}".strip() for key, title in names.items() if key in record]
        return ", ".join(found) or f"row {row + 1}"


def read_samples(path: Path) -> Samples:
    """Read the samples of a run (every step), of a ``compare`` or ``generate`` folder, or of structure files.

    A run may still be written, or may have been killed. A table that cannot be read is left out and named.

    Raises:
        StructureFileError: There is nothing to read.
    """
    if (path / "samples").is_dir():
        return _of_run(RunFolder(path))
    if (path / COMPARISON).is_file():
        return _of_comparison(path)
    if (path.parent / COMPARISON).is_file() and path.suffix == ".parquet":
        return _of_comparison(path.parent, only=path.name)
    table = (
        path / (EVALUATED if (path / EVALUATION).is_file() else GENERATED_TABLE) if path.is_dir() else path
    )
    if table.suffix.lower() == ".parquet" and table.is_file():
        return _of_tables(path, {table: {}}, {"source": str(path)}, "generated" if path.is_dir() else "files")
    return _of_files(path)


def _of_run(run: RunFolder) -> Samples:
    unread: list[str] = []
    origin = _run_origin(run, unread)
    tables = {table: {"step": step} for step, table in run.sample_tables().items()}
    if not tables:
        raise StructureFileError(
            f"the run {run.path} has no samples yet: expected samples/step_*.parquet, which finetune writes "
            "after every step"
        )
    return _of_tables(run.path, tables, origin, "run", unread)


def _run_origin(run: RunFolder, unread: list[str]) -> dict[str, Any]:
    """What config and environment of a run say of where its samples come from."""
    origin: dict[str, Any] = {"source": str(run.path)}
    config, environment = run.path / "config.yaml", run.path / "environment.json"
    try:
        settings = read_yaml(config)
        origin |= {"seed": settings.get("seed"), "config_sha256": file_sha256(config)}
        origin |= _policy_origin(settings.get("policy"))
        origin["reward_expression"] = settings.get("reward", {}).get("expression")
    except (ConfigError, OSError, AttributeError) as error:
        unread.append(f"config.yaml: {error}")
    try:
        starts = json.loads(environment.read_text(encoding="utf-8"))
        origin["made_with"] = f"materium-rl {starts[-1]['versions']['materium-rl']}"
    except (OSError, ValueError, LookupError, TypeError) as error:
        unread.append(f"environment.json: {type(error).__name__}: {error}")
    return {key: value for key, value in origin.items() if value is not None}


def _of_comparison(folder: Path, *, only: str | None = None) -> Samples:
    try:
        record = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        tables = {
            folder / policy["samples"]: {**_policy_origin(policy["policy"]), "policy": policy["name"]}
            for policy in record["policies"]
            if only in (None, policy["samples"])
        }
        settings = record["settings"]
        origin = {"source": str(folder), "seed": settings["seed"]}
        origin["made_with"] = f"materium-rl {settings['materium_rl']}"
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StructureFileError(
            f"{folder / COMPARISON} is damaged or of another version ({type(error).__name__}: {error}); move "
            "the samples_*.parquet files beside it elsewhere to read them alone"
        ) from error
    return _of_tables(folder, tables, origin, "comparison")


def _policy_origin(policy: Any) -> dict[str, Any]:
    """Name of a policy and the checksum of its weights, where it is on this disk; nothing is downloaded."""
    if not isinstance(policy, str):
        return {}
    origin = {"policy": policy}
    if policy in bundled_policies() or Path(policy).expanduser().is_dir():
        try:
            origin["policy_sha256"] = file_sha256(policy_path(policy) / POLICY_FILES[1])
        except (MateriumError, OSError):  # moved or damaged since; the name still holds
            return origin
    return origin


def _of_tables(
    path: Path,
    tables: Mapping[Path, Mapping[str, Any]],
    origin: Mapping[str, Any],
    kind: str,
    unread: Iterable[str] = (),
) -> Samples:
    """Join tables of samples; each comes with the columns that hold for all of it."""
    frames, faults = [], list(unread)
    for table, columns in tables.items():
        try:
            frame = pd.read_parquet(table)
            if missing := {CIF, FORMULA} - set(frame.columns):
                raise ValueError(f"has no column {' and no '.join(sorted(missing))}")
        except PARSE_ERRORS as error:
            faults.append(f"{table.name}: {unreadable('', error).message}")
            continue
        frames.append(frame.assign(**columns))
    if not frames:
        raise StructureFileError(f"no table of samples in {path} can be read: {'; '.join(faults[:3])}")
    return Samples(pd.concat(frames, ignore_index=True), origin, faults, kind)


def _of_files(path: Path) -> Samples:
    read = read_structures(path).require_any(path)
    frame = pd.DataFrame([{**row.properties, "source": row.source} for row in read.rows])
    frame[FORMULA] = [row.structure.composition.element_composition.reduced_formula for row in read.rows]
    unread = [f"{drop.source}: {drop.message}" for drop in read.dropped]
    return Samples(frame, {"source": str(path)}, unread, "files", [row.structure for row in read.rows])
