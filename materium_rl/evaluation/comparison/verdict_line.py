"""One line in words on what fine-tuning did; computed, and what novelty was bought with comes first."""

from __future__ import annotations

import math
from collections.abc import Mapping

from materium_rl.evaluation.comparison.differences import Change, Changes
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.table import format_times
from materium_rl.evaluation.variety import COLOURING, FAMILY_SWAP, NO_SWAP, RARE_EARTH_SWAP

# Where novelty is bought: the limits that a fine-tuned policy should keep to.
MOST_IN_FIVE = 0.30
RARE_EARTH_RISE = 1.30
ANION_KEPT = 0.70
SITES_KEPT = 0.20
MOSTLY_SWAPS = 0.90

Figures = Mapping[str, Figure]


def verdict(before: Figures, after: Figures, changes: Changes, *, seeds: int | None = None) -> str:
    """Say what happened, no more than the intervals allow.

    For example: ``S.U.N. 6.1 -> 31.2 % (+25.1, 95 % CI 22.0..28.1); 3.1x as many distinct S.U.N.
    prototypes (2.4..4.0), 2.2x the frameworks (1.6..2.9); 12 % of the gain is rare-earth substitution, 20 %
    other substitution in a family, 40 % other colouring, 28 % new arrangements; five commonest prototypes
    12 % of samples; one training seed``.

    Args:
        before: Figures of the baseline.
        after: Figures of the other.
        changes: How they differ.
        seeds: Training seeds of the other; None if it was not fine-tuned.
    """
    sun = changes.figures.get("sun")
    if sun is None or math.isnan(sun.difference.value):
        return "S.U.N.: nothing to compare"
    warnings = _warnings(before, after, changes)
    parts = [f"{''.join(warnings)}{_shift('S.U.N.', 'sun', before, after, sun)}"]
    parts += [*_variety(changes), *_gain(changes)]
    if on_target := changes.figures.get("on_target_of_stable"):
        parts.append(
            _shift("on target of the stable", "on_target_of_stable", before, after, on_target)
            + ("" if on_target.is_certain else ", within the uncertainty")
        )
    parts.append(f"five commonest prototypes {100 * after['top5'].value:.0f} % of samples")
    if drifted := _drifted(before, after, changes):
        parts.append(f"drifted: {', '.join(drifted)}")
    if seeds:
        parts.append("one training seed" if seeds == 1 else f"{seeds} training seeds")
    return "; ".join(parts)


def swapped(changes: Changes) -> float:
    """Share of the gain in S.U.N. that is other elements in arrangements seen before; NaN without one."""
    return 1 - changes.gain[NO_SWAP].value if changes.gain else math.nan


def _warnings(before: Figures, after: Figures, changes: Changes) -> list[str]:
    """What the line opens with."""
    sun = changes.figures["sun"].difference
    gained = sun.low > 0
    warnings = []
    if swapped(changes) >= MOSTLY_SWAPS:
        warnings.append(f"substitution only, {_percent(swapped(changes))} of the gain: ")
    if signs := _collapse(before, after, changes):
        warnings.append(f"{'novelty by collapse' if gained else 'collapse'}: {', '.join(signs)}; ")
    if not gained:
        warnings.append("loss: " if sun.high < 0 else "within the uncertainty: ")
    return warnings


def _variety(changes: Changes) -> list[str]:
    """How many times the distinct things among S.U.N., in one part; none where there were none."""
    said = []
    titles = {"sun_prototypes": "as many distinct S.U.N. prototypes", "sun_frameworks": "the frameworks"}
    for key, title in titles.items():
        change = changes.figures[key]
        if math.isnan(change.ratio.value):
            continue
        said.append(f"{format_times(change.ratio.value)} {title} ({_span(change.ratio)})")
        if not change.is_certain:
            said[-1] += ", within the uncertainty"
    return [", ".join(said)] if said else []


def _gain(changes: Changes) -> list[str]:
    if not changes.gain:
        return []
    kinds = (RARE_EARTH_SWAP, FAMILY_SWAP, COLOURING, NO_SWAP)
    doubt = "" if changes.figures["sun_new"].is_certain else ", within the uncertainty"
    rare, other, colours, new = (_percent(changes.gain[kind].value) for kind in kinds)
    return [
        f"{rare} of the gain is rare-earth substitution, {other} other substitution in a family, {colours} "
        f"other colouring, {new} new arrangements{doubt}"
    ]


def _collapse(before: Figures, after: Figures, changes: Changes) -> list[str]:
    """Signs that the samples have become one kind of thing."""
    signs = []
    top5, rare, swaps = after["top5"], after["rare_earth"], after["sun_substitutions"]
    if top5.value > MOST_IN_FIVE and _rose(changes, "top5"):
        signs.append(f"{100 * top5.value:.0f} % of samples in five prototypes")
    if rare.value > RARE_EARTH_RISE * before["rare_earth"].value and _rose(changes, "rare_earth"):
        signs.append(
            f"{100 * rare.value:.0f} % with rare earths (before {100 * before['rare_earth'].value:.0f} %)"
        )
    if swaps.value > MOSTLY_SWAPS and _rose(changes, "sun_substitutions"):
        signs.append(f"{100 * swaps.value:.0f} % of S.U.N. by swapping elements in training structures")
    if changes.figures["sun_prototypes"].difference.high < 0 and _rose(changes, "sun"):
        signs.append("fewer distinct prototypes among S.U.N.")
    return signs


def _drifted(before: Figures, after: Figures, changes: Changes) -> list[str]:
    """What the policy no longer writes as it did."""
    drifted = []
    anion, sites = changes.figures["anion"], changes.figures["mean_sites"]
    if anion.ratio.value < ANION_KEPT and anion.is_certain:
        drifted.append(
            f"anion formers {100 * before['anion'].value:.0f} -> {100 * after['anion'].value:.0f} %"
        )
    if abs(sites.ratio.value - 1) > SITES_KEPT and sites.is_certain:
        drifted.append(f"mean sites {before['mean_sites'].value:.1f} -> {after['mean_sites'].value:.1f}")
    return drifted


def _rose(changes: Changes, key: str) -> bool:
    return changes.figures[key].difference.low > 0


def _shift(title: str, key: str, before: Figures, after: Figures, change: Change) -> str:
    """``S.U.N. 6.1 -> 31.2 % (+25.1, 95 % CI 22.0..28.1)``."""
    old, new = before[key].value, after[key].value
    if math.isnan(change.difference.value):
        return f"{title}: nothing to compare"
    gain = change.difference
    return (
        f"{title} {100 * old:.1f} -> {100 * new:.1f} % "
        f"({100 * gain.value:+.1f}, 95 % CI {100 * gain.low:.1f}..{100 * gain.high:.1f})"
    )


def _span(figure: Figure) -> str:
    """``2.4..4.0``; open where nothing bounds a ratio."""
    low, high = (format_times(end).removesuffix("x") for end in (figure.low, figure.high))
    return f"{low}.." if math.isinf(figure.high) else f"{low}..{high}"


def _percent(share: float) -> str:
    """A share of the gain; there is no less than nothing of it, and no more than all."""
    return "none" if share <= 0 else f"{100 * min(share, 1):.0f} %"
