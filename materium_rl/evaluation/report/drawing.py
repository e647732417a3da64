"""Charts as SVG that takes its colours and font from the page: they follow its light and dark mode."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 4.7
"""Inches; at 72 units an inch close to the width of a phone, so that text is readable there."""
FONT_SIZE = 11.0
LEGEND_WIDTH, LONGEST_NAME, LONGEST_ROW = 44, 28, 34
"""Characters of a line of the legend, of a name in it, and of the name of a row."""
LEGEND_LINE = 0.24
"""Inches."""
# Colours that stand for a role until the SVG is written; the style sheet says what they are.
INK, MUTED, GRID, BAND, CARD = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0a0a0{i}" for i in range(8))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BAND: "band", CARD: "card"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES)
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)))
STYLE = {
    "font.size": FONT_SIZE,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.labelsize": FONT_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with an optional band around it; N points."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


Shares = Mapping[str, Sequence[tuple[float, float, float]]]
"""Name of a series -> for each row value, low, high; NaN where there is none."""
Styles = Mapping[str, int]
"""Name of a series -> number of its colour, dash and mark; numbered from 0 where none is given."""


def bars(
    rows: Sequence[str], series: Shares, *, label: str, digits: int = 1, styles: Styles | None = None
) -> str:
    """Horizontal bars in groups, one group a row, with lines for intervals and the values written out.

    Args:
        rows: R names, first on top.
        series: R triples for each name.
        label: What the axis shows, with its unit.
        digits: Of the values.
        styles: See ``Styles``.
    """
    with _canvas(0.4 + len(rows) * (0.13 + 0.2 * len(series)) + 0.25, series) as (axes, drawn):
        height = 0.86 / len(series)
        for k, (name, values) in enumerate(series.items()):
            look = _look(name, k, styles)
            places = np.arange(len(rows)) + (k - (len(series) - 1) / 2) * height
            lengths = [0.0 if math.isnan(v) else v for v, _, _ in values]
            axes.barh(places, lengths, height * 0.86, color=look.colour, label=_short(name))
            for place, (value, low, high) in zip(places, values, strict=True):
                _interval(axes, place, low, high)
                text = "–" if math.isnan(value) else f"{value:.{digits}f}"
                end = max(v for v in (value, high, 0.0) if not math.isnan(v))
                axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center")
        axes.margins(x=0.14)
        _rows(axes, rows)
        _finish(axes, series, label)
    return drawn[0]


def dots(rows: Sequence[str], series: Shares, *, label: str, styles: Styles | None = None) -> str:
    """One mark for each series and row; a line between them shows how far they are apart.

    Args:
        rows: R names, first on top.
        series: R triples for each name.
        label: What the axis shows, with its unit.
        styles: See ``Styles``.
    """
    with _canvas(0.4 + 0.215 * len(rows) + 0.25, series) as (axes, drawn):
        table = np.array([[v for v, _, _ in values] for values in series.values()])
        for place in range(len(rows)):
            axes.plot([table[:, place].min(), table[:, place].max()], [place] * 2, color=GRID, linewidth=3)
        for k, name in enumerate(series):
            look = _look(name, k, styles)
            axes.plot(
                table[k], range(len(rows)), look.marker, color=look.colour, label=_short(name), clip_on=False
            )
        axes.margins(x=0.05)
        axes.set_xlim(left=0)
        _rows(axes, rows)
        _finish(axes, series, label)
    return drawn[0]


def histogram(
    edges: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    share: str,
    shade: tuple[float, float] | None = None,
    limit: float | None = None,
    styles: Styles | None = None,
) -> str:
    """Outlines of several histograms over the same bins.

    Args:
        edges: B + 1 edges of the bins.
        series: Name -> B heights in %.
        label: What is along the axis, with its unit.
        share: What the heights are shares of.
        shade: Range to mark.
        limit: Place to mark by a line.
        styles: See ``Styles``.
    """
    with _canvas(2.7, series) as (axes, drawn):
        if shade is not None:
            axes.axvspan(*shade, color=BAND, linewidth=0)
        if limit is not None:
            axes.axvline(limit, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        for k, (name, heights) in enumerate(series.items()):
            look = _look(name, k, styles)
            axes.stairs(
                heights,
                edges,
                color=look.colour,
                linewidth=2,
                linestyle=look.dash,
                label=_short(name),
            )
            axes.stairs(heights, edges, color=look.colour, fill=True, alpha=0.12, linewidth=0)
        axes.set_xlim(edges[0], edges[-1])
        axes.locator_params(axis="x", integer=edges[1] - edges[0] == 1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(share)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        _finish(axes, series, label)
    return drawn[0]


def curves(
    series: Mapping[str, Line],
    *,
    label: str,
    height: str,
    marks: bool = False,
    styles: Styles | None = None,
) -> str:
    """Curves with bands.

    Args:
        series: By name.
        label: What is along the axis, with its unit.
        height: What the curves show, with its unit.
        marks: Mark each point.
        styles: See ``Styles``.
    """
    with _canvas(3.0, series) as (axes, drawn):
        for k, (name, line) in enumerate(series.items()):
            look = _look(name, k, styles)
            marker = look.marker if marks else ""
            axes.plot(
                line.x,
                line.y,
                marker=marker,
                color=look.colour,
                linewidth=2,
                linestyle=look.dash,
                label=_short(name),
            )
            if len(line.low):
                axes.fill_between(line.x, line.low, line.high, color=look.colour, alpha=0.15, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(height)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        _finish(axes, series, label)
    return drawn[0]


def points(rows: Sequence[str], series: Shares, *, label: str, styles: Styles | None = None) -> str:
    """Marks with lines for intervals, one group a row, and a line at 0.

    Args:
        rows: R names, first on top.
        series: R triples for each name.
        label: What the axis shows, with its unit.
        styles: See ``Styles``.
    """
    with _canvas(0.4 + len(rows) * (0.12 + 0.13 * len(series)) + 0.25, series) as (axes, drawn):
        height = 0.7 / len(series)
        axes.axvline(0, color=MUTED, linewidth=1.2)
        for k, (name, values) in enumerate(series.items()):
            look = _look(name, k, styles)
            places = np.arange(len(rows)) + (k - (len(series) - 1) / 2) * height
            for place, (_, low, high) in zip(places, values, strict=True):
                if not math.isnan(low):
                    axes.plot([low, high], [place, place], color=look.colour, linewidth=2)
            axes.plot([v for v, _, _ in values], places, look.marker, color=look.colour, label=_short(name))
        axes.margins(x=0.06)
        _rows(axes, rows)
        _finish(axes, series, label)
    return drawn[0]


@contextmanager
def _canvas(height: float, series: Mapping[str, object]) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; when the block ends the list holds the SVG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn: list[str] = []
    with rc_context(STYLE):
        height += LEGEND_LINE * (1 if _fits_a_line(series) else len(series)) if len(series) > 1 else 0.0
        canvas = Canvas(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
        FigureCanvasSVG(canvas)
        yield canvas.add_subplot(), drawn
        stream = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(stream, format="svg", metadata=nothing)
    drawn.append(_embed(stream.getvalue()))


def _embed(svg: str) -> str:
    """An SVG file as part of a page: no prolog, no size, ids only where something refers to them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    referred = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in referred else "", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)


