"""Advantages against hand calculations, and guards that guard."""

from __future__ import annotations

import numpy as np
import pytest
from real_structures import aflow_structures, rock_salt, rutile

from materium_rl.rl.advantages import group_advantages, normalized_terms, teaching, zero_spread_fraction
from materium_rl.rl.guards import DESCRIPTORS, Guards, describe


def test_two_groups_by_hand() -> None:
    advantages = group_advantages(np.array([0.0, 1.0, 0.2, 0.6]), 2)
    centred = np.array([-0.5, 0.5, -0.2, 0.2])
    assert advantages == pytest.approx(centred / centred.std())


def test_spread_of_the_group_of_the_batch_or_none() -> None:
    rewards = np.array([0.0, 1.0, 0.2, 0.6, 0.7, 0.7])
    centred = np.array([-0.5, 0.5, -0.2, 0.2, 0.0, 0.0])
    assert group_advantages(rewards, 2, scale="group") == pytest.approx([-1, 1, -1, 1, 0, 0])
    assert group_advantages(rewards, 2, scale="none") == pytest.approx(centred)
    batch = np.array([-0.5, 0.5, -0.2, 0.2]).std()  # the group without a difference does not count
    assert group_advantages(rewards, 2, scale="batch") == pytest.approx(centred / batch)


def test_failed_samples_neither_count_nor_learn() -> None:
    with_failure = group_advantages(np.array([0.1, np.nan, 0.5, 0.9]), 4)
    without = group_advantages(np.array([0.1, 0.5, 0.9]), 3)
    assert with_failure[1] == 0.0
    assert with_failure[[0, 2, 3]] == pytest.approx(without)


@pytest.mark.parametrize("rewards", [[0.3, 0.3, 0.3, 0.3], [np.nan] * 4, [np.nan, np.nan, np.nan, 0.7]])
def test_groups_without_a_difference_give_zero(rewards: list[float]) -> None:
    assert np.array_equal(group_advantages(np.array(rewards), 4), np.zeros(4))


def test_zero_spread_groups_are_counted() -> None:
    rewards = np.array([0.1, 0.1, 0.0, 1.0, np.nan, np.nan])
    assert zero_spread_fraction(rewards, 2) == pytest.approx(2 / 3)


def test_groups_without_an_advantage_do_not_teach() -> None:
    advantages = np.array([0.0, 0.0, -1.0, 0.0, 0.0, 1e-3])
    assert teaching(advantages, 2).tolist() == [False, False, True, True, True, True]


def test_reward_that_is_linear_in_a_descriptor_teaches_nothing() -> None:
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(512, 2))
    plain = 0.3 * rng.normal(size=512)
    advantages = group_advantages(plain + 2.0 * descriptors[:, 0], 512, descriptors=descriptors)
    assert abs(advantages @ descriptors[:, 0]) / 512 < 0.01
    assert np.corrcoef(advantages, plain)[0, 1] > 0.99


def test_descriptors_by_hand() -> None:
    rows = describe([rock_salt(), rutile()], ["n_sites", "n_elements", "rare_earth", "anion"])
    assert rows.tolist() == [[8, 2, 0, 1], [6, 2, 0, 1]]
    assert set(DESCRIPTORS) >= {"oxygen", "halogen", "chalcogen"}


def test_restoring_term_pushes_back_what_drifts() -> None:
    structures = list(aflow_structures())
    guards = Guards(("n_sites",), strength=1.0, memory=0.0)
    guards.fit(structures)
    small = [s for s in structures if len(s) <= 4]
    standard = guards.standardise(small)
    term = guards.restoring(standard, np.ones(len(small), dtype=bool))
    assert guards.drift()["n_sites"] < -0.4
    larger = standard[:, 0] > standard[:, 0].mean()
    assert term[larger].min() > 0 > term[~larger].max()
    balanced = Guards(("n_sites",), strength=1.0, memory=0.0)
    balanced.fit(structures)
    everyone = np.ones(len(structures), dtype=bool)
    assert np.abs(balanced.restoring(balanced.standardise(structures), everyone)).max() < 1e-9


def test_a_floor_may_rise_but_is_not_paid_for_falling() -> None:
    rng = np.random.default_rng(0)
    descriptor = rng.normal(size=(512, 1))
    floor = np.array([True])
    noise = 0.1 * rng.normal(size=512)
    rising = group_advantages(descriptor[:, 0] + noise, 512, descriptors=descriptor, floors=floor)
    falling = group_advantages(-descriptor[:, 0] + noise, 512, descriptors=descriptor, floors=floor)
    assert np.corrcoef(rising, descriptor[:, 0])[0, 1] > 0.9
    assert abs(np.corrcoef(falling, descriptor[:, 0])[0, 1]) < 0.05
    guards = Guards(("anion",), floors=("anion",), memory=0.0)
    guards.fit([rock_salt(), *aflow_structures()[:30]])
    up = guards.standardise([rock_salt(), rutile()])
    assert np.abs(guards.restoring(up, np.ones(2, dtype=bool))).max() == 0.0


def test_normalized_terms_by_hand() -> None:
    """Two groups of three, one failed row; the third term is equal all over the first group."""
    scores = np.array(
        [[0.0, 0.10, 0.7], [1.0, 0.12, 0.7], [0.5, 0.11, 0.7], [np.nan] * 3, [0.2, 0.3, 0.1], [0.4, 0.1, 0.5]]
    )
    parts = normalized_terms(scores, np.array([1.0, 2.0, 1.0]), 3)
    unit = np.sqrt(1.5)  # of (0, 1, 2) in units of their spread
    expected = [
        [-unit / 4, -unit / 2, 0], [unit / 4, unit / 2, 0], [0, 0, 0],
        [np.nan] * 3, [-1 / 4, 1 / 2, -1 / 4], [1 / 4, -1 / 2, 1 / 4],
    ]  # fmt: skip
    np.testing.assert_allclose(parts, expected, atol=1e-12)


def test_a_term_of_small_spread_is_heard_once_normalized() -> None:
    loud, quiet = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.50, 0.50, 0.52, 0.52])
    scores, weights = np.stack([loud, quiet], axis=1), np.ones(2)
    added = group_advantages(scores.sum(axis=1), 4)
    assert added[2] == pytest.approx(added[0], abs=0.1)
    normalised = group_advantages(normalized_terms(scores, weights, 4).sum(axis=1), 4)
    assert normalised == pytest.approx(np.array([-1, 0, 0, 1]) * np.sqrt(2))


def test_what_fails_or_does_not_differ_teaches_nothing_normalized() -> None:
    scores = np.array([[0.3, 0.2], [np.nan, np.nan], [0.3, 0.2], [0.3, 0.2]])
    parts = normalized_terms(scores, np.ones(2), 4).sum(axis=1)
    assert np.isnan(parts[1])
    assert not group_advantages(parts, 4).any()
    assert not group_advantages(normalized_terms(np.full((4, 2), np.nan), np.ones(2), 4).sum(axis=1), 4).any()
