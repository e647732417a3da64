"""What each judge says of each structure, and why every verdict is as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.definitions import STABILITY, STABLE_BELOW, Flags
from materium_rl.evaluation.evaluate.judges import EVALUATOR, RELAXED, REWARD, Panel
from materium_rl.evaluation.evaluate.properties import Target, values_of
from materium_rl.evaluation.metrics import first_of_each
from materium_rl.evaluation.statistics import Statistic, distinct, share
from materium_rl.rewards.potentials.catalogue import find_potential

if TYPE_CHECKING:
    import pandas as pd

ON_HULL = 0.0
"""eV/atom above the hull up to which a structure is stable; below ``STABLE_BELOW`` it is metastable."""
WHY = "why."
"""Prefix of the columns with the reason for a verdict."""
CHARGE = "charge_neutrality"
SUNS = {
    "sun": ("stable", "novel"),
    "msun": ("metastable", "novel"),
    "sun_structure": ("stable", "novel_structure"),
    "msun_structure": ("metastable", "novel_structure"),
}
"""Kinds of S.U.N.: what they ask for beside being unique."""
JUDGED = ("stable", "metastable", *SUNS)
"""Verdicts of a judge; columns ``<judge>.<verdict>``."""


def judges_of(frame: pd.DataFrame) -> list[str]:
    """The judges that have measured something, the one that counts last."""
    columns = {REWARD: f"{STABILITY}.value", EVALUATOR: "evaluator.value", RELAXED: "relaxed.value"}
    return [key for key, column in columns.items() if column in frame]


def energies(frame: pd.DataFrame, judge: str, *, raw: bool = False) -> NDArray[np.float64]:
    """Energy above the hull of N structures in eV/atom by one judge; NaN where there is none.

    Args:
        frame: N rows.
        judge: Its key.
        raw: Below the hull it is negative, not 0.
    """
    prefix = STABILITY if judge == REWARD else judge
    column = f"{prefix}.{'e_above_hull_raw' if raw else 'value'}"
    if column not in frame:
        return np.full(len(frame), math.nan)
    return np.asarray(frame[column].astype("Float64").to_numpy(dtype=np.float64, na_value=math.nan))


def version_of(judge: str, panel: Panel) -> str:
    """Name and version of the potential of a judge: ``SevenNet-0, sevenn 0.13.0``."""
    if judge == REWARD:
        return find_potential(panel.reward.calculator, panel.reward.scale).version
    return find_potential(panel.potential, panel.scale).version


def title_of(judge: str, panel: Panel) -> str:
    """Who judges, in words: ``SevenNet-0, relaxed (50 steps)``."""
    name = version_of(judge, panel).partition(",")[0]
    steps = {REWARD: panel.reward.relax, EVALUATOR: 0, RELAXED: panel.config.relax}[judge]
    relaxer = panel.reward.relaxer if judge == REWARD else panel.config.relaxer
    by = "" if relaxer is None else f" by {find_potential(relaxer).version.partition(',')[0]}"
    return f"{name}, relaxed{by} ({steps} steps)" if steps else f"{name}, as written"


def add_judgements(
    frame: pd.DataFrame, relaxed_groups: Sequence[int] | None, relaxed_novel: Mapping[str, Flags]
) -> pd.DataFrame:
    """Add the verdicts ``JUDGED`` of every judge.

    Stable is 0 eV/atom above the hull or below it, metastable below ``STABLE_BELOW``. S.U.N. asks for stable,
    unique and novel by formula, meta-S.U.N. for metastable; ``*_structure`` for novel by structure only. Of
    equal structures the first that is stable and novel counts.

    Args:
        frame: With ``group``, ``valid``, ``novel`` and ``novel_structure``.
        relaxed_groups: As ``group``, of the relaxed structures.
        relaxed_novel: ``novel`` and ``novel_structure`` of the relaxed structures.
    """
    valid = frame["valid"].to_numpy()
    for judge in judges_of(frame):
        energy = energies(frame, judge)
        groups = frame["group"].to_numpy()
        novel = {key: frame[key].to_numpy() for key in ("novel", "novel_structure")}
        if judge == RELAXED and relaxed_groups is not None:
            groups, novel = np.asarray(relaxed_groups), dict(relaxed_novel)
        told = {"group": groups, **novel} if judge == RELAXED else {}
        found = {
            "stable": valid & (energy <= ON_HULL),
            "metastable": valid & (energy < STABLE_BELOW),
        }
        for key, (stable, new) in SUNS.items():
            found[key] = first_of_each(groups, found[stable] & novel[new])
        frame = frame.assign(**{f"{judge}.{key}": values for key, values in {**told, **found}.items()})
    return frame


def judge_statistics(frame: pd.DataFrame) -> dict[str, Statistic]:
    """What ``<judge>.<verdict>`` is counted from, for every judge and verdict; shares of the requested."""
    everything = np.ones(len(frame), dtype=np.bool_)
    found = {}
    for judge in judges_of(frame):
        prefix = f"{RELAXED}." if judge == RELAXED else ""
        for key in ("stable", "metastable"):
            found[f"{judge}.{key}"] = share(frame[f"{judge}.{key}"].to_numpy(), everything)
        for key, (stable, new) in SUNS.items():
            flags = frame[f"{judge}.{stable}"].to_numpy() & frame[f"{prefix}{new}"].to_numpy()
            found[f"{judge}.{key}"] = distinct(np.where(flags, frame[f"{prefix}group"].to_numpy(), -1))
    return found


def narrow(frame: pd.DataFrame, new_formula: Flags, new_structure: Flags) -> pd.DataFrame:
    """Count as novel only what a further reference does not know either."""
    novel = frame["novel"].to_numpy() & new_formula
    novel_structure = frame["novel_structure"].to_numpy() & new_structure
    group, stable = frame["group"].to_numpy(), frame["stable"].to_numpy()
    sun = first_of_each(group, stable & novel)
    return frame.assign(
        novel=novel,
        novel_structure=novel_structure,
        sun=sun,
        sun_structure=first_of_each(group, stable & novel_structure),
        sun_on_target=sun & frame["on_target"].to_numpy(),
        swap=[swap if flag else None for swap, flag in zip(frame["swap"], sun, strict=True)],
    )


def add_reasons(
    frame: pd.DataFrame, panel: Panel, targets: Sequence[Target], places: Sequence[str]
) -> pd.DataFrame:
    """Add a column ``why.<verdict>`` with the reason in words for each verdict.

    Args:
        frame: After ``add_judgements``.
        panel: Who judges.
        targets: What is wanted.
        places: Where each row comes from.
    """
    records = frame.to_dict("records")
    firsts = _first_valid(frame)
    why: dict[str, list[str]] = {
        "parsed": [_parsed(r) for r in records],
        "valid": [_valid(r) for r in records],
        "charge_neutral": [_charge(r) for r in records],
        "unique": [_unique(i, r, firsts, places) for i, r in enumerate(records)],
    }
    for judge in judges_of(frame):
        title = title_of(judge, panel)
        why[judge] = [_stable(r, judge, title) for r in records]
    for target in targets:
        values = values_of(frame, target.name)
        why[f"target.{target.name}"] = [
            "no value" if math.isnan(value) else f"{value:.4g}, wanted {target.text}" for value in values
        ]
    return frame.assign(**{f"{WHY}{key}": texts for key, texts in why.items()})


def _parsed(record: Mapping[Any, Any]) -> str:
    return (
        f"{record['formula']}, {record['n_sites']:.0f} sites" if record["parsed"] else str(record["reason"])
    )


def _valid(record: Mapping[Any, Any]) -> str:
    if not record["parsed"]:
        return "not parsed"
    if not record["valid"]:
        return str(record["validity.reason"])
    return (
        f"closest sites at {record['validity.min_distance_ratio']:.2f} of their covalent radii, "
        f"{record['validity.density']:.2f} g/cm3, widest empty layer {record['validity.widest_gap']:.1f} Å"
    )


def _charge(record: Mapping[Any, Any]) -> str:
    if record[f"{CHARGE}.outcome"] != "ok":
        return str(record[f"{CHARGE}.reason"])
    charge = record[f"{CHARGE}.value"]
    if charge == 0:
        return "the usual oxidation states can add up to 0, or all elements are metals or metalloids"
    return f"the usual oxidation states leave at least {charge:.3f} e/atom"


def _unique(row: int, record: Mapping[Any, Any], firsts: NDArray[np.int64], places: Sequence[str]) -> str:
    if not record["valid"]:
        return "not valid"
    first = int(firsts[row])
    return (
        "the first of its structure"
        if first == row
        else f"the same structure as row {first}, {places[first]}"
    )


def _first_valid(frame: pd.DataFrame) -> NDArray[np.int64]:
    _, firsts, back = np.unique(frame["group"].to_numpy(), return_index=True, return_inverse=True)
    return np.asarray(firsts[back], dtype=np.int64)


def _stable(record: Mapping[Any, Any], judge: str, title: str) -> str:
    prefix = STABILITY if judge == REWARD else judge
    outcome = record[f"{prefix}.outcome"]
    if not record["valid"]:
        return "not valid"
    if outcome == "ok":
        return f"{record[f'{prefix}.value']:.3f} eV/atom above the hull ({title})"
    return f"{outcome}: {record[f'{prefix}.reason']}"