def _rows(axes: Axes, rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [_short(row, LONGEST_ROW) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def _interval(axes: Axes, place: float, low: float, high: float) -> None:
    if not math.isnan(low):
        axes.plot([low, high], [place, place], color=CARD, linewidth=3.2)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.4)


def _finish(axes: Axes, series: Mapping[str, object], label: str) -> None:
    axes.set_axisbelow(True)
    axes.set_xlabel(label, loc="right")
    if len(series) > 1:
        canvas = axes.get_figure()
        assert canvas is not None
        canvas.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=len(series) if _fits_a_line(series) else 1,
            borderpad=0.2,
        )


def _fits_a_line(series: Mapping[str, object]) -> bool:
    return sum(len(_short(name)) + 6 for name in series) < LEGEND_WIDTH


def _short(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that there is room for."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


@dataclass(frozen=True, slots=True)
class _Look:
    """How a series is drawn."""

    colour: str
    dash: Any
    marker: str


def _look(name: str, k: int, styles: Styles | None) -> _Look:
    i = k if styles is None else styles[name]
    return _Look(SERIES[i % len(SERIES)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])


def bin_edges(low: float, high: float, bins: int) -> list[float]:
    """Edges of equal bins."""
    return [float(edge) for edge in np.linspace(low, high, bins + 1)]


def bin_names(edges: Sequence[float], digits: int) -> list[str]:
    """``0.00 to 0.10`` and so on, for the table behind a histogram."""
    return [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in pairwise(edges)]
