"""Whether S.U.N. samples are different things, or one thing with its elements exchanged."""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.statistics import Statistic, distinct, minus
from materium_rl.rewards.catalogue.novelty import Tier
from materium_rl.rewards.catalogue.uniqueness import merged_formula
from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.references import ReferenceIndex

if TYPE_CHECKING:
    import pandas as pd

NO_SWAP, FAMILY_SWAP, RARE_EARTH_SWAP = "none", "family", "rare earth"
KINDS = ("structure", "formula", "merged formula", "prototype", "framework")
"""What S.U.N. samples are told apart by; see ``sun_kinds``."""

Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]


def swap_columns(verdicts: pd.DataFrame, rare_earth_formulas: Container[str]) -> dict[str, list[str | None]]:
    """What each sample is apart from exchanged elements.

    - ``swap_of_training``: ``rare earth`` if it is in a prototype of the training data and, with all rare
      earths taken as one element, has a formula of them; ``family`` if only its chemical families agree.
    - ``swap``: the same for S.U.N. samples, where an earlier S.U.N. sample (formula and framework)
      counts like the training data; ``none`` if there is nothing of the kind in either.

    Args:
        verdicts: N rows with the flags of ``add_verdicts``.
        rare_earth_formulas: Merged formulas of the training structures with rare earths.

    Returns:
        The two columns, with None for a sample that is neither or not S.U.N.
    """
    formulas = _merged_formulas(verdicts)
    substitution = verdicts["novelty.tier"] == Tier.SUBSTITUTION.value
    known: list[str | None] = [
        None if not swapped else RARE_EARTH_SWAP if formula in rare_earth_formulas else FAMILY_SWAP
        for swapped, formula in zip(substitution, formulas, strict=True)
    ]
    new, apart = _apart(verdicts.assign(swap_of_training=known))
    named = np.where(_firsts(new), NO_SWAP, np.where(_firsts(apart), FAMILY_SWAP, RARE_EARTH_SWAP))
    swap = [str(name) if flag else None for name, flag in zip(named, verdicts["sun"], strict=True)]
    return {"swap_of_training": known, "swap": swap}


def swap_statistics(verdicts: pd.DataFrame) -> dict[str, Statistic]:
    """Shares of the N rows by the column ``swap``; together they are the S.U.N. share."""
    new, apart = (distinct(codes) for codes in _apart(verdicts))
    every = distinct(sun_kinds(verdicts)["structure"])
    return {NO_SWAP: new, FAMILY_SWAP: minus(apart, new), RARE_EARTH_SWAP: minus(every, apart)}


def sun_kinds(verdicts: pd.DataFrame) -> dict[str, Codes]:
    """Numbers of what each sample that is stable and novel shows, by each of ``KINDS``.

    Samples that are the same structure count as the first of them, so that the number of distinct codes
    over all rows is that of the table.

    Args:
        verdicts: N rows with the flags of ``add_verdicts``.

    Returns:
        Kind -> N numbers; -1 for what is not stable and novel, or has no such label.
    """
    labels = {
        "structure": verdicts["group"].astype(str),
        "formula": verdicts["formula"],
        "merged formula": _merged_formulas(verdicts),
        "prototype": verdicts["prototype"],
        "framework": verdicts["framework"],
    }
    first = _first_alike(verdicts)
    return {kind: _codes(labels[kind], first) for kind in KINDS}


@cache
def bundled_rare_earth_formulas() -> frozenset[str]:
    """Merged formulas of the bundled training structures with rare earths."""
    found = {f for f in ReferenceIndex.bundled().formulas if any(symbol in f for symbol in RARE_EARTHS)}
    return frozenset(merged_formula(formula) for formula in found)


def _apart(verdicts: pd.DataFrame) -> tuple[Codes, Codes]:
    """Codes of what stays apart when elements are exchanged within families, and only among rare earths.

    Both without what is so made from a training structure: the first codes differ in more than the second.
    """
    first, framework = _first_alike(verdicts), " " + verdicts["framework"].astype(str)
    known = verdicts["swap_of_training"]
    family = _codes(verdicts["family_formula"] + framework, first)
    merged = _codes(_merged_formulas(verdicts) + framework, first)
    return _without(family, known.notna()), _without(merged, known == RARE_EARTH_SWAP)


def _without(codes: Codes, known: pd.Series) -> Codes:
    """The codes but those that a known row has."""
    return np.where(np.isin(codes, codes[known]), -1, codes)


def _merged_formulas(verdicts: pd.DataFrame) -> pd.Series:
    return verdicts["formula"].map(merged_formula, na_action="ignore")


def _first_alike(verdicts: pd.DataFrame) -> Codes:
    """For each of N rows the first stable and novel row of its structure; -1 if it is not both itself."""
    rows = np.flatnonzero(verdicts["stable"] & verdicts["novel"])
    _, places, inverse = np.unique(verdicts["group"].to_numpy()[rows], return_index=True, return_inverse=True)
    first = np.full(len(verdicts), -1)
    first[rows] = rows[places[inverse]]
    return first


def _codes(labels: pd.Series, first: Codes) -> Codes:
    """Labels of the rows in ``first`` as numbers; -1 for no row and for no label."""
    import pandas as pd

    numbers, _ = pd.factorize(labels)
    return np.where(first >= 0, numbers[first], -1)


def _firsts(codes: Codes) -> Flags:
    """The first row of each code >= 0."""
    flags = np.zeros(len(codes), dtype=bool)
    _, places = np.unique(codes, return_index=True)
    flags[places] = True
    return flags & (codes >= 0)
