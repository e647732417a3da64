"""``materium-rl discoveries``: the best distinct structures among many samples, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pymatgen.core import Structure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries.exporters import tell_faults, tell_written, write_exports
from materium_rl.evaluation.discoveries.filters import column_of, condition, sort_key
from materium_rl.evaluation.discoveries.provenance import Entry, properties_of
from materium_rl.evaluation.discoveries.sources import CIF, FORMULA, Samples, read_samples
from materium_rl.evaluation.table import make_console
from materium_rl.rewards.catalogue.novelty import Tier
from materium_rl.structures import structures_match

Level = Literal["structure", "prototype", "framework"]
DEFAULT_SORT = "reward"
TIER = "novelty.tier"
COLUMNS = {
    "formula": "formula",
    "space_group": "space group",
    "n_sites": "sites",
    "e_above_hull": "e_hull, eV",
    "band_gap": "gap, eV",
    "bandgap.uncertainty": "± eV",
    "tier": "novelty",
    "nearest": "nearest known",
    "reward": "reward",
}
"""Name of a column or short name -> its heading; shown where the source has it."""


@dataclass(slots=True)
class Discovery:
    """One of the distinct structures.

    Args:
        row: Its best sample: the first in rank that passed the filter.
        structure: That sample.
        rows: Every accepted sample that is the same crystal, in the order of the source.
    """

    row: int
    structure: Structure
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave.

    Args:
        discoveries: Distinct structures, the best first.
        passed: Number of samples that passed the filter, equal ones counted each.
        known: Number of accepted samples left out because they are known structures.
        columns: Columns that filter and sort key name.
    """

    discoveries: list[Discovery]
    passed: int
    known: int
    columns: tuple[str, ...]


def discover(
    source: Path,
    *,
    where: str | None = None,
    sort: str | None = None,
    by: Level = "structure",
    known: bool = False,
    top: int = 0,
    formats: Sequence[str] = (),
    out: Path | None = None,
) -> Found:
    """Print the best distinct structures of a source, and export them.

    Args:
        source: Whatever ``read_samples`` reads.
        where: See ``find``.
        sort: See ``find``.
        by: See ``find``.
        known: See ``find``.
        top: See ``find``.
        formats: Names of ``exporters.FORMATS``.
        out: Folder to write; nothing is written if None. The caller has checked it.

    Raises:
        ConfigError: Wrong filter or sort key, or there is nothing to write.
        StructureFileError: There is nothing to read.
    """
    samples = read_samples(source)
    found = find(samples, where=where, sort=sort, by=by, known=known, top=top)
    console = make_console()
    if found.discoveries:
        print_table(samples, found, console)
    accepted = int(samples.accepted.sum())
    counts = f"{len(found.discoveries):,} distinct of {found.passed:,} samples that pass"
    counts += f"; {source} holds {len(samples):,}, {accepted:,} of them accepted"
    console.print(f"{counts}, {found.known:,} known structures left out", soft_wrap=True, markup=False)
    tell_faults(samples.unread)
    if out is None:
        return found
    if not found.discoveries:
        raise ConfigError(f"nothing passes, so {out} is not written: loosen --where, or add --known")
    record = {"command": "discoveries", **samples.origin, "where": where, "sort": sort, "by": by, "top": top}
    record |= {"samples": len(samples), "accepted": accepted, "known": found.known, "passed": found.passed}
    faults = write_exports(entries(samples, found), formats, out, record)
    tell_written(len(found.discoveries), formats, out, faults)
    return found


def find(
    samples: Samples,
    *,
    where: str | None = None,
    sort: str | None = None,
    by: Level = "structure",
    known: bool = False,
    top: int = 0,
) -> Found:
    """The best distinct structures among the accepted samples.

    A structure that the novelty reward found among its references is no discovery and is left out. Of samples
    that are the same crystal (``structures_match``), or of one prototype or framework, the best stands for
    all. How often it was found counts all accepted samples, also those that fail the filter.

    Args:
        samples: Where to look.
        where: A filter, see ``filters``.
        sort: Expression whose greatest value comes first; by default the reward, or the order of the samples
            where there is none. Of equal ones the greater reward comes first, then the earlier sample;
            those without a value come last.
        by: When two samples count as the same.
        known: Keep known structures, too.
        top: Most structures to return; 0 for all.

    Raises:
        ConfigError: Wrong filter or sort key, or the source knows no prototypes or frameworks.
    """
    if by != "structure" and by not in samples.frame:
        raise ConfigError(f"--by {by}: {samples.origin['source']} does not tell the {by} of its samples")
    columns: tuple[str, ...] = ()
    passing = samples.accepted.to_numpy()
    left_out = passing & (samples.frame[TIER] == Tier.KNOWN).to_numpy() if TIER in samples.frame else None
    if left_out is not None and not known:
        passing = passing & ~left_out
    if where is not None:
        filtered = condition(where, samples.frame)
        passing = passing & np.array([value is True for value in filtered.values])
        columns += filtered.columns
    order = np.flatnonzero(passing)
    for text in (DEFAULT_SORT if DEFAULT_SORT in samples.frame else None, sort):
        if text is not None:
            key = sort_key(text, samples.frame)
            order = order[np.argsort([_descending(key.values[row]) for row in order], kind="stable")]
            columns += key.columns
    same = _Same(samples, by)
    discoveries = _distinct(samples, order.tolist(), same, top)
    _count(samples, discoveries, same)
    n_known = 0 if known or left_out is None else int(left_out.sum())
    return Found(discoveries, int(passing.sum()), n_known, tuple(dict.fromkeys(columns)))


