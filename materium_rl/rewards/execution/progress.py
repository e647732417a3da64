"""A bar for long scorings, in a terminal only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from materium_rl.rewards.execution.batches import Progress as Told


@contextmanager
def scoring_bar(console: Console, label: str) -> Iterator[Told | None]:
    """What ``Scorer.score`` takes as ``progress``: moves a bar that goes when this block ends.

    Args:
        console: Where to draw; None is yielded if it is no terminal.
        label: What stands before the bar.
    """
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
