"""The figures of several policies side by side: for the terminal, for Markdown, and in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from materium_rl.evaluation.metrics import DEFINITIONS, FUNNEL, HONESTY, PARSED_TOO, Definition, Figure

SECTIONS = {
    "Funnel, of the structures requested": FUNNEL,
    "What the novelty is made of": HONESTY,
    "The same, of all that could be parsed": PARSED_TOO,
}
TERMINAL_SECTIONS = 2
"""The terminal shows the first two sections, the files all."""
PLAIN_WIDTH = 200
"""Columns of the table where there is no terminal to measure."""

# Where novelty is bought: the limits that a fine-tuned policy should keep to.
MOST_IN_FIVE = 0.30
RARE_EARTH_RISE = 1.30
ANION_KEPT = 0.70
SITES_KEPT = 0.20
MOSTLY_SWAPS = 0.90

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
    if math.isnan(value):
        return "-"
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
            table.add_row(f"  {_title(definition)}", *_cells(definition, policies))
    console.print(table)


def markdown_table(policies: Policies) -> str:
    """All sections as Markdown."""
    columns = _columns(policies)
    lines: list[str] = []
    for section, definitions in SECTIONS.items():
        lines += ["", f"| {section} | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
        for definition in definitions:
            lines.append(f"| {_title(definition)} | {' | '.join(_cells(definition, policies))} |")
    return "\n".join(lines[1:])


def markdown_definitions() -> str:
    """What each figure is, as a Markdown list."""
    return "\n".join(f"- **{d.title}**: {d.text}." for d in DEFINITIONS)


def verdict(before: Figures, after: Figures) -> str:
    """One line on what fine-tuning did; what novelty was bought with comes first.

    For example: ``S.U.N. 6.1 -> 31.2 % (5.1x), 3.2x the distinct prototypes and 1.4x the frameworks
    among S.U.N.; five commonest prototypes 12 % of samples``.
    """
    rose = before["sun"].value < after["sun"].value
    if not rose:
        gain = "no gain: "
    elif after["sun"].low <= before["sun"].high:
        gain = "within the uncertainty: "
    else:
        gain = ""
    collapse = _collapse(before, after)
    warning = f"{'novelty by collapse' if rose else 'collapse'}: {', '.join(collapse)}; " if collapse else ""
    parts = [f"{warning}{gain}{_change('S.U.N.', before['sun'], after['sun'])}"]
    spread = [
        f"{format_ratio(before[key], after[key])} the {what}"
        for key, what in (("sun_prototypes", "distinct prototypes"), ("sun_frameworks", "frameworks"))
        if not math.isnan(ratio(before[key], after[key]))
    ]
    if spread:
        parts[0] += f", {' and '.join(spread)} among S.U.N."
    parts += [_change("on target of the stable", before["on_target_of_stable"], after["on_target_of_stable"])]
    parts += [f"five commonest prototypes {100 * after['top5'].value:.0f} % of samples"]
    drifted = _drifted(before, after)
    return "; ".join([*parts, f"drifted: {', '.join(drifted)}"] if drifted else parts)


def _collapse(before: Figures, after: Figures) -> list[str]:
    """Signs that the samples have become one kind of thing."""
    signs = []
    top5, old_top5 = after["top5"], before["top5"]
    if top5.value > MOST_IN_FIVE and top5.low > old_top5.high:
        signs.append(f"{100 * top5.value:.0f} % of samples in five prototypes")
    rare, old_rare = after["rare_earth"], before["rare_earth"]
    if rare.value > RARE_EARTH_RISE * old_rare.value and rare.low > old_rare.high:
        signs.append(f"{100 * rare.value:.0f} % with rare earths (before {100 * old_rare.value:.0f} %)")
    swaps, old_swaps = after["sun_substitutions"], before["sun_substitutions"]
    if swaps.value > MOSTLY_SWAPS and swaps.low > old_swaps.value:
        signs.append(f"{100 * swaps.value:.0f} % of S.U.N. by swapping elements in training structures")
    prototypes = ratio(before["sun_prototypes"], after["sun_prototypes"])
    if prototypes < 1 and after["sun"].value > before["sun"].value:
        signs.append("fewer distinct prototypes among S.U.N.")
    return signs


def _drifted(before: Figures, after: Figures) -> list[str]:
    """What the policy no longer writes as it did."""
    drifted = []
    anion, old_anion = after["anion"], before["anion"]
    if anion.value < ANION_KEPT * old_anion.value and anion.high < old_anion.low:
        drifted.append(f"anion formers {100 * old_anion.value:.0f} -> {100 * anion.value:.0f} %")
    sites, old_sites = after["mean_sites"], before["mean_sites"]
    apart = sites.low > old_sites.high or sites.high < old_sites.low
    if abs(ratio(old_sites, sites) - 1) > SITES_KEPT and apart:
        drifted.append(f"mean sites {old_sites.value:.1f} -> {sites.value:.1f}")
    return drifted


def _change(title: str, before: Figure, after: Figure) -> str:
    if math.isnan(before.value) or math.isnan(after.value):
        return f"{title}: nothing to compare"
    times = format_ratio(before, after)
    change = f"{title} {100 * before.value:.1f} -> {100 * after.value:.1f} %"
    return change if times == "-" else f"{change} ({times})"


def _title(definition: Definition) -> str:
    return f"{definition.title}, {definition.unit}" if definition.unit in ("%", "bits") else definition.title


def _columns(policies: Policies) -> Sequence[str]:
    return [*policies, "after/before"] if len(policies) == 2 else [*policies]


def _cells(definition: Definition, policies: Policies) -> list[str]:
    found = [figures[definition.key] for figures in policies.values()]
    cells = [format_figure(definition, figure) for figure in found]
    return [*cells, format_ratio(*found)] if len(found) == 2 else cells
