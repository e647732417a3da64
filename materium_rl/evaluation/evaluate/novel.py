"""The novelty ladder in an evaluation: references, verdicts in the table, what is novel in S.U.N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from materium_rl.evaluation.definitions import Flags
from materium_rl.evaluation.evaluate.inputs import kind_of
from materium_rl.evaluation.evaluate.judgements import WHY, add_judgements, narrow
from materium_rl.evaluation.novelty.known import Reference
from materium_rl.evaluation.novelty.ladder import Ladder, LadderTable
from materium_rl.resources import TRAINING_INDEX, policy_path
from materium_rl.rewards.base import Outcome
from materium_rl.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

LADDER = "ladder."
"""Prefix of the columns of ``LadderTable.to_frame``."""
NEW_FORMULA, NEW_STRUCTURE = "new_formula", "new_structure"
"""Levels that ``novel`` and ``novel_structure`` are."""

Structures = Sequence["Structure | None"]


def open_references(source: str | None = None, given: str | None = None) -> tuple[Reference, ...]:
    """What novelty is judged against: training structures, formulas of the Materials Project, what is given.

    The training structures are those of the policy that is evaluated, where it has an index of them, else
    those of the bundled policy.

    Args:
        source: What is evaluated; None for the training structures of the bundled policy.
        given: Structure files, an ``.npz`` index, a run for all that it has written, or a policy for its
            training structures.

    Raises:
        ConfigError: A policy without an index.
        StructureFileError: Nothing readable.
    """
    policy = source if source is not None and kind_of(source) == "policy" else None
    if policy is not None and not (policy_path(policy) / TRAINING_INDEX).is_file():
        policy = None
    references = [Reference.training(policy), Reference.materials_project()]
    return tuple(references) if given is None else (*references, _open(given))


def population_reference(references: Sequence[Reference]) -> Reference:
    """The reference of distances and coverage: what is given, else the training structures."""
    return references[0] if len(references[-1]) == 0 else references[-1]


def add_novelty(
    frame: pd.DataFrame,
    structures: Structures,
    relaxed: Structures | None,
    references: Sequence[Reference],
    tick: Callable[[], object] | None = None,
) -> tuple[pd.DataFrame, LadderTable]:
    """Judge N valid structures, as written and relaxed, and with that what is stable, unique and novel.

    Novel is what every reference calls so that can tell.

    Args:
        frame: N rows.
        structures: None for what is not valid.
        relaxed: None for what was not relaxed.
        references: From ``open_references``.
        tick: Called once for each structure and stage.

    Returns:
        The frame with the columns of the ladder, of the judges and ``why.novel``; the ladder itself.
    """
    import pandas as pd

    table = Ladder(references).climb(structures, relaxed, tick=tick)
    told = table.to_frame()
    names = [reference.name for reference in references]
    frame = narrow(frame, _new(told, names, NEW_FORMULA), _new(told, names, NEW_STRUCTURE))
    frame = frame.assign(**{f"{WHY}novel": _why(told, names)})
    if relaxed is None:
        frame = add_judgements(frame, None, {})
    else:
        after = told[[c for c in told if c.startswith("relaxed.")]].rename(
            columns=lambda c: c.removeprefix("relaxed.")
        )
        novel = {
            "novel": _new(after, names, NEW_FORMULA),
            "novel_structure": _new(after, names, NEW_STRUCTURE),
        }
        frame = add_judgements(frame, _groups(after), novel)
        frame = frame.assign(**{f"{WHY}novel_relaxed": _why(after, names)})
    told.index = frame.index
    return pd.concat([frame, told.add_prefix(LADDER)], axis=1), table


def _open(given: str) -> Reference:
    path = Path(given).expanduser()
    if path.is_dir() and RunFolder(path).sample_tables():
        return Reference.of_run(path)
    if path.suffix != ".npz" and kind_of(given) == "policy":
        known = Reference.training(given)
        return Reference("reference", f"the training data of {given}", known.index)
    return Reference.from_file("reference", path)


def _new(told: pd.DataFrame, names: Sequence[str], level: str) -> Flags:
    """New at a level to every reference that can tell; False where there is no verdict."""
    new = np.asarray(told["outcome"] == Outcome.OK.value, dtype=bool)
    for name in names:
        column = told.get(f"{name}.{level}")
        if column is not None and column.notna().any():
            new = new & column.fillna(value=False).to_numpy(dtype=bool)
    return new


def _groups(told: pd.DataFrame) -> list[int]:
    """Equal structures have equal numbers; -1 for what has no verdict."""
    rows = np.arange(len(told))
    first = told["duplicate_of"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    groups = np.where(np.isnan(first), rows, first).astype(np.int64)
    return [int(g) for g in np.where(told["outcome"] == Outcome.OK.value, groups, -1)]


def _why(told: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The reasons against all references, or why there is no verdict."""
    return [
        "; ".join(f"{name}: {row[f'{name}.why']}" for name in names)
        if row["outcome"] == Outcome.OK.value
        else str(row["reason"])
        for row in told.to_dict("records")
    ]
