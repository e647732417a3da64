"""One reward from several scores, and contributions that add up to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from materium_rl.rewards.aggregation import AGGREGATIONS, Aggregation, contributions, reward_of

WEIGHTS = {"gap": 3.0, "novelty": 1.0, "watched": 0.0}
GATES = ("stability", "novelty")
SCORES = {"stability": 0.5, "novelty": 0.8, "gap": 0.4, "watched": math.nan}


@pytest.mark.parametrize(
    ("aggregation", "reward", "shares"),
    [
        ("sum", 0.4 * 0.5, {"gap": 0.4 * 0.3, "novelty": 0.4 * 0.2, "stability": 0.0}),
        ("normalized", 0.4 * 0.5, {"gap": 0.4 * 0.3, "novelty": 0.4 * 0.2, "stability": 0.0}),
        (
            "geometric",
            0.4 * (0.4**3 * 0.8) ** 0.25,
            {
                "gap": 0.75 * math.log(0.4),
                "novelty": 1.25 * math.log(0.8),
                "stability": math.log(0.5),
            },
        ),
        ("minimum", 0.4 * 0.4, {"gap": 0.16, "novelty": 0.0, "stability": 0.0}),
    ],
)
def test_known_answers(aggregation: Aggregation, reward: float, shares: dict[str, float]) -> None:
    """Two terms, one a gate too, another gate, and a monitor that failed."""
    assert reward_of(aggregation, WEIGHTS, GATES, SCORES) == pytest.approx(reward)
    found = contributions(aggregation, WEIGHTS, GATES, SCORES)
    assert found == pytest.approx(shares | {"watched": 0.0})


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@given(data=st.data())
def test_contributions_add_up_to_the_reward(aggregation: Aggregation, data: Any) -> None:
    score = st.floats(0, 1).filter(lambda s: s == 0 or s > 1e-3)
    scores = {name: data.draw(score) for name in "abcd"}
    weights = {name: data.draw(st.sampled_from([0.0, 0.5, 3.0])) for name in "bc"} | {"a": 1.0}
    gates = data.draw(st.sampled_from([(), ("d",), ("a", "d")]))
    reward = reward_of(aggregation, weights, gates, scores)
    total = sum(contributions(aggregation, weights, gates, scores).values())
    assert (math.exp(total) if aggregation == "geometric" else total) == pytest.approx(reward, abs=1e-12)
    assert 0.0 <= reward <= 1.0


@pytest.mark.parametrize("zero", ["gap", "stability"])
def test_a_score_of_zero(zero: str) -> None:
    scores = SCORES | {zero: 0.0}
    assert reward_of("geometric", WEIGHTS, GATES, scores) == 0.0
    assert contributions("geometric", WEIGHTS, GATES, scores)[zero] == -math.inf


def test_equal_scores_share_nothing_in_minimum() -> None:
    """The first of the smallest has it all, so that the sum stays the reward."""
    assert contributions("minimum", {"a": 1.0, "b": 1.0}, (), {"a": 0.3, "b": 0.3}) == {"a": 0.3, "b": 0.0}