def _descending(value: float | None) -> float:
    return math.inf if value is None else -value


class _Same:
    """Tells whether two samples count as the same: only within a group, and then by structure or at once."""

    def __init__(self, samples: Samples, by: Level) -> None:
        self.groups = samples.frame[FORMULA if by == "structure" else by].tolist()
        self.texts = samples.frame[CIF].astype(str).tolist() if CIF in samples.frame else None
        self._samples = samples
        self._by_structure = by == "structure"

    def key(self, row: int) -> Hashable:
        """Rows of equal keys are the same without a comparison."""
        if not self._by_structure:
            return cast("Hashable", self.groups[row])
        return row if self.texts is None else self.texts[row]

    def __call__(self, row: int, discovery: Discovery) -> bool:
        """Whether a row of the same group is the same as a discovery."""
        structure = self._samples.structure(row)
        if structure is None or not self._by_structure:
            return structure is not None
        # the matcher is not symmetric: of cells with nearly equal axes it may see a match one way only
        pair = (structure, discovery.structure)
        return structures_match(*pair) or structures_match(*reversed(pair))


def _distinct(samples: Samples, order: Iterable[int], same: _Same, top: int) -> list[Discovery]:
    """The first ``top`` rows of which no earlier one is the same."""
    found: list[Discovery] = []
    of_group: dict[Any, list[Discovery]] = {}
    seen: set[Hashable] = set()
    for row in order:
        if same.key(row) in seen or (structure := samples.structure(row)) is None:
            continue
        seen.add(same.key(row))
        known = of_group.setdefault(same.groups[row], [])
        if any(same(row, other) for other in known):
            continue
        known.append(Discovery(row, structure))
        found.append(known[-1])
        if len(found) == top:
            break
    return found


def _count(samples: Samples, discoveries: Sequence[Discovery], same: _Same) -> None:
    """Give every accepted sample to the discovery that it is the same as, the best one first."""
    of_group: dict[Any, list[Discovery]] = {}
    for discovery in discoveries:
        of_group.setdefault(same.groups[discovery.row], []).append(discovery)
    owners: dict[Hashable, Discovery | None] = {same.key(d.row): d for d in discoveries}
    for row in np.flatnonzero(samples.accepted.to_numpy()).tolist():
        known = of_group.get(same.groups[row], [])
        if known and same.key(row) not in owners:
            owners[same.key(row)] = next((d for d in known if same(row, d)), None)
        if known and (owner := owners[same.key(row)]) is not None:
            owner.rows.append(row)


def entries(samples: Samples, found: Found) -> list[Entry]:
    """What an export needs of each discovery: name, structure, and all that is known of it."""
    width = max(3, len(str(len(found.discoveries))))
    return [
        Entry.of(
            f"{rank:0{width}d}",
            discovery.structure,
            {"rank": rank, **properties_of(samples, discovery.row), **_history(samples, discovery)},
        )
        for rank, discovery in enumerate(found.discoveries, 1)
    ]


def _history(samples: Samples, discovery: Discovery) -> dict[str, Any]:
    history: dict[str, Any] = {"times_found": len(discovery.rows)}
    if "step" in samples.frame:
        steps = samples.frame["step"].iloc[discovery.rows]
        history |= {"first_step": int(steps.min()), "last_step": int(steps.max())}
    return history


def print_table(samples: Samples, found: Found, console: Console) -> None:
    """Print the discoveries, the columns that filter and sort key name among them."""
    plain = not console.is_terminal
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=not plain)
    shown = _shown(samples, found)
    table.add_column("", justify="right")
    for column, title in shown.items():
        number = samples.frame[column].dtype.kind in "iuf"
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    table.add_column("found", justify="right")
    if "step" in samples.frame:
        table.add_column("steps", justify="right")
    for rank, discovery in enumerate(found.discoveries, 1):
        record = samples.frame.iloc[discovery.row]
        history = _history(samples, discovery)
        cells = [_cell(column, record[column]) for column in shown]
        cells.append(f"{history['times_found']}x")
        if "step" in samples.frame:
            first, last = history["first_step"], history["last_step"]
            cells.append(str(first) if first == last else f"{first}-{last}")
        table.add_row(str(rank), *cells)
    console.print(table)


def _shown(samples: Samples, found: Found) -> dict[str, str]:
    """Column of the table -> heading."""
    available = [str(column) for column in samples.frame.columns]
    shown = {column: title for name, title in COLUMNS.items() if (column := column_of(name, available))}
    if samples.kind in ("comparison", "files"):
        shown |= {name: name for name in ("policy", "source") if name in available}
    named = {column: column for column in found.columns if column not in (*shown, "elements")}
    return shown | named


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if column == "space_group_number":
        return str(int(value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
