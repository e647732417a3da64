"""Pictures of curves: distinct things against samples drawn, and figures over the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.comparison.plots import colour, style
from materium_rl.evaluation.comparison.rarefaction import Curve
from materium_rl.evaluation.comparison.results import Trajectory
from materium_rl.evaluation.definitions import DEFINITIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RAREFIED = {
    "prototype": "distinct S.U.N. prototypes",
    "framework": "distinct S.U.N. frameworks",
    "formula": "distinct S.U.N. formulas",
}
FOLLOWED = {
    "sun": "S.U.N., %",
    "sun_frameworks": "distinct frameworks\nin S.U.N. per 1,024",
    "valid": "valid, %",
    "element_divergence": "element divergence, bits",
}
_UNITS = {definition.key: definition.unit for definition in DEFINITIONS}


def plot_rarefaction(
    sizes: NDArray[np.int64], curves: Mapping[str, Mapping[str, Curve]], path: Path, *, title: str
) -> None:
    """Draw the curves with their 95 % bands and save them as PNG.

    Args:
        sizes: K numbers of samples.
        curves: Name of the policy, the baseline first -> kind -> curve.
        path: Target file.
        title: One line above the picture.
    """
    with _panels(len(RAREFIED), path, title) as panels:
        for axes, (kind, name) in zip(panels, RAREFIED.items(), strict=True):
            for row, (policy, kinds) in enumerate(curves.items()):
                curve = kinds[kind]
                axes.plot(sizes, curve.expected, color=colour(row), label=policy)
                axes.fill_between(sizes, curve.low, curve.high, color=colour(row), alpha=0.2, linewidth=0)
            axes.set_xlabel("samples drawn")
            axes.set_title(name, fontsize=10)
            _from_zero(axes)
        panels[0].legend(frameon=False, loc="upper left")


def plot_trajectories(trajectories: Sequence[Trajectory], path: Path) -> None:
    """Draw figures with their 95 % intervals over the steps of every run and save them as PNG."""
    n = trajectories[0].n
    with _panels(len(FOLLOWED), path, f"Over the checkpoints, {n:,} structures of each") as panels:
        for axes, (key, name) in zip(panels, FOLLOWED.items(), strict=True):
            scale = 100 if _UNITS[key] == "%" else 1
            for row, trajectory in enumerate(trajectories, start=1):
                steps = [point.step for point in trajectory.points]
                found = [point.figures[key] for point in trajectory.points]
                ends = np.array([[f.value, f.low, f.high] for f in found]).T * scale
                axes.errorbar(
                    steps,
                    ends[0],
                    np.maximum([ends[0] - ends[1], ends[2] - ends[0]], 0.0),
                    color=colour(row),
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=Path(trajectory.source).name,
                )
            axes.set_xlabel("step")
            axes.set_title(name, fontsize=10)
            _from_zero(axes)
        panels[0].legend(frameon=False)


@contextmanager
def _panels(n: int, path: Path, title: str) -> Iterator[list[Axes]]:
    """Yield n empty panels side by side; save them when the block ends."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(style()):
        canvas = Canvas(figsize=(12, 3.8), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12))
        FigureCanvasAgg(canvas)
        canvas.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        panels = list(np.atleast_1d(canvas.subplots(1, n)))
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        yield panels
        canvas.savefig(path)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
