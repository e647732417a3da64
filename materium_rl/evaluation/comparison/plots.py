"""The picture of a comparison: the funnel before and after, and what the novelty is made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.table import Policies, format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FUNNEL_BARS = {
    "valid": "valid",
    "stable": "stable",
    "unique": "unique",
    "novel": "novel",
    "sun": "S.U.N.",
    "on_target": "on target",
    "sun_on_target": "S.U.N. and on target",
}
PANELS = {
    "sun_prototypes": "distinct prototypes\nin S.U.N. per 1,024",
    "sun_frameworks": "distinct frameworks\nin S.U.N. per 1,024",
    "top5": "five commonest\nprototypes, % of samples",
    "anion": "with an anion former,\n% of valid",
    "rare_earth": "with rare earths,\n% of valid",
    "mean_sites": "mean sites\nper cell",
}
COLOURS = ("#b8bec7", "#1f6f8b", "#e08e45", "#7a4e9e", "#4c9f70")
"""The baseline is grey; more policies than colours start again."""
INK = "#30343b"
_BY_KEY = {definition.key: definition for definition in DEFINITIONS}


def plot_comparison(policies: Policies, path: Path, *, title: str) -> None:
    """Draw the comparison and save it as PNG.

    Args:
        policies: Figures by the policy's name, the baseline first.
        path: Target file.
        title: One line above the picture.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(style()):
        canvas = Canvas(figsize=(12, 5.4), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12))
        FigureCanvasAgg(canvas)
        canvas.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        grid = canvas.add_gridspec(2, 4, width_ratios=(3.4, 1, 1, 1))
        _draw_funnel(canvas.add_subplot(grid[:, 0]), policies)
        for place, (key, name) in enumerate(PANELS.items()):
            _draw_panel(canvas.add_subplot(grid[place // 3, 1 + place % 3]), policies, key, name)
        canvas.savefig(path)


def _draw_funnel(axes: Axes, policies: Policies) -> None:
    height = 0.8 / len(policies)
    for row, (name, figures) in enumerate(policies.items()):
        found = [figures[key] for key in FUNNEL_BARS]
        places = [bar + (row - (len(policies) - 1) / 2) * height for bar in range(len(found))]
        values = [0.0 if math.isnan(f.value) else 100 * f.value for f in found]
        axes.barh(places, values, height * 0.92, color=colour(row), label=name)
        for place, value, figure in zip(places, values, found, strict=True):
            high = value
            if not math.isnan(figure.low):
                high = 100 * figure.high
                axes.plot([100 * figure.low, high], [place, place], color=INK, linewidth=1, alpha=0.6)
            axes.text(
                high + 1, place, "-" if math.isnan(figure.value) else f"{value:.1f}", va="center", fontsize=9
            )
    axes.set_yticks(range(len(FUNNEL_BARS)), list(FUNNEL_BARS.values()))
    axes.set_ylim(len(FUNNEL_BARS) - 0.4, -0.6)
    axes.set_xlim(0, 109)
    axes.set_xlabel("% of the structures requested (line: 95 % interval)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(policies), frameon=False)
    _clean(axes, keep="left")


def _draw_panel(axes: Axes, policies: Policies, key: str, name: str) -> None:
    definition = _BY_KEY[key]
    scale = 100 if definition.unit == "%" else 1
    found: list[Figure] = [figures[key] for figures in policies.values()]
    values = [0.0 if math.isnan(f.value) else scale * f.value for f in found]
    tops = [value if math.isnan(f.low) else scale * f.high for value, f in zip(values, found, strict=True)]
    room = 1.2 * max([*tops, 1e-9])
    for column, (value, top, figure) in enumerate(zip(values, tops, found, strict=True)):
        axes.bar(column, value, 0.7, color=colour(column))
        if not math.isnan(figure.low):
            axes.plot([column, column], [scale * figure.low, top], color=INK, linewidth=1, alpha=0.6)
        text = format_value(definition, figure.value)
        axes.text(column, top + 0.03 * room, text, ha="center", fontsize=9)
    axes.set_ylim(0, room)
    axes.set_title(name, fontsize=9.5)
    axes.set_xticks([])
    axes.set_yticks([])
    _clean(axes, keep="bottom")


def style() -> dict[str, Any]:
    """What all pictures share."""
    return {
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }


def _clean(axes: Axes, *, keep: str) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == keep)
    axes.tick_params(length=0)


def colour(index: int) -> str:
    """That of a policy; the baseline has 0."""
    return COLOURS[index % len(COLOURS)]
