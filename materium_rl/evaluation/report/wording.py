"""Names that people read: space groups, formulas, rungs of novelty."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from markupsafe import Markup, escape

from materium_rl.rewards.catalogue.novelty import Tier

TIERS: Mapping[str, str] = {
    Tier.KNOWN: "known structure",
    Tier.NEW_ARRANGEMENT: "new arrangement",
    Tier.SUBSTITUTION: "substitution",
    Tier.KNOWN_PROTOTYPE: "known prototype",
    Tier.NEW_PROTOTYPE: "new prototype",
}
REASONS: Mapping[str, str] = {
    Tier.NEW_ARRANGEMENT: "The formula is known; no training structure of it has this arrangement.",
    Tier.SUBSTITUTION: "New formula, but a known structure with elements of the same families swapped.",
    Tier.KNOWN_PROTOTYPE: "New formula in a known prototype, with elements that no relative has.",
    Tier.NEW_PROTOTYPE: "New formula; no reference has this prototype or comes near it.",
}
RUNGS: Mapping[str, str] = {TIERS[tier]: REASONS[tier] for tier in REASONS}
"""Name of a rung -> what it means."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@cache
def space_group(number: int) -> str:
    """``P6₃/mmc (194)``."""
    from moyopy import SpaceGroupType

    symbol = SpaceGroupType(number).hm_short.replace(" ", "")
    return f"{re.sub(r'_([0-9])', lambda m: m[1].translate(_SUBSCRIPTS), symbol)} ({number})"


def formula_markup(formula: object) -> Markup:
    """A formula with its numbers set low; any other text is only escaped."""
    return Markup(re.sub(r"(?<=[A-Za-z)])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", str(escape(formula))))


def in_words(value: object) -> str:
    """A setting as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(in_words(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
