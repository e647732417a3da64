"""From one scored table of samples to the funnel and to what says how honest its novelty is.

Every share of the funnel is of the structures *requested*. Means and shares that describe the
composition are of the valid samples, and again of all that could be parsed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.definitions import (
    COMMONEST,
    DEFINITIONS,
    FUNNEL,
    GAP,
    N_BOOT,
    NEW_FORMULA_TIERS,
    NOVELTY,
    PER,
    STABILITY,
    STABLE_BELOW,
    VALIDITY,
    Flags,
)
from materium_rl.evaluation.statistics import Bootstrap, Statistic, distinct, divergence, mean, share
from materium_rl.evaluation.variety import (
    COLOURING,
    FAMILY_SWAP,
    NO_SWAP,
    RARE_EARTH_SWAP,
    sun_kinds,
    swap_columns,
    swap_statistics,
)
from materium_rl.rewards.catalogue.novelty import Tier
from materium_rl.rewards.elements import ANION_FORMERS, RARE_EARTHS
from materium_rl.structures import structures_match

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval.

    Args:
        value: NaN if it has no meaning here (a share of nothing, a reward that was not measured).
        low: Lower end; NaN where there is nothing to resample.
        high: Upper end.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def structure_groups(structures: Sequence[Structure | None], formulas: Sequence[str | None]) -> list[int]:
    """Number N structures so that two have the same number if they are the same crystal.

    Each is compared with the first of every group of its reduced formula, in order.

    Args:
        structures: N structures; None for one to leave out.
        formulas: Their reduced formulas.

    Returns:
        N group numbers, counted from 0; -1 for what was left out.
    """
    firsts: dict[str, list[tuple[int, Structure]]] = {}
    groups: list[int] = []
    count = 0
    for structure, formula in zip(structures, formulas, strict=True):
        if structure is None or formula is None:
            groups.append(-1)
            continue
        known = firsts.setdefault(formula, [])
        same = next((group for group, first in known if structures_match(structure, first)), None)
        if same is None:
            same = count
            known.append((same, structure))
            count += 1
        groups.append(same)
    return groups


def add_verdicts(
    frame: pd.DataFrame,
    groups: Sequence[int],
    *,
    target: float | NDArray[np.float64],
    width: float,
    rare_earth_formulas: Container[str] = frozenset(),
) -> pd.DataFrame:
    """Add group numbers, True or False per stage of the funnel, and ``variety.swap_columns``.

    Stages that need a reward that is not in the table are False.

    Args:
        frame: ``ScoreTable.to_frame()`` with the reward ``validity``, N rows.
        groups: From ``structure_groups``.
        target: Wanted band gap in eV, of all or of each of the N.
        width: Largest distance from it in eV.
        rare_earth_formulas: Merged formulas of the training structures with rare earths.
    """
    group = np.array(groups, dtype=np.int64)
    valid = _outcome_is(frame, VALIDITY, "ok")
    e_above_hull, gap = _values(frame, STABILITY), _values(frame, GAP)
    ranked = valid & _outcome_is(frame, NOVELTY, "ok")
    stable = valid & (e_above_hull < STABLE_BELOW)
    novel = ranked & _tier_is(frame, *NEW_FORMULA_TIERS)
    novel_structure = ranked & ~_tier_is(frame, Tier.KNOWN)
    sun = first_of_each(group, stable & novel)
    on_target = valid & (np.abs(gap - target) <= width)
    found = frame.assign(
        group=group,
        parsed=frame["n_sites"].notna().to_numpy(),
        valid=valid,
        scored=ranked & np.isfinite(e_above_hull),
        failed=valid
        & np.logical_or.reduce([_outcome_is(frame, r, "failed") for r in (STABILITY, NOVELTY, GAP)]),
        stable=stable,
        on_hull=valid & (e_above_hull <= 0),
        unique=first_of_each(group, valid),
        novel=novel,
        novel_structure=novel_structure,
        sun=sun,
        sun_structure=first_of_each(group, stable & novel_structure),
        on_target=on_target,
        sun_on_target=sun & on_target,
    )
    return found.assign(**swap_columns(found, rare_earth_formulas))


def figures(
    verdicts: pd.DataFrame, training_elements: Mapping[str, int], *, n_boot: int = N_BOOT, seed: int = 0
) -> dict[str, Figure]:
    """Every figure of ``DEFINITIONS`` with its interval.

    Args:
        verdicts: From ``add_verdicts``, one row per structure requested.
        training_elements: Element -> number of training structures with it.
        n_boot: Bootstrap resamples.
        seed: Of the resamples.
    """
    bootstrap = Bootstrap(len(verdicts), n_boot=n_boot, seed=seed)
    found = statistics(verdicts, training_elements)
    return {
        d.key: Figure(found[d.key].value, *bootstrap.interval(found[d.key]))
        if d.key in found
        else Figure(math.nan)
        for d in DEFINITIONS
    }


def statistics(verdicts: pd.DataFrame, training_elements: Mapping[str, int]) -> dict[str, Statistic]:
    """What every figure of ``DEFINITIONS`` that was measured is counted from; arguments as in ``figures``."""
    everything = np.ones(len(verdicts), dtype=bool)
    flags = {d.key: verdicts[d.key].to_numpy() for d in FUNNEL if d.key in verdicts}
    found = {key: share(values, everything) for key, values in flags.items()}
    found["on_target_of_stable"] = share(flags["on_target"], flags["stable"])
    found |= _distinct_structures(verdicts)
    found |= _variety(verdicts)
    for among, suffix in (("valid", ""), ("parsed", "_parsed")):
        described = _composition(verdicts, verdicts[among].to_numpy())
        found |= {f"{key}{suffix}": statistic for key, statistic in described.items()}
    found |= _elements(verdicts, training_elements)
    measured = {name for name in (STABILITY, NOVELTY, GAP) if f"{name}.outcome" in verdicts}
    return {d.key: found[d.key] for d in DEFINITIONS if {*d.needs} <= measured}


def element_counts(formulas: Iterable[str]) -> Counter[str]:
    """Element -> number of formulas that have it."""
    return Counter(symbol for formula in formulas for symbol in elements_of(formula))


def elements_of(formula: str) -> set[str]:
    """Element symbols in a formula, brackets or not: ``Lu(SiOs)2`` -> Lu, Si, Os."""
    return set(re.findall(r"[A-Z][a-z]?", formula))


def _distinct_structures(verdicts: pd.DataFrame) -> dict[str, Statistic]:
    """Shares of which of equal samples only one counts."""
    stable = verdicts["stable"].to_numpy()
    among = {
        "unique": verdicts["valid"].to_numpy(),
        "sun": stable & verdicts["novel"].to_numpy(),
        "sun_structure": stable & verdicts["novel_structure"].to_numpy(),
    }
    group = verdicts["group"].to_numpy()
    found = {key: distinct(np.where(flags, group, -1)) for key, flags in among.items()}
    on_target = np.isin(group, group[verdicts["sun_on_target"]])
    return found | {"sun_on_target": distinct(np.where(among["sun"] & on_target, group, -1))}


def _variety(verdicts: pd.DataFrame) -> dict[str, Statistic]:
    """Whether the S.U.N. samples are different things, or one thing in many colours."""
    valid, sun = verdicts["valid"].to_numpy(), verdicts["sun"].to_numpy()
    top = [label for label, _ in Counter(verdicts["prototype"][valid].dropna()).most_common(COMMONEST)]
    in_top = valid & verdicts["prototype"].isin(top).to_numpy()
    kinds = sun_kinds(verdicts)
    swaps = swap_statistics(verdicts)
    return {
        "sun_prototypes": distinct(kinds["prototype"], per=PER),
        "sun_frameworks": distinct(kinds["framework"], per=PER),
        "sun_merged_formulas": distinct(kinds["merged formula"], per=PER),
        "sun_substitutions": share(_tier_is(verdicts, Tier.SUBSTITUTION), sun),
        "sun_new": swaps[NO_SWAP],
        "sun_colourings": swaps[COLOURING],
        "sun_family_swaps": swaps[FAMILY_SWAP],
        "sun_rare_earth_swaps": swaps[RARE_EARTH_SWAP],
        "top5": share(in_top, np.ones(len(verdicts), dtype=bool)),
    }


def _composition(verdicts: pd.DataFrame, among: Flags) -> dict[str, Statistic]:
    """What the samples flagged in ``among`` are made of."""
    symbols = [elements_of(formula) if isinstance(formula, str) else set() for formula in verdicts["formula"]]
    rare = np.array([not RARE_EARTHS.isdisjoint(s) for s in symbols])
    anion = np.array([not ANION_FORMERS.isdisjoint(s) for s in symbols])
    return {
        "mean_sites": mean(verdicts["n_sites"].to_numpy(dtype=np.float64, na_value=0.0), among),
        "mean_elements": mean([len(s) for s in symbols], among),
        "rare_earth": share(rare, among),
        "anion": share(anion, among),
    }


def _elements(verdicts: pd.DataFrame, training_elements: Mapping[str, int]) -> dict[str, Statistic]:
    """Which elements the valid samples hold, and how far they are from the training data's."""
    among = verdicts["valid"].to_numpy()
    symbols = [elements_of(f) if use else set() for f, use in zip(verdicts["formula"], among, strict=True)]
    used = Counter(symbol for row in symbols for symbol in row)
    lost = np.array([sum(used[symbol] == 1 for symbol in row) for row in symbols], dtype=np.float64)
    ones = np.ones(len(verdicts))
    names = sorted({*used, *training_elements})
    holds = np.array([[name in row for name in names] for row in symbols], dtype=np.float64)
    return {
        "elements": Statistic(len(verdicts) * lost, ones, len(used) - float(lost.sum())),
        "element_divergence": divergence(holds, [training_elements.get(name, 0) for name in names]),
    }


