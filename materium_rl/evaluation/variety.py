"""Whether S.U.N. samples are different things, or one thing with its elements exchanged."""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from itertools import pairwise
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

NO_SWAP, COLOURING, FAMILY_SWAP, RARE_EARTH_SWAP = "none", "colouring", "family", "rare earth"
SWAPS = (NO_SWAP, COLOURING, FAMILY_SWAP, RARE_EARTH_SWAP)
"""What an S.U.N. sample is apart from exchanged elements, from nothing but them to nothing of them; see
``swap_columns``."""
KINDS = ("structure", "formula", "merged formula", "prototype", "framework")
"""What S.U.N. samples are told apart by; see ``sun_kinds``."""

Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]


def swap_columns(verdicts: pd.DataFrame, rare_earth_formulas: Container[str]) -> dict[str, list[str | None]]:
    """What each sample is apart from exchanged elements.

    ``swap_of_training`` compares with the training structures:

    - ``rare earth``: in a prototype of theirs and, with all rare earths taken as one element, with a
      formula of theirs;
    - ``family``: in a prototype of theirs with an element of the same chemical family on every place;
    - ``colouring``: in a prototype of theirs, with elements that no relative of it has.

    ``swap`` does so for S.U.N. samples, and S.U.N. samples that came earlier count like the training
    structures (same framework, and the same formula, formula in families, or proportions). ``none`` is
    the first sample of an arrangement that the training structures lack.

    Args:
        verdicts: N rows with the flags of ``add_verdicts``.
        rare_earth_formulas: Merged formulas of the training structures with rare earths.

    Returns:
        The two columns; None for a sample that is no such thing, or not S.U.N.
    """
    of_tier = {Tier.SUBSTITUTION.value: FAMILY_SWAP, Tier.KNOWN_PROTOTYPE.value: COLOURING}
    tiers = verdicts["novelty.tier"] if "novelty.tier" in verdicts else [None] * len(verdicts)
    known = [
        RARE_EARTH_SWAP if swap == FAMILY_SWAP and formula in rare_earth_formulas else swap
        for swap, formula in zip(map(of_tier.get, tiers), _merged_formulas(verdicts), strict=True)
    ]
    new, colours, families = map(_firsts, _apart(verdicts.assign(swap_of_training=known)))
    named = np.select([new, colours, families], SWAPS[:-1], SWAPS[-1])
    swap = [str(name) if flag else None for name, flag in zip(named, verdicts["sun"], strict=True)]
    return {"swap_of_training": known, "swap": swap}


def swap_statistics(verdicts: pd.DataFrame) -> dict[str, Statistic]:
    """Shares of the N rows by the column ``swap``; together they are the S.U.N. share."""
    rising = [distinct(codes) for codes in (*_apart(verdicts), sun_kinds(verdicts)["structure"])]
    parts = [rising[0], *(minus(more, less) for less, more in pairwise(rising))]
    return dict(zip(SWAPS, parts, strict=True))


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


def _apart(verdicts: pd.DataFrame) -> tuple[Codes, Codes, Codes]:
    """Codes of what stays apart when elements are exchanged at will, within families, among rare earths.

    Each without what is so made from a training structure. What has one code in one of them has one in those
    before it too, so the numbers of distinct codes rise from one to the next.
    """
    first, framework = _first_alike(verdicts), " " + verdicts["framework"].astype(str)
    known, families = verdicts["swap_of_training"], verdicts["family_formula"].astype("str")
    proportions = families.map(_proportions, na_action="ignore").astype("str")
    return (
        _without(_codes(proportions + framework, first), known.notna()),
        _without(_codes(families + framework, first), known.isin([FAMILY_SWAP, RARE_EARTH_SWAP])),
        _without(_codes(_merged_formulas(verdicts) + framework, first), known == RARE_EARTH_SWAP),
    )


def _proportions(family_formula: str) -> str:
    """Amounts without the families: ``group_11:1 rare_earth:2 triel:1`` -> ``1 1 2``."""
    return " ".join(sorted(part.rpartition(":")[2] for part in family_formula.split()))


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
