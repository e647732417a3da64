"""Markdown tables of differences, controls, costs, finds and trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from materium_rl.evaluation.comparison.costs import CALLS, GAINS, Cost, gain_per
from materium_rl.evaluation.comparison.differences import Change, Changes
from materium_rl.evaluation.comparison.found import KINDS, Found, quarters
from materium_rl.evaluation.definitions import DEFINITIONS, PER, Definition
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.table import figure_title, format_figure, format_times, format_value
from materium_rl.evaluation.variety import COLOURING, FAMILY_SWAP, NO_SWAP, RARE_EARTH_SWAP

SHOWN_OF_CONTROLS = ("sun", "sun_new", "sun_on_target", "sun_prototypes", "sun_frameworks", "valid")
SHOWN_OF_TRAJECTORY = ("valid", "stable", "sun", "sun_prototypes", "sun_frameworks", "element_divergence")
GAIN_TITLES = {
    NO_SWAP: "of the S.U.N. gain new arrangements",
    COLOURING: "of the S.U.N. gain other colouring",
    FAMILY_SWAP: "of the S.U.N. gain other substitution",
    RARE_EARTH_SWAP: "of the S.U.N. gain rare-earth substitution",
}
_BY_KEY = {definition.key: definition for definition in DEFINITIONS}


def markdown_differences(changes: Mapping[str, Changes]) -> str:
    """One row for each figure and one for each kind of gain; per policy difference and ratio."""
    columns = [f"{name} {what}" for name in changes for what in ("difference", "ratio")]
    rows = []
    for definition in DEFINITIONS:
        found = [c.figures.get(definition.key) for c in changes.values()]
        if any(found):
            cells = [text for change in found for text in _cells(definition, change)]
            rows.append([figure_title(definition), *cells])
    for kind, title in GAIN_TITLES.items():
        shares = [c.gain.get(kind) for c in changes.values()]
        if any(shares):
            rows.append([f"{title}, %", *(text for s in shares for text in (_percent(s), ""))])
    return _markdown("", columns, rows)


def markdown_controls(against: Mapping[str, Mapping[str, Changes]]) -> str:
    """What each recipe has over each control; differences."""
    pairs = [(f"{name} - {control}", found) for control, of in against.items() for name, found in of.items()]
    rows = [
        [figure_title(_BY_KEY[key]), *(_cells(_BY_KEY[key], found.figures.get(key))[0] for _, found in pairs)]
        for key in SHOWN_OF_CONTROLS
    ]
    return _markdown("", [title for title, _ in pairs], rows)


def markdown_costs(costs: Mapping[str, tuple[Cost, Changes]]) -> str:
    """Reward calls, time, and the gain over the baseline for each of them."""
    rows = [
        ["reward calls", *(f"{cost.reward_calls:,.0f}" for cost, _ in costs.values())],
        ["hours", *(f"{cost.hours:.2f}" for cost, _ in costs.values())],
        ["processor hours, at most", *(f"{cost.processor_hours:.2f}" for cost, _ in costs.values())],
    ]
    for key in GAINS:
        for what in (f"per {CALLS:,} reward calls", "per processor hour"):
            cells = []
            for cost, found in costs.values():
                amount = cost.reward_calls / CALLS if "calls" in what else cost.processor_hours
                gain = gain_per(found, amount).get(key)
                cells.append(_signed(_BY_KEY[key], gain))
            rows.append([f"gain in {_BY_KEY[key].title} {what}{_points(_BY_KEY[key])}", *cells])
    return _markdown("", list(costs), rows)


def markdown_found(found: Mapping[str, Found]) -> str:
    """What each run had found after a quarter, half, three quarters and all of its reward calls."""
    rows = []
    for name, curve in found.items():
        for place in quarters(len(curve.reward_calls)):
            counts = (f"{curve.distinct[kind][place]:,.0f}" for kind in KINDS)
            rows.append([name, f"{curve.reward_calls[place]:,}", *counts])
    return _markdown("", ["reward calls", *KINDS.values()], rows)


def markdown_trajectory(points: Mapping[int, Mapping[str, Figure]]) -> str:
    """One row for each checkpoint."""
    definitions = [_BY_KEY[key] for key in SHOWN_OF_TRAJECTORY]
    rows = [
        [str(step), *(format_figure(d, figures[d.key]) for d in definitions)]
        for step, figures in points.items()
    ]
    return _markdown("step", [figure_title(d) for d in definitions], rows)


def _cells(definition: Definition, change: Change | None) -> tuple[str, str]:
    if change is None:
        return "-", "-"
    ratio = change.ratio
    if math.isnan(ratio.value):
        return _signed(definition, change.difference), "-"
    high = "" if math.isinf(ratio.high) else format_times(ratio.high)
    return (
        _signed(definition, change.difference),
        f"{format_times(ratio.value)} ({format_times(ratio.low)}..{high})",
    )


def _signed(definition: Definition, figure: Figure | None) -> str:
    """``+23.3 (20.2..26.4)``, in the unit of the figure; points for shares."""
    if figure is None or math.isnan(figure.value):
        return "-"
    sign = "+" if figure.value >= 0 else ""
    ends = (_digits(definition, end) for end in (figure.low, figure.high))
    return f"{sign}{_digits(definition, figure.value)} ({'..'.join(ends)})"


def _digits(definition: Definition, value: float) -> str:
    """Counts with one digit where they are small, as gains per cost are."""
    if definition.unit == "count" and abs(value) < PER / 100 and not float(value).is_integer():
        return f"{value:.1f}"
    return format_value(definition, value)


def _points(definition: Definition) -> str:
    return ", points" if definition.unit == "%" else ""


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{100 * figure.value:.0f} ({100 * figure.low:.0f}..{100 * figure.high:.0f})"


def _markdown(corner: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
