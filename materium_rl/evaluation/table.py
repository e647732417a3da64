"""The figures of several policies side by side: for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from materium_rl.evaluation.definitions import DEFINITIONS, FUNNEL, HONESTY, PARSED_TOO, Definition
from materium_rl.evaluation.metrics import Figure

SECTIONS = {
    "Funnel, of the structures requested": FUNNEL,
    "What the novelty is made of": HONESTY,
    "The same, of all that could be parsed": PARSED_TOO,
}
TERMINAL_SECTIONS = 2
"""The terminal shows the first two sections, the files all."""
PLAIN_WIDTH = 200
"""Columns of the table where there is no terminal to measure."""

Figures = Mapping[str, Figure]
Policies = Mapping[str, Figures]
"""Figures by the policy's name, the baseline first."""


def ratio(before: Figure, after: Figure) -> float:
    """After over before; NaN where before is 0 or either has no value."""
    return after.value / before.value if before.value > 0 else math.nan


def format_value(definition: Definition, value: float) -> str:
    """The value with the unit's number of digits, without the unit."""
    if math.isnan(value):
        return "-"
    if definition.unit == "%":
        return f"{100 * value:.1f}"
    digits = {"count": 0, "mean": 2, "bits": 3}[definition.unit]
    return f"{value:.{digits}f}"


def format_figure(definition: Definition, figure: Figure) -> str:
    """``31.2 (28.4-34.1)``, the interval only where there is one."""
    text = format_value(definition, figure.value)
    if math.isnan(figure.low):
        return text
    return f"{text} ({format_value(definition, figure.low)}-{format_value(definition, figure.high)})"


def format_ratio(before: Figure, after: Figure) -> str:
    """``5.1x``; a dash where it has no meaning."""
    value = ratio(before, after)
    return "-" if math.isnan(value) else format_times(value)


def format_times(value: float) -> str:
    """``5.1x``; below 2 with another digit."""
    return f"{value:.1f}x" if value >= 1.95 else f"{value:.2f}x"


def make_console() -> Console:
    """The terminal; where there is none, wide enough that nothing is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_table(policies: Policies, title: str, console: Console) -> None:
    """Print the table; without a terminal as plain aligned text."""
    plain = not console.is_terminal
    table = Table(title=title, title_justify="left", box=None if plain else SIMPLE_HEAD, pad_edge=not plain)
    table.add_column("", no_wrap=True)
    for name in _columns(policies):
        table.add_column(name, justify="right", no_wrap=True)
    for section, definitions in list(SECTIONS.items())[:TERMINAL_SECTIONS]:
        table.add_section()
        table.add_row(f"[bold]{section}[/bold]")
        for definition in definitions:
            table.add_row(f"  {figure_title(definition)}", *_cells(definition, policies))
    console.print(table)


def markdown_table(policies: Policies) -> str:
    """All sections as Markdown."""
    columns = _columns(policies)
    lines: list[str] = []
    for section, definitions in SECTIONS.items():
        lines += ["", f"| {section} | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
        for definition in definitions:
            lines.append(f"| {figure_title(definition)} | {' | '.join(_cells(definition, policies))} |")
    return "\n".join(lines[1:])


def markdown_definitions() -> str:
    """What each figure is, as a Markdown list."""
    return "\n".join(f"- **{d.title}**: {d.text}." for d in DEFINITIONS)


def figure_title(definition: Definition) -> str:
    """The title, with the unit where it is no plain number."""
    unit = f", {definition.unit}" if definition.unit in ("%", "bits") else ""
    return f"{definition.title}{unit}"


def _columns(policies: Policies) -> Sequence[str]:
    return [*policies, "after/before"] if len(policies) == 2 else [*policies]


def _cells(definition: Definition, policies: Policies) -> list[str]:
    found = [figures[definition.key] for figures in policies.values()]
    cells = [format_figure(definition, figure) for figure in found]
    return [*cells, format_ratio(*found)] if len(found) == 2 else cells
