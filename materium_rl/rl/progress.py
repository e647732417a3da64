"""What the user sees while a run goes on: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

COLUMNS = {
    "reward": "reward",
    "outcome/ok": "valid",
    "rewards/stability/mean": "stability",
    "rewards/novelty/mean": "novelty",
    "rewards/bandgap/mean": "bandgap",
    "rewards/uniqueness/mean": "uniqueness",
    "prototypes/distinct": "prototypes",
    "prototypes/top5_share": "top 5",
    "kl": "KL",
    "critic/explained_variance": "critic",
}
"""Metric key -> heading; a column is shown when the run has the metric."""

ROWS = 12


class Progress:
    """Shows the metrics of each step.

    Args:
        steps: Steps of the whole run.
        console: Where to write; a terminal gets a live table.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.steps = steps
        self.console = console or Console()
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=ROWS)
        self._live: Live | None = None
        self._started = time.monotonic()
        self._first_step: int | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def show(self, row: Mapping[str, Any]) -> None:
        """Show one step."""
        self._rows.append(row)
        if self._first_step is None:
            self._first_step = int(row["step"]) - 1
        shown = {title: row[key] for key, title in COLUMNS.items() if row.get(key) is not None}
        if self._live:
            self._live.update(self._table(), refresh=True)
        else:
            values = "  ".join(f"{title} {_number(value)}" for title, value in shown.items())
            self.console.print(
                f"step {row['step']}/{self.steps}  {values}  {self._remaining()}", highlight=False
            )

    def say(self, line: str) -> None:
        """Print a line, above the table where there is one."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        titles = {k: t for k, t in COLUMNS.items() if any(r.get(k) is not None for r in self._rows)}
        table = Table(title=f"fine-tuning: {self._remaining()}")
        for title in ("step", *titles.values()):
            table.add_column(title, justify="right")
        for row in self._rows:
            table.add_row(f"{row['step']}/{self.steps}", *(_number(row.get(key)) for key in titles))
        return table

    def _remaining(self) -> str:
        row = self._rows[-1]
        done = int(row["step"]) - (self._first_step or 0)
        seconds = (time.monotonic() - self._started) / done * (self.steps - int(row["step"]))
        return f"{seconds / 60:.0f} min left" if seconds >= 60 else f"{seconds:.0f} s left"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 10 else f"{value:.3f}"
