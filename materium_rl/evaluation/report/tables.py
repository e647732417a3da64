"""Tables of the page: figures with their intervals, differences and ratios as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from materium_rl.evaluation.comparison.record import Change
from materium_rl.evaluation.definitions import Definition, Unit
from materium_rl.evaluation.evaluate.record import DefinitionRecord, Estimate
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.table import format_ratio, format_value

Cell = tuple[str, str]
"""A value and its interval, empty where it has none."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its name, the figure that it shows, if any, and cells."""

    title: str
    cells: tuple[Cell, ...]
    key: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page; the first column has the names of the rows.

    Args:
        title: Above it.
        columns: Headings of the others.
        rows: R rows.
        folded: Shown on demand only.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    folded: bool = False


def figure_of(estimate: Estimate | None) -> Figure:
    """The figure, of NaN where there is none."""
    if estimate is None:
        return Figure(math.nan)
    return Figure(*(math.nan if v is None else v for v in (estimate.value, estimate.low, estimate.high)))


def scaled(estimate: Estimate | None, scale: float) -> tuple[float, float, float]:
    """Value, low and high in another unit, for drawing."""
    found = figure_of(estimate)
    return scale * found.value, scale * found.low, scale * found.high


def points_of(definition: Definition) -> str:
    """Unit of a difference."""
    return {"%": "points", "bits": "bits"}.get(definition.unit, "")


def cell(definition: Definition, figure: Figure) -> Cell:
    """A figure in its unit."""
    if math.isnan(figure.low):
        return format_value(definition, figure.value), ""
    ends = (format_value(definition, end) for end in (figure.low, figure.high))
    return format_value(definition, figure.value), "–".join(ends)


def signed(definition: Definition, estimate: Estimate | None) -> Cell:
    """A difference in the unit of the figure, with its sign."""
    found = figure_of(estimate)
    if math.isnan(found.value):
        return "–", ""
    texts = [_with_sign(format_value(definition, value)) for value in (found.value, found.low, found.high)]
    return texts[0], "" if math.isnan(found.low) else f"{texts[1]} to {texts[2]}"


def change_cells(definition: Definition, change: Change | None) -> tuple[Cell, Cell]:
    """Difference and ratio."""
    if change is None:
        return ("–", ""), ("–", "")
    ratio = change.ratio
    if ratio.value is None:
        return signed(definition, change.difference), ("–", "")
    ends = [f"{end:.2f}" if end is not None else "∞" for end in (ratio.low, ratio.high)]
    return signed(definition, change.difference), (f"{ratio.value:.2f}×", " to ".join(ends))


def _with_sign(text: str) -> str:
    """A number with a sign as it is printed."""
    if not text.strip("-0."):
        return text.removeprefix("-")
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def definitions_of(records: Iterable[DefinitionRecord]) -> dict[str, Definition]:
    """Key -> definition; of equal keys the first."""
    found: dict[str, Definition] = {}
    for d in records:
        found.setdefault(d.key, Definition(d.key, d.title, cast("Unit", d.unit), d.text, tuple(d.needs)))
    return found


def figure_rows(
    definitions: Iterable[Definition], columns: Sequence[Mapping[str, Figure]]
) -> tuple[Row, ...]:
    """A row for each figure; of two columns a third cell has the ratio."""
    rows = []
    for d in definitions:
        found = [figures.get(d.key, Figure(math.nan)) for figures in columns]
        cells = [cell(d, figure) for figure in found]
        if len(found) == 2:
            cells.append((format_ratio(*found), ""))
        rows.append(Row(d.title, tuple(cells), d.key, d.unit if d.unit in ("%", "bits") else ""))
    return tuple(rows)
