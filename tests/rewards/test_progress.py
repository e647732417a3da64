"""How far a scoring is: told in order, drawn in a terminal, silent elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from rich.console import Console

from materium_rl.rewards.execution.progress import scoring_bar
from materium_rl.rewards.scoring import Scorer

LENGTH = f'"{Path(__file__).parent / "plugins" / "faults.py"}:length"'


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_in_a_terminal_only(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    batch = [Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])] * 20
    with scoring_bar(console, "nano") as progress:
        assert (progress is not None) == terminal
        Scorer(LENGTH, gates=()).score(batch, progress)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("nano" in drawn and "20/20" in drawn) == terminal
    assert terminal or drawn == ""


def test_it_is_told_after_each_chunk() -> None:
    told: list[tuple[int, int]] = []
    batch = [Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])] * 20
    Scorer(LENGTH, gates=(), chunk_size=8).score([None, *batch], lambda *done: told.append(done))
    assert told == [(8, 20), (16, 20), (20, 20)]
