"""Intervals, with known answers; how often they hold the truth is in ``benchmarks/interval_coverage.py``."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from materium_rl.evaluation.comparison.differences import changes, recipe_figures
from materium_rl.evaluation.statistics import (
    Bootstrap,
    Statistic,
    distinct,
    divergence,
    jensen_shannon,
    mean,
    minus,
    percentiles,
    share,
)

N = 400
ALL = np.ones(N, dtype=bool)


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return Bootstrap(N, n_boot=4000, seed=0)


def flags(hits: int) -> np.ndarray:
    return np.arange(N) < hits


def test_share_has_wilsons_interval(bootstrap: Bootstrap) -> None:
    z, n, p = 1.959964, N, 8 / N
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert bootstrap.interval(share(flags(8), ALL)) == pytest.approx(expected, abs=1e-6)


def test_share_among_some_counts_those_only(bootstrap: Bootstrap) -> None:
    found = share(flags(30), flags(40))
    assert found.value == 0.75
    alone = Bootstrap(40, n_boot=10, seed=0).interval(share(np.arange(40) < 30, np.ones(40, dtype=bool)))
    assert bootstrap.interval(found) == alone


def test_distinct_counts_kinds_and_who_alone_shows_one() -> None:
    found = distinct([0, 0, 1, 2, 2, 2, 3, -1], per=8)
    assert found.value == 4
    assert (found.numerator / 8).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert distinct([-1, -1]).value == 0


def test_interval_of_distinct_things_is_that_of_flags_where_all_differ(bootstrap: Bootstrap) -> None:
    codes = np.where(flags(60), np.arange(N), -1)
    assert bootstrap.interval(distinct(codes)) == pytest.approx(bootstrap.interval(share(flags(60), ALL)))


def test_difference_and_ratio_of_shares_agree_with_the_normal_approximation(bootstrap: Bootstrap) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.permutation(flags(80)), rng.permutation(flags(160))
    found = changes([{"x": share(first, ALL)}], [{"x": share(second, ALL)}], bootstrap).figures["x"]
    covariance = np.mean(first & second) - 0.2 * 0.4
    error = math.sqrt((0.2 * 0.8 + 0.4 * 0.6 - 2 * covariance) / N)
    assert found.difference.value == pytest.approx(0.2)
    assert (found.difference.low, found.difference.high) == (
        pytest.approx(0.2 - 1.96 * error, abs=0.006),
        pytest.approx(0.2 + 1.96 * error, abs=0.006),
    )
    spread = math.sqrt(0.8 / 80 + 0.6 / 160)  # of the logarithm
    assert found.ratio.value == pytest.approx(2.0)
    assert found.ratio.low == pytest.approx(2 * math.exp(-1.96 * spread), rel=0.05)
    assert found.ratio.high == pytest.approx(2 * math.exp(1.96 * spread), rel=0.05)


def test_pairs_that_agree_have_a_narrow_difference(bootstrap: Bootstrap) -> None:
    before, after = share(flags(200), ALL), share(flags(204), ALL)
    paired = changes([{"x": before}], [{"x": after}], bootstrap).figures["x"].difference
    apart = changes([{"x": share(~flags(200), ALL)}], [{"x": after}], bootstrap).figures["x"].difference
    assert apart.high - apart.low > 5 * (paired.high - paired.low)


def test_nothing_before_and_after_is_uncertain_both_ways(bootstrap: Bootstrap) -> None:
    never = share(flags(0), ALL)
    found = changes([{"x": never}], [{"x": never}], bootstrap).figures["x"]
    assert found.difference.low < 0 < found.difference.high < 0.02
    assert not found.is_certain
    assert math.isnan(found.ratio.value)


def test_ratio_to_a_rare_thing_has_no_upper_end(bootstrap: Bootstrap) -> None:
    found = changes([{"x": share(flags(1), ALL)}], [{"x": share(flags(40), ALL)}], bootstrap).figures["x"]
    assert found.ratio.value == 40
    assert 5 < found.ratio.low < 40
    assert math.isinf(found.ratio.high)


def test_training_seeds_widen_the_interval_as_students_t(bootstrap: Bootstrap) -> None:
    runs = [{"x": mean(np.full(N, value), ALL)} for value in (0.2, 0.3, 0.4)]  # no spread within a run
    base = [{"x": mean(np.full(N, 0.1), ALL)}]
    found = changes(base, runs, bootstrap).figures["x"].difference
    half = 4.303 * 0.1 / math.sqrt(3)  # two degrees of freedom
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.2 - half, rel=0.1), pytest.approx(0.2 + half, rel=0.1))
    assert recipe_figures(runs, bootstrap)["x"].value == pytest.approx(0.3)
    alone = changes(base, runs[:1], bootstrap).figures["x"].difference
    assert (alone.low, alone.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_share_over_training_seeds_stays_one(bootstrap: Bootstrap) -> None:
    runs = [{"valid": share(flags(hits), ALL)} for hits in (376, 392, 400)]
    found = recipe_figures(runs, bootstrap)["valid"]
    assert found.value == pytest.approx(0.9733, abs=1e-4)
    assert found.low < 0.95
    assert found.high == 1.0


def test_parts_of_a_gain_add_up_to_it(bootstrap: Bootstrap) -> None:
    def policy(new: int, colourings: int, family: int, rare: int) -> dict[str, Statistic]:
        edges = np.cumsum([0, new, colourings, family, rare])
        parts = [share((np.arange(N) >= a) & (np.arange(N) < b), ALL) for a, b in pairwise(edges)]
        keys = ("sun_new", "sun_colourings", "sun_family_swaps", "sun_rare_earth_swaps")
        return {**dict(zip(keys, parts, strict=True)), "sun": share(flags(int(edges[-1])), ALL)}

    found = changes([policy(5, 5, 5, 5)], [policy(25, 15, 45, 35)], bootstrap)
    shares = {kind: figure.value for kind, figure in found.gain.items()}
    assert shares == pytest.approx({"none": 0.2, "colouring": 0.1, "family": 0.4, "rare earth": 0.3})
    assert all(figure.low < figure.value < figure.high for figure in found.gain.values())
    assert changes([policy(5, 5, 5, 5)], [policy(5, 6, 5, 5)], bootstrap).gain == {}


def test_minus_has_the_difference_of_the_values() -> None:
    many, few = distinct([0, 1, 2, 3, 3]), distinct([0, 0, 1, 2, 2])
    assert minus(many, few).value == pytest.approx(1 / 5)
    assert minus(many, few).numerator.tolist() == [1, 1, 0, 0, 0]


def test_divergence_is_that_of_the_counts_and_knows_its_derivative() -> None:
    rng = np.random.default_rng(1)
    holds, reference = (rng.random((50, 4)) < [0.9, 0.5, 0.2, 0.05]).astype(float), [1.0, 5.0, 2.0, 1.0]
    found = divergence(holds, reference)
    assert found.value == pytest.approx(jensen_shannon(holds.sum(axis=0), reference))
    assert found.numerator.sum() == pytest.approx(0, abs=1e-9)
    more = np.ones(50)
    more[7] += 1e-6  # of one row's weight
    slope = (jensen_shannon(more @ holds, reference) - found.value) / 1e-6
    assert found.numerator[7] / 50 == pytest.approx(slope, rel=1e-3)


def test_percentiles_leave_nan_out_and_keep_infinity() -> None:
    assert percentiles(np.array([math.nan, 1.0, 2.0, math.inf, math.inf])) == (1.0, math.inf)
    assert all(map(math.isnan, percentiles(np.array([math.nan]))))


def test_bootstrap_is_seeded() -> None:
    values = mean(np.arange(50.0), np.ones(50, dtype=bool))
    once, again, other = (Bootstrap(50, n_boot=100, seed=s).interval(values) for s in (1, 1, 2))
    assert once == again != other


def test_share_of_none_or_all_gets_its_exact_interval() -> None:
    bootstrap, everything = Bootstrap(64, n_boot=10, seed=0), np.ones(64, dtype=bool)
    edge = 1 - 0.025 ** (1 / 64)
    assert bootstrap.interval(share(~everything, everything)) == (0, pytest.approx(edge))
    assert bootstrap.interval(share(everything, everything)) == (pytest.approx(1 - edge), 1)
    assert bootstrap.interval(mean(np.ones(64), everything)) == (1, 1)  # a mean, not a share
    assert all(map(math.isnan, bootstrap.interval(share(everything, ~everything))))