def ratio_of(bootstrap: Bootstrap, numerator: NDArray[np.generic], denominator: Flags) -> Figure:
    """Sum of the numerator over the number of rows in the denominator, with its interval."""
    found = (share if numerator.dtype == np.bool_ else mean)(numerator, denominator)
    return Figure(found.value, *bootstrap.interval(found))


def first_of_each(groups: NDArray[np.int64], flags: Flags) -> Flags:
    """Those of the flagged rows that are the first of their group among the flagged."""
    first = np.zeros(len(groups), dtype=bool)
    rows = np.flatnonzero(flags)
    _, places = np.unique(groups[rows], return_index=True)
    first[rows[places]] = True
    return first


def _outcome_is(frame: pd.DataFrame, reward: str, outcome: str) -> Flags:
    return _column_is_in(frame, f"{reward}.outcome", [outcome])


def _tier_is(frame: pd.DataFrame, *tiers: Tier) -> Flags:
    return _column_is_in(frame, "novelty.tier", [tier.value for tier in tiers])


def _column_is_in(frame: pd.DataFrame, column: str, values: Sequence[str]) -> Flags:
    if column not in frame:
        return np.zeros(len(frame), dtype=bool)
    return np.asarray(frame[column].isin(values), dtype=bool)


def _values(frame: pd.DataFrame, reward: str) -> NDArray[np.float64]:
    column = f"{reward}.value"
    return np.asarray(frame[column] if column in frame else np.full(len(frame), np.nan), dtype=np.float64)
