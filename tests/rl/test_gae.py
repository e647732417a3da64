"""Token-level advantages against sums written out, and what judges a critic."""

from __future__ import annotations

import math

import pytest
import torch

from materium_rl.rl.gae import (
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    rewards_to_go,
    token_rewards,
    whiten,
)

LENGTHS = (5, 2, 1, 4)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, values and mask of four completions, padded to six tokens; pads hold rubbish values."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(6)[None, :] < torch.tensor(LENGTHS)[:, None]).long()
    rewards = torch.randn(4, 6, generator=generator, dtype=torch.double) * mask
    return rewards, torch.randn(4, 6, generator=generator, dtype=torch.double), mask


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
def test_gae_is_the_double_sum(gae_lambda: float) -> None:
    rewards, values, mask = batch()
    found = generalized_advantages(rewards, values, mask, gae_lambda)
    for row, length in enumerate(LENGTHS):
        v = [*values[row, :length].tolist(), 0.0]
        errors = [float(rewards[row, t]) + v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum(gae_lambda**k * errors[t + k] for k in range(length - t))
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-12)
        assert not found[row, length:].any()


def test_with_lambda_1_the_values_are_a_baseline_only() -> None:
    rewards, values, mask = batch()
    found = generalized_advantages(rewards, values, mask, 1.0)
    torch.testing.assert_close(found, (rewards_to_go(rewards) - values) * mask)


def test_a_perfect_critic_leaves_no_advantage() -> None:
    rewards, _, mask = batch()
    found = generalized_advantages(rewards, rewards_to_go(rewards), mask, 0.9)
    assert found.abs().max() < 1e-12


def test_the_reward_comes_with_the_last_token() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = token_rewards(
        torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 0.25, 0.125], [0.5, 9.0, 9.0]]), mask
    )
    assert found.tolist() == [[-0.5, -0.25, 1.875], [-1.5, 0.0, 0.0]]
    assert rewards_to_go(found).tolist() == [[1.125, 1.625, 1.875], [-1.5, 0.0, 0.0]]


def test_whitening_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = whiten(torch.tensor([[1.0, 2.0, 50.0], [6.0, 7.0, 8.0]]), mask)
    spread = math.sqrt(14 / 3)
    expected = torch.tensor([[-2 / spread, -1 / spread, 0], [3 / spread, 0, 0]])
    torch.testing.assert_close(found, expected)
    assert not whiten(torch.full((2, 3), 0.7), mask).any()
    assert not whiten(torch.ones(2, 3), torch.zeros(2, 3)).any()


def test_explained_variance_of_good_and_bad_critics() -> None:
    generator = torch.Generator().manual_seed(0)
    returns, mask = torch.randn(50, 20, generator=generator), torch.ones(50, 20)
    assert explained_variance(returns + 3.0, returns, mask) == pytest.approx(1.0, abs=1e-5)
    assert explained_variance(torch.full_like(returns, 0.3), returns, mask) == pytest.approx(0.0, abs=1e-5)
    assert explained_variance(0.5 * returns, returns, mask) == pytest.approx(0.75, abs=1e-5)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0, abs=1e-4)
    assert math.isnan(explained_variance(returns, torch.ones(50, 20), mask))


def test_value_loss_by_hand() -> None:
    old, returns = torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.1, 1.0]])
    values = torch.tensor([[0.1, 0.5, 0.5, 9.0]])
    # within the clip; clipped to 0.2, which is worse; clipped is better, so plain; a pad
    expected = 0.5 * (0.9**2 + 0.8**2 + 0.4**2) / 3
    found = clipped_value_loss(values, old, returns, torch.tensor([[1, 1, 1, 0]]), 0.2)
    assert float(found) == pytest.approx(expected)
    assert float(clipped_value_loss(values, old, returns, torch.zeros(1, 4), 0.2)) == 0.0
