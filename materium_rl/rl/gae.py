"""Generalised advantage estimation on padded batches; pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """Rewards of single tokens: minus the penalty of each, plus the reward of the crystal at the last one.

    Args:
        rewards: Reward of each completion, (B,).
        penalties: What each token costs, (B, T).
        mask: 1 for the tokens of a completion, right-padded, (B, T).

    Returns:
        (B, T), 0 for pads.
    """
    last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(dim=1, keepdim=True) - 1
    return (rewards[:, None] * last - penalties) * mask


def rewards_to_go(rewards: Tensor) -> Tensor:
    """Undiscounted sum of the rewards (B, T) from each token on."""
    return rewards.flip(1).cumsum(dim=1).flip(1)


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gae_lambda: float) -> Tensor:
    """Advantages of tokens by GAE (Schulman et al., arXiv 1506.02438, equation 16) with gamma = 1.

    A crystal is one finite episode whose reward comes at its end, so nothing is discounted.

    Args:
        rewards: Reward of each token, (B, T), 0 for pads.
        values: Value of the state that each token follows, (B, T).
        mask: 1 for the tokens of a completion, right-padded, (B, T).
        gae_lambda: 0 trusts the values alone, 1 the rewards alone.

    Returns:
        (B, T), 0 for pads; the target of the values is this plus ``values``.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    errors = (rewards + following - values) * mask
    advantages, running = torch.zeros_like(errors), torch.zeros_like(errors[:, 0])
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + gae_lambda * running
        advantages[:, t] = running
    return advantages


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, T) less their mean, in units of their spread, both over the mask; 0 elsewhere."""
    known = advantages[mask.bool()]
    if len(known) == 0 or float(spread := known.std(unbiased=False)) <= 1e-9:
        return torch.zeros_like(advantages)
    return (advantages - known.mean()) / spread * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the variance of the returns that the values explain, over the tokens of the mask.

    1 for a perfect critic, 0 for a constant one, NaN where the returns are all equal.
    """
    chosen = mask.bool()
    spread = returns[chosen].var(unbiased=False)
    if chosen.sum() == 0 or float(spread) <= 1e-12:
        return float("nan")
    return float(1 - (returns - values)[chosen].var(unbiased=False) / spread)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Half the squared error of the values, the worse of plain and clipped, mean over the mask.

    Clipped values stay within ``clip`` of those of the rollout (PPO, arXiv 1707.06347, as in its reference
    implementation), so that several passes over one batch cannot move them far.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (errors * mask).sum() / mask.sum().clamp(min=1)
