"""What a run found with its reward calls: counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from compared_runs import BATCH, STEPS, write_run

from materium_rl.evaluation.comparison.entries import finetune_run
from materium_rl.evaluation.comparison.found import Found, found_by, found_in, mean_found

NEW, KNOWN = "new_prototype", "new_arrangement"
COLUMNS = ["outcome", "stability.value", "novelty.tier", "formula", "prototype", "framework"]


def batch(*rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


FIRST = batch(
    ("ok", 0.05, NEW, "NaCl", "AB", "A"),
    ("ok", 0.099, "substitution", "KCl", "AB", "A"),
    ("ok", 0.1, NEW, "KBr", "AB2", "B"),  # not stable
    ("ok", -0.2, KNOWN, "KBr", "AB2", "B"),  # of a known formula
    ("failed", 0.0, NEW, "KBr", "AB2", "B"),
    ("invalid", np.nan, None, None, None, None),
)
SECOND = batch(("ok", 0.0, NEW, "NaCl", "AB", "B"), ("ok", 0.0, NEW, "LiF", None, None))


def test_distinct_ones_are_counted_once() -> None:
    found = found_in([FIRST, SECOND, FIRST])
    assert found is not None
    assert found.reward_calls.tolist() == [6, 8, 14]
    assert {kind: counts.tolist() for kind, counts in found.distinct.items()} == {
        "formula": [2, 3, 3],
        "prototype": [1, 1, 1],
        "framework": [1, 2, 2],
    }


def test_a_long_run_keeps_its_ends() -> None:
    found = found_in([SECOND] * 200)
    assert found is not None
    assert len(found.reward_calls) == 40
    assert (found.reward_calls[0], found.reward_calls[-1]) == (2, 400)


def test_nothing_is_known_without_stability_or_novelty() -> None:
    assert found_in([]) is None
    assert found_in([FIRST, FIRST.drop(columns="stability.value")]) is None
    assert found_in([FIRST.drop(columns="novelty.tier")]) is None


def test_mean_of_the_runs_of_a_recipe() -> None:
    a, b = found_in([FIRST, SECOND]), found_in([FIRST, FIRST.head(2)])
    found = mean_found([a, b])
    assert isinstance(found, Found)
    assert found.distinct["formula"].tolist() == [2, 2.5]
    assert mean_found([a, None]) is None
    assert mean_found([a, found_in([FIRST])]) is None  # a run that has lost a table
    assert mean_found([]) is None


def test_a_run_counts_to_its_checkpoint(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    run = finetune_run(str(folder))
    assert run is not None
    assert found_by(run) is None  # its reward knew no energies
    for step in range(1, STEPS + 1):
        run.folder.write_samples(step, pd.concat([SECOND.assign(formula=f"A{step}")] * (BATCH // 2)))
    found = found_by(run)
    assert found is not None
    assert found.distinct["formula"].tolist() == [1, 2, 3, 4]
    early = finetune_run(str(folder / "checkpoints" / "step_000002"))
    assert early is not None
    found = found_by(early)
    assert found is not None
    assert found.reward_calls.tolist() == [BATCH, 2 * BATCH]
