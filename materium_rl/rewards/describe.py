"""One reward as text: what it measures, its options, and its curve drawn with characters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from inspect import getdoc

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Reward
from materium_rl.rewards.expression import Term, format_expression
from materium_rl.rewards.shaping import Shaping
from materium_rl.rewards.term_scores import TermScorer

WIDTH, HEIGHT = 60, 8
"""Columns and rows of the drawing."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_SAMPLES = 2001
_MARGIN = 0.02
"""A score this close to those at the ends of the axis is outside the interesting part."""


def describe(term: Term) -> str:
    """Description, facts, options and curve of a reward, as it is with the options of the term.

    Raises:
        ConfigError: No such reward or option.
        RewardError: The reward is broken.
    """
    reward = registry.find(term.name)
    facts = {
        "unit": reward.unit,
        "scope": reward.scope,
        "needs": ", ".join(reward.requires),
        "cite": reward.citation,
        "from": registry.source(term.name),
    }
    options = registry.options_of(reward)
    parts = [
        reward.name if term == Term(term.name) else format_expression([term]),
        getdoc(reward) or "No description.",
        "\n".join(f"{key}: {value}" for key, value in facts.items() if value),
        "\n".join(["options:", *(_option(*item) for item in options.items())]) if options else "no options",
        _curve(reward, term),
    ]
    return "\n\n".join(parts)


def _option(name: str, field: FieldInfo) -> str:
    kind = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    default = "required" if field.is_required() else f"= {field.get_default(call_default_factory=True)!r}"
    text = f"  {name}: {kind.replace('typing.', '')} {default}"
    return f"{text}  {field.description}" if field.description else text


def _curve(reward: type[Reward], term: Term) -> str:
    needed = [name for name, field in registry.options_of(reward).items() if field.is_required()]
    missing = [name for name in needed if name not in registry.named(reward, term.options)]
    if missing:
        return f"score: depends on the options; add {', '.join(f'{name}=...' for name in missing)} to see it"
    try:
        built = registry.create(term.name, term.options)
    except ConfigError as error:
        if term.options:
            raise
        return f"score: depends on the options ({error})"
    curve = TermScorer.of(built, term).curve or built.shaping()
    return f"score of the value{f' in {reward.unit}' if reward.unit else ''}:\n{draw(curve)}"


def draw(curve: Shaping) -> str:
    """The score over the part of the axis where it changes, in block characters."""
    low, high = interesting(curve)
    column = (high - low) / (WIDTH - 1)
    points: list[list[float]] = [[low + column * i] for i in range(WIDTH)]
    for anchor in _numbers(curve):  # a peak may be narrower than a column
        if low <= anchor <= high:
            points[round((anchor - low) / column)].append(anchor)
    scores = [max(_score(curve, point) for point in group) for group in points]
    rows = []
    for row in reversed(range(HEIGHT)):
        label = {HEIGHT - 1: "1", HEIGHT // 2 - 1: "½", 0: "0"}.get(row, " ")
        rows.append(f"  {label} ┤{''.join(_block(score * HEIGHT - row) for score in scores)}".rstrip())
    ends = f"{low:.4g}", f"{(low + high) / 2:.4g}", f"{high:.4g}"
    gap = WIDTH - sum(map(len, ends))
    axis = f"     {ends[0]}{' ' * (gap // 2)}{ends[1]}{' ' * (gap - gap // 2)}{ends[2]}"
    return "\n".join([*rows, f"    └{'─' * WIDTH}", axis])


def interesting(curve: Shaping) -> tuple[float, float]:
    """Where the score changes: the axis around the curve's own numbers, narrowed until it does."""
    anchors = sorted(set(_numbers(curve)) or {0.0, 1.0})
    reach = (anchors[-1] - anchors[0]) or abs(anchors[0]) or 1.0
    low, high = anchors[0] - reach, anchors[-1] + reach
    if next(_numbers(curve), None) is None:  # no numbers of its own: a curve on [0, 1]
        low, high = 0.0, 1.0
    around_a_point = None
    for _ in range(4):
        step = (high - low) / (_SAMPLES - 1)
        changed = _changed(curve, sorted({*anchors, *(low + step * i for i in range(_SAMPLES))}), low, high)
        if not changed or changed[-1] - changed[0] > (high - low) / 4:
            return low, high
        middle, half = (changed[0] + changed[-1]) / 2, max(changed[-1] - changed[0], 20 * step)
        low, high = middle - half, middle + half
        around_a_point = around_a_point or (low, high)
    return around_a_point or (low, high)


def _changed(curve: Shaping, points: list[float], low: float, high: float) -> list[float]:
    """Points between low and high where the score is neither that at low nor that at high."""
    ends = _score(curve, low), _score(curve, high)
    inside = [point for point in points if low <= point <= high]
    return [p for p in inside if min(abs(_score(curve, p) - end) for end in ends) > _MARGIN]


def _numbers(curve: BaseModel) -> Iterator[float]:
    for name in type(curve).model_fields:
        value = getattr(curve, name)
        if isinstance(value, BaseModel):
            yield from _numbers(value)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield float(value)


def _score(curve: Shaping, value: float) -> float:
    return min(1.0, max(0.0, float(curve(value))))


def _block(filled: float) -> str:
    """A character that is filled from below to the given share."""
    return _BLOCKS[round(min(1.0, max(0.0, filled)) * (len(_BLOCKS) - 1))]
