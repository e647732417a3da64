"""A run folder: create, record, checkpoint, resume.

```
config.yaml                       resolved, re-runnable
environment.json                  one record per start: versions, platform, command
metrics.jsonl                     one line per step
sentinel.jsonl                    fine-tuning: one line per alarm
samples/step_000001.parquet       every completion of a step
checkpoints/step_000010/          complete once it has this name
checkpoints/latest                text file with the name of the newest checkpoint
policy/, dropped.txt              pretraining: the best policy, and what was left out of the data
```
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from materium_rl.config import Section, save_config
from materium_rl.errors import ConfigError
from materium_rl.files import TEMPORARY, atomic_path, discard, remove

if TYPE_CHECKING:
    import pandas as pd

ENTRIES = frozenset(
    {
        "config.yaml",
        "environment.json",
        "dropped.txt",
        "metrics.jsonl",
        "sentinel.jsonl",
        "samples",
        "checkpoints",
        "policy",
        "generated.extxyz",
        "generated.parquet",
        "cif",
        "report.html",
        "report.md",
        "report.json",
    }
)
"""What a run folder may hold; ``--overwrite`` deletes nothing else."""

CONFIG = "config.yaml"
COMPARISON = "comparison.json"
EVALUATION = "evaluation.json"
EVALUATED = "structures.parquet"
"""The table of structures beside it."""
PROVENANCE = "provenance.json"
RESULTS = frozenset({"generated.parquet", COMPARISON, EVALUATION, PROVENANCE})
"""A folder with one of these was written by ``generate``, ``compare``, ``evaluate``, ``discoveries`` or
``export``."""

SIZES = "sizes.json"
"""In a checkpoint: the size of each of its files, written last."""

PACKAGES = ("materium-rl", "torch", "transformers", "trl", "ray", "pymatgen", "matgl", "chgnet", "numpy")


class RunFolder:
    """One run on disk. Steps are counted from 1; step n is recorded after its update."""

    def __init__(self, path: Path) -> None:
        """Wrap an existing folder; use ``create`` to start or resume a run."""
        self.path = path
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def create(
        cls, path: str | Path, config: Section, *, resume: bool = False, overwrite: bool = False
    ) -> Self:
        """Start a run, or take it up again at its latest checkpoint.

        With ``resume`` everything recorded after the latest checkpoint is removed, so that the steps
        that are run again are recorded once. A damaged checkpoint is passed over with a warning.

        Raises:
            ConfigError: If the folder cannot be used; nothing has been written then.
        """
        path = Path(path)
        check_run_folder(path, resume=resume, overwrite=overwrite)
        if overwrite:
            _clear(path)
        run = cls(path)
        save_config(config, path / CONFIG)
        run.samples.mkdir(exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        run._record_environment()
        if resume:
            run._name_torn()
            run.rewind(run.latest_step())
        return run

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``; numbers that are not finite become null.

        Args:
            row: Must hold ``"step"``.
        """
        line = json.dumps({key: _plain(value) for key, value in {"step": row["step"], **row}.items()})
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def write_alarms(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``sentinel.jsonl``, one line per alarm of the run; without any there is no such file."""
        path = self.path / "sentinel.jsonl"
        if not rows:
            remove(path)
            return
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all complete lines; a last line torn by a crash is left out."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    rows.append(json.loads(line))
            except json.JSONDecodeError:
                if number == len(lines):
                    break
                raise ConfigError(f"{self.metrics}, line {number}: not JSON; repair or remove it") from None
        return rows

    def write_samples(self, step: int, table: pd.DataFrame) -> Path:
        """Write ``samples/step_XXXXXX.parquet``, one row per completion."""
        path = self.samples / f"{step_name(step)}.parquet"
        with atomic_path(path) as temporary:
            table.to_parquet(temporary, index=False)
        return path

    def sample_tables(self) -> dict[int, Path]:
        """Step -> its complete table of samples, in order."""
        tables = {step_of(path): path for path in self.samples.glob("step_[0-9]*.parquet")}
        return dict(sorted(tables.items()))

    @contextmanager
    def checkpoint(self, step: int, *, keep: int | None = None, every: int = 1) -> Iterator[Path]:
        """Yield a folder to fill; on success it becomes ``checkpoints/step_XXXXXX`` and ``latest``.

        The policy belongs into its subfolder ``policy``, where ``policy_path`` finds it.

        Args:
            step: Last finished step.
            keep: Number of checkpoints that stay; ``None`` keeps all.
            every: Only those of every so many steps count among them; of the others the newest stays.
        """
        target = self.checkpoints / step_name(step)
        with atomic_path(target) as temporary:
            temporary.mkdir(exist_ok=True)
            yield temporary
            (temporary / SIZES).write_text(json.dumps(_sizes(temporary)), encoding="utf-8")
        self._point_to(target)
        if keep is not None:
            older = [path for path in self._checkpoints() if path != target]
            lasting = [path for path in [*older, target] if step_of(path) % every == 0][-keep:]
            for path in older:
                if path not in lasting:
                    discard(path)

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        complete = (path for path in reversed(self._checkpoints()) if _is_complete(path))
        return next(complete, None)

    def checkpoint_folders(self) -> dict[int, Path]:
        """Step -> its complete checkpoint, in order."""
        return {step_of(path): path for path in self._checkpoints()}

    def latest_step(self) -> int:
        """Step of the latest checkpoint; 0 without one."""
        latest = self.latest_checkpoint()
        return step_of(latest) if latest else 0

    def _point_to(self, checkpoint: Path) -> None:
        with atomic_path(self.checkpoints / "latest") as temporary:
            temporary.write_text(checkpoint.name + "\n", encoding="utf-8")

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in self.checkpoints.glob("step_[0-9]*") if path.is_dir())

    def last_checkpoint_before(self, step: int) -> Path | None:
        """The newest complete checkpoint that is older than a step."""
        older = (path for path in reversed(self._checkpoints()) if step_of(path) < step)
        return next((path for path in older if _is_complete(path)), None)

    def _name_torn(self) -> None:
        """Warn of checkpoints that a power cut or a full disk left in part, which are passed over."""
        torn = [path.name for path in self._checkpoints() if not _is_complete(path)]
        if torn:
            last = self.latest_step()
            start = f"goes on from step {last}" if last else "starts again, as there is no other"
            warnings.warn(
                f"{self.checkpoints}: {', '.join(torn)} is damaged (files are missing or cut short) and "
                f"left out; the run {start}",
                RuntimeWarning,
                stacklevel=3,
            )

    def rewind(self, last: int) -> None:
        """Remove what was recorded after a checkpoint, and what a killed process left half-done.

        Args:
            last: Step of the checkpoint; 0 for none.
        """
        for folder in (self.path, self.samples, self.checkpoints):
            for leftover in folder.glob(f"{TEMPORARY}*"):
                remove(leftover)
        for folder in self._checkpoints():  # first of all: the rest is removed again after the next start
            if step_of(folder) > last or not _is_complete(folder):
                discard(folder)
        rows = [row for row in self.read_metrics() if row["step"] <= last]
        with atomic_path(self.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for table in self.samples.glob("step_*.parquet"):
            if step_of(table) > last:
                table.unlink()
        if last:
            self._point_to(self.checkpoints / step_name(last))

    def _record_environment(self) -> None:
        path = self.path / "environment.json"
        starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps([*starts, environment()], indent=2) + "\n", encoding="utf-8")


def check_run_folder(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that ``RunFolder.create`` would refuse; touches nothing.

    Raises:
        ConfigError: If the folder holds something and neither flag allows its use.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other; give one of them")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; a run needs a folder of its own")
    if resume:
        if not (path / CONFIG).is_file():
            raise ConfigError(f"nothing to resume at {path}: it has no config.yaml; leave out --resume")
        return
    if not path.is_dir():
        return
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)}
    if names and not overwrite:
        raise ConfigError(
            f"the run folder {path} already exists; add --resume to continue it, --overwrite to replace "
            f"it, or choose another"
        )
    foreign = sorted(names - ENTRIES)
    if foreign:
        raise ConfigError(
            f"will not overwrite {path}: {', '.join(foreign[:3])} does not belong to a run; "
            f"move it away or choose another folder"
        )


def check_output_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that already holds something; touches nothing.

    Raises:
        ConfigError: If the path is a file or the working folder, or a folder with content without
            ``overwrite`` or with content that is not the results of an earlier command.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; the results need a folder")
    if path.resolve() == Path.cwd():
        raise ConfigError("the results need a folder of their own, not the working folder; name another")
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if names and not overwrite:
        raise ConfigError(
            f"the folder {path} is not empty; add --overwrite to replace its results, or choose another"
        )
    if names and names.isdisjoint(RESULTS):
        raise ConfigError(
            f"will not overwrite {path}: it holds none of {', '.join(sorted(RESULTS))}, so it was not "
            "written by generate, compare, evaluate, discoveries or export; choose another folder"
        )


def environment() -> dict[str, Any]:
    """What a run was made with: time, command, Python, platform, package versions."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "usable_processors": _usable_processors(),
        "versions": versions,
    }


def _usable_processors() -> int | None:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def step_name(step: int) -> str:
    """``step_000012`` for step 12."""
    return f"step_{step:06d}"


def step_of(path: Path) -> int:
    """12 for ``step_000012``, a checkpoint, and for ``step_000012.parquet``."""
    return int(path.stem.removeprefix("step_"))


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file in a folder, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there in full; one that has no list of them is trusted."""
    path = checkpoint / SIZES
    if not path.is_file():
        return True
    try:
        expected: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    found = _sizes(checkpoint)
    return all(found.get(name) == size for name, size in expected.items())


def _clear(path: Path) -> None:
    for name in ENTRIES:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value that JSON can hold: numpy and torch scalars as Python ones, nan and inf as null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
