"""How the scores of a structure become one reward, and what each of them contributed.

With weights w, scores s and the product g of the gates' scores:

=============  =========================  =====================================  ==================
aggregation    reward                     contribution of a term                 they add up to
=============  =========================  =====================================  ==================
sum            g sum(w s) / sum(w)        g w s / sum(w)                         the reward
geometric      g prod(s^(w / sum(w)))     w ln(s) / sum(w); of a gate ln(s)      ln of the reward
minimum        g min(s)                   of the smallest g s, of others 0       the reward
normalized     as sum                     as sum                                 the reward
=============  =========================  =====================================  ==================

``normalized`` differs only where groups are known: fine-tuning measures each term in units of its spread
within the group before it adds them (``rl.advantages.normalized_sum``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

Aggregation = Literal["sum", "geometric", "minimum", "normalized"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def reward_of(
    aggregation: Aggregation,
    weights: Mapping[str, float],
    gates: Collection[str],
    scores: Mapping[str, float],
) -> float:
    """The reward of one structure, in [0, 1].

    Args:
        aggregation: How terms combine.
        weights: Of the terms, by name, not negative; those of 0 take no part.
        gates: Names of the rewards whose scores multiply the aggregate.
        scores: At least of the gates and of every term with a weight.
    """
    weighted = {name: weight for name, weight in weights.items() if weight > 0}
    total = sum(weighted.values())
    if aggregation == "minimum":
        reward = min(scores[name] for name in weighted)
    elif aggregation == "geometric":
        reward = _geometric(weighted, scores) if all(scores[name] > 0 for name in weighted) else 0.0
    else:
        reward = sum(weight * scores[name] for name, weight in weighted.items()) / total
    return min(1.0, max(0.0, reward * gate_of(gates, scores)))


def gate_of(gates: Collection[str], scores: Mapping[str, float]) -> float:
    """Product of the scores of the gates; 1 without gates."""
    return math.prod(scores[name] for name in gates)


def contributions(
    aggregation: Aggregation,
    weights: Mapping[str, float],
    gates: Collection[str],
    scores: Mapping[str, float],
) -> dict[str, float]:
    """What each of the scores contributed; see the table above.

    Args:
        aggregation: As in ``reward_of``.
        weights: As in ``reward_of``.
        gates: As in ``reward_of``.
        scores: As in ``reward_of``; NaN where a monitor failed.

    Returns:
        By name of a score; 0 of monitors, and -inf in ``geometric`` of a score of 0.
    """
    total = sum(weights.values())
    if aggregation == "geometric":
        return {
            name: _log_share(weights.get(name, 0.0) / total + (name in gates), score)
            for name, score in scores.items()
        }
    gate = gate_of(gates, scores)
    if aggregation == "minimum":
        smallest = min(
            (name for name, weight in weights.items() if weight > 0), key=lambda name: scores[name]
        )
        return {name: gate * scores[name] if name == smallest else 0.0 for name in scores}
    return {
        name: gate * weights[name] * score / total if weights.get(name) else 0.0
        for name, score in scores.items()
    }


def _geometric(weights: Mapping[str, float], scores: Mapping[str, float]) -> float:
    logs = sum(weight * math.log(scores[name]) for name, weight in weights.items())
    return math.exp(logs / sum(weights.values()))


def _log_share(exponent: float, score: float) -> float:
    if not exponent:
        return 0.0
    return exponent * math.log(score) if score > 0 else -math.inf
