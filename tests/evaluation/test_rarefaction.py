"""Rarefaction curves against every part of a small table, and against tables drawn anew."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from materium_rl.evaluation.comparison.rarefaction import mean_curve, rarefaction, sample_sizes

CODES = np.array([0, 0, 0, 1, 1, 2, -1, -1])


@pytest.mark.parametrize("k", range(1, 9))
def test_expectation_is_the_mean_over_all_parts(k: int) -> None:
    parts = [len({c for c in part if c >= 0}) for part in combinations(CODES.tolist(), k)]
    assert rarefaction(CODES, [k])[0] == pytest.approx([np.mean(parts)])


def test_standard_error_is_the_jackknifes() -> None:
    k, n = 4, len(CODES)
    without = [rarefaction(np.delete(CODES, i), [k])[0][0] for i in range(n)]
    expected = np.sqrt((n - 1) / n * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert rarefaction(CODES, [k])[1] == pytest.approx([expected])


def test_band_holds_other_samples_of_the_same_distribution() -> None:
    rng, chances = np.random.default_rng(0), 1 / np.arange(1, 200)
    tables = [rng.choice(199, 300, p=chances / chances.sum()) for _ in range(300)]
    found = np.array([rarefaction(table, [50, 300]) for table in tables])
    ratio = (found[:, 1] ** 2).mean(axis=0) / found[:, 0].var(axis=0)
    assert ((ratio > 0.85) & (ratio < 1.7)).all()  # too large rather than too small


def test_collapse_shows_in_the_curve() -> None:
    many, few = np.arange(100), np.arange(100) % 3
    assert rarefaction(many, [10, 100])[0] == pytest.approx([10, 100])
    found, error = rarefaction(few, [10, 100])
    assert (found[0] > 2.9, found[1]) == (True, pytest.approx(3))
    assert error[1] == 0


def test_mean_curve_of_runs_takes_their_spread_in() -> None:
    runs = [(np.array([10.0]), np.array([1.0])), (np.array([14.0]), np.array([1.0]))]
    alone, both = mean_curve(runs[:1]), mean_curve(runs)
    assert (alone.low, alone.high) == (pytest.approx([8.04], abs=0.01), pytest.approx([11.96], abs=0.01))
    assert both.expected == pytest.approx([12])
    assert both.high - both.expected == pytest.approx([12.706 * 2], rel=1e-3)


def test_sizes_end_at_n() -> None:
    assert sample_sizes(3).tolist() == [1, 2, 3]
    sizes = sample_sizes(1024)
    assert (sizes[0], sizes[-1], len(sizes)) == (1, 1024, 40)
