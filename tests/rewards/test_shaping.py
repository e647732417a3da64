"""Curves: known scores, always in [0, 1], monotonic where they claim it, and the worst of a range."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from materium_rl.rewards.shaping import (
    CURVES,
    DoubleSigmoid,
    Identity,
    Interval,
    Reverse,
    Shaping,
    Sigmoid,
    SoftDecay,
    SoftStep,
    TargetWindow,
)

WINDOW = TargetWindow(target=2.0, width=0.5)
FALLING = SoftStep(full=-1.0, zero=3.0)
EXAMPLES: list[Shaping] = [
    Identity(),
    WINDOW,
    SoftStep(full=3.0, zero=1.0),
    FALLING,
    SoftDecay(full=0.0, half=0.1),
    Interval(low=1.0, high=3.0),
    Interval(low=1.0),
    Interval(high=1.0),
    Sigmoid(low=1.0, high=3.0),
    DoubleSigmoid(low=1.0, high=3.0, steepness=4.0),
]
EXAMPLES += [Reverse(curve=curve) for curve in EXAMPLES]
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FLANK = 1 / (1 + math.exp(-5.0))


@pytest.mark.parametrize(
    ("curve", "scores"),
    [
        (Identity(), {-3.0: 0.0, 0.25: 0.25, 7.0: 1.0}),
        (WINDOW, {2.0: 1.0, 2.5: 0.5, 1.5: 0.5, 3.0: 0.2, 1e200: 0.0}),
        (SoftStep(full=3.0, zero=1.0), {0.0: 0.0, 1.0: 0.0, 1.5: 0.25, 2.0: 0.5, 3.0: 1.0, 9.0: 1.0}),
        (FALLING, {-2.0: 1.0, -1.0: 1.0, 0.0: 0.75, 3.0: 0.0, 4.0: 0.0}),
        (SoftDecay(full=0.0, half=0.1), {-5.0: 1.0, 0.0: 1.0, 0.1: 0.5, 0.2: 0.2}),
        (Interval(low=1.0, high=3.0), {0.99: 0.0, 1.0: 1.0, 3.0: 1.0, 3.01: 0.0}),
        (Interval(low=1.0), {0.99: 0.0, 1.0: 1.0, 1e300: 1.0}),
        (Interval(high=1.0), {-1e300: 1.0, 1.0: 1.0, 1.01: 0.0}),
        (Sigmoid(low=1.0, high=3.0), {1.0: 1 - FLANK, 2.0: 0.5, 3.0: FLANK, -1e300: 0.0, 1e300: 1.0}),
        (
            DoubleSigmoid(low=1.0, high=3.0),
            {0.0: 1 - FLANK, 1.0: 0.5, 2.0: FLANK, 3.0: 0.5, 4.0: 1 - FLANK, 1e300: 0.0},
        ),
        (Reverse(curve=WINDOW), {2.0: 0.0, 2.5: 0.5, 3.0: 0.8}),
        (Reverse(curve=Reverse(curve=FALLING)), {0.0: 0.75}),
    ],
)
def test_known_scores(curve: Shaping, scores: dict[float, float]) -> None:
    assert {value: curve(value) for value in scores} == pytest.approx(scores, abs=1e-12)


def test_sigmoid_is_that_of_reinvent4() -> None:
    """Its formula, with k = 0.5: 1 / (1 + 10^(-10 k (x - (low + high) / 2) / (high - low)))."""
    low, high, k = -2.0, 6.0, 0.5
    ours = Sigmoid(low=low, high=high, steepness=10 * k * math.log(10))
    for x in np.linspace(-5, 9, 29):
        assert ours(x) == pytest.approx(1 / (1 + 10 ** (-10 * k * (x - 2) / 8)), abs=1e-12)


@pytest.mark.parametrize("curve", EXAMPLES, ids=repr)
@given(value=st.floats(allow_nan=False))
def test_every_score_is_in_its_range(curve: Shaping, value: float) -> None:
    assert 0.0 <= curve(value) <= 1.0


@pytest.mark.parametrize("curve", EXAMPLES, ids=repr)
@given(values=st.tuples(FINITE, FINITE))
def test_rises_to_its_top_and_falls_from_it(curve: Shaping, values: tuple[float, float]) -> None:
    turned = isinstance(curve, Reverse)
    plain = curve.curve if isinstance(curve, Reverse) else curve
    a, b = sorted(values)
    if b <= plain.top:
        assert (curve(a) >= curve(b)) if turned else (curve(a) <= curve(b))
    if a >= plain.top:
        assert (curve(a) <= curve(b)) if turned else (curve(a) >= curve(b))


@pytest.mark.parametrize("curve", EXAMPLES, ids=repr)
@given(
    centre=st.floats(-5, 5), spread=st.floats(0, 4), share=st.lists(st.floats(0, 1), min_size=1, max_size=9)
)
def test_lowest_and_highest_bound_the_range(
    curve: Shaping, centre: float, spread: float, share: list[float]
) -> None:
    low, high = centre - spread, centre + spread
    lowest, highest = curve.lowest(low, high), curve.highest(low, high)
    for value in [low, high, *(low + s * (high - low) for s in share)]:
        assert lowest - 1e-12 <= curve(min(max(value, low), high)) <= highest + 1e-12


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (WINDOW, (0.2, 1.0)),
        (Reverse(curve=WINDOW), (0.0, 0.8)),
        (FALLING, (0.0, 0.5)),
        (Reverse(curve=FALLING), (0.5, 1.0)),
        (Interval(low=1.5, high=2.0), (0.0, 1.0)),
        (Reverse(curve=Reverse(curve=WINDOW)), (0.2, 1.0)),
    ],
    ids=repr,
)
def test_lowest_and_highest_from_1_to_3(curve: Shaping, expected: tuple[float, float]) -> None:
    assert (curve.lowest(1.0, 3.0), curve.highest(1.0, 3.0)) == pytest.approx(expected)


def test_flanks_meet_without_a_jump() -> None:
    curve = DoubleSigmoid(low=1.0, high=3.0, steepness=2.0)
    scores = [curve(x) for x in np.linspace(0, 4, 4001)]
    assert max(abs(a - b) for a, b in pairwise(scores)) < 1e-3


@pytest.mark.parametrize(
    ("curve", "parameters"),
    [
        (TargetWindow, {"target": 1.0, "width": 0.0}),
        (SoftStep, {"full": 1.0, "zero": 1.0}),
        (SoftDecay, {"full": 1.0, "half": 0.5}),
        (Interval, {}),
        (Interval, {"low": 2.0, "high": 1.0}),
        (Sigmoid, {"low": 2.0, "high": 1.0}),
        (Sigmoid, {"low": 1.0, "high": 2.0, "steepness": 0.0}),
        (DoubleSigmoid, {"low": 1.0, "high": 1.0}),
        (TargetWindow, {"target": math.inf, "width": 1.0}),
        (TargetWindow, {"target": math.nan, "width": 1.0}),
    ],
)
def test_senseless_parameters_are_refused(curve: type[Shaping], parameters: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        curve(**parameters)


def test_every_curve_is_found_by_its_name() -> None:
    assert list(CURVES) == [
        "identity", "window", "linear", "decay", "step", "sigmoid", "double_sigmoid", "reverse",
    ]  # fmt: skip
    assert {type(curve) for curve in EXAMPLES} == set(CURVES.values())
