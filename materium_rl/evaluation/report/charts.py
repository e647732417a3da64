"""Figures of the record as charts: drawn, told in a sentence, and as the numbers behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from materium_rl.evaluation.definitions import Definition
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.report import drawing
from materium_rl.evaluation.table import format_value

FUNNEL_BARS = (
    "parsed",
    "valid",
    "unique",
    "stable",
    "novel_structure",
    "novel",
    "sun",
    "on_target",
    "sun_on_target",
)
COUNTS = ("sun_prototypes", "sun_frameworks", "sun_merged_formulas")
SHARES = ("sun_substitutions", "top5", "rare_earth", "anion")

Policies = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the page.

    Args:
        key: Distinct name.
        title: Above it.
        text: What it shows, below it.
        svg: The drawing.
        columns: Headings of the table behind it, the first for the names of the rows; none where a table
            beside it has the same numbers.
        rows: Its cells.
        alternative: For those who cannot see it; the text by default.
    """

    key: str
    title: str
    text: str
    svg: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    alternative: str = ""


def funnel(policies: Policies, definitions: Mapping[str, Definition]) -> Chart | None:
    """From what was requested to what is stable, unique, novel and on target."""
    return _bars(
        "funnel",
        "From requested to stable, unique and novel",
        FUNNEL_BARS,
        policies,
        definitions,
        text="Each bar is a share of all structures requested; a stage need not be part of the one above it.",
        label="% of those requested (line: 95 % interval)",
        scale=100,
    )


def variety(policies: Policies, definitions: Mapping[str, Definition]) -> Chart | None:
    """Numbers of distinct things among the S.U.N. samples."""
    return _bars(
        "variety",
        "How many different things",
        COUNTS,
        policies,
        definitions,
        text="Other prototypes and frameworks are other crystals; other formulas may be one in many colours.",
        label="distinct things per 1,024 requested",
        scale=1,
    )


def purchase(policies: Policies, definitions: Mapping[str, Definition]) -> Chart | None:
    """Shares that rise when novelty is bought."""
    return _bars(
        "purchase",
        "Where novelty can be bought",
        SHARES,
        policies,
        definitions,
        text="A gain in novelty should not come with a jump in the first three or a fall of the last.",
        label="% (line: 95 % interval)",
        scale=100,
    )


def _bars(
    key: str,
    title: str,
    keys: Sequence[str],
    policies: Policies,
    definitions: Mapping[str, Definition],
    *,
    text: str,
    label: str,
    scale: float,
) -> Chart | None:
    """Bars of some figures; None where no policy has any of them."""
    shown = [
        definitions[k]
        for k in keys
        if k in definitions and any(not math.isnan(_of(f, k).value) for f in policies.values())
    ]
    if not shown:
        return None
    series = {
        name: [(scale * f.value, scale * f.low, scale * f.high) for f in (_of(figures, d.key) for d in shown)]
        for name, figures in policies.items()
    }
    unit = " %" if scale == 100 else ""
    told = "; ".join(
        f"{d.title}: "
        + ", ".join(f"{name} {format_value(d, _of(f, d.key).value)}{unit}" for name, f in policies.items())
        for d in shown
    )
    svg = drawing.bars([d.title for d in shown], series, label=label, digits=1 if scale == 100 else 0)
    return Chart(key, title, text, svg, alternative=f"{told}.")


def _of(figures: Mapping[str, Figure], key: str) -> Figure:
    return figures.get(key, Figure(math.nan))
