"""From rewards to advantages; pure functions on arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np

RIDGE = 0.1
"""Ridge of the regression on the guard descriptors, in samples."""

LARGEST = 4.0
"""Advantages are clipped here: one lucky sample in a long-tailed batch must not set the whole update."""


def group_advantages(
    rewards: np.ndarray,
    group_size: int,
    *,
    scale: Literal["group", "batch", "none"] = "batch",
    descriptors: np.ndarray | None = None,
    floors: np.ndarray | None = None,
) -> np.ndarray:
    """Rewards relative to their group, in units of a spread.

    GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1), by default with the spread of the batch instead of
    the group's (arXiv 2508.08221). With descriptors, the part of the centred rewards that is linear in them
    is removed too (ridge regression over the batch); of a floor descriptor only what pays for lowering it.

    Args:
        rewards: (B,), groups adjacent; NaN marks what could not be measured.
        group_size: G, divides B.
        scale: Whose spread; with none they stay in units of the reward (Dr. GRPO, arXiv 2503.20783).
        descriptors: (B, F), standardised.
        floors: Descriptors that may rise, bool (F,).

    Returns:
        (B,); exactly 0 where the reward is NaN, where a group holds fewer than two rewards, and
        where all rewards of a group are equal.
    """
    grouped = rewards.reshape(-1, group_size)
    known = ~np.isnan(grouped)
    count = known.sum(axis=1, keepdims=True)
    mean = np.where(known, grouped, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(known, grouped - mean, 0.0)
    useful = (known & (count > 1) & (np.abs(centred).max(axis=1, keepdims=True) > 1e-9)).reshape(-1)
    advantages: np.ndarray = np.where(useful, centred.reshape(-1), 0.0)
    if descriptors is not None and useful.sum() > descriptors.shape[1] + 2:
        advantages[useful] -= linear_part(advantages[useful], descriptors[useful], floors)
    spreads = {"group": _group_spreads, "batch": _batch_spread, "none": _no_spread}[scale](
        advantages, useful, group_size
    )
    units = np.divide(advantages, spreads, out=np.zeros_like(advantages), where=spreads > 1e-9)
    scaled: np.ndarray = np.clip(units, -LARGEST, LARGEST)
    return scaled


def _batch_spread(advantages: np.ndarray, useful: np.ndarray, _group_size: int) -> np.ndarray:
    return np.full_like(advantages, advantages[useful].std() if useful.any() else 0.0)


def _group_spreads(advantages: np.ndarray, useful: np.ndarray, group_size: int) -> np.ndarray:
    grouped, used = advantages.reshape(-1, group_size), useful.reshape(-1, group_size)
    spreads = [row[use].std() if use.any() else 0.0 for row, use in zip(grouped, used, strict=True)]
    return np.repeat(spreads, group_size)


def _no_spread(advantages: np.ndarray, _useful: np.ndarray, _group_size: int) -> np.ndarray:
    return np.ones_like(advantages)


def linear_part(values: np.ndarray, descriptors: np.ndarray, floors: np.ndarray | None) -> np.ndarray:
    """What a ridge regression with intercept on (R, F) descriptors explains of (R,) values."""
    centred = descriptors - descriptors.mean(axis=0)
    gram = centred.T @ centred + RIDGE * np.eye(centred.shape[1])
    slopes = np.linalg.solve(gram, centred.T @ (values - values.mean()))
    if floors is not None:
        slopes = np.where(floors, np.minimum(slopes, 0.0), slopes)
    explained: np.ndarray = centred @ slopes + values.mean()
    return explained


def normalized_terms(scores: np.ndarray, weights: np.ndarray, group_size: int) -> np.ndarray:
    """Scores relative to their group, each term in units of its own spread there, times its weight.

    So that a term whose scores differ little is heard beside one whose scores differ much. The sum over the
    terms, through ``group_advantages``, which scales it over the batch, is GDPO (arXiv 2601.05242).

    Args:
        scores: (B, K), groups adjacent; a row with a NaN could not be measured.
        weights: (K,), positive.
        group_size: G, divides B.

    Returns:
        (B, K), the weights adding up to 1; NaN where a row could not be measured, 0 for a term that is
        equal all over the group.
    """
    grouped = scores.reshape(-1, group_size, scores.shape[1])
    known = ~np.isnan(grouped).any(axis=2, keepdims=True)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = np.where(known, grouped, 0.0).sum(axis=1, keepdims=True) / count
    centred = np.where(known, grouped - mean, 0.0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    units = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
    parts: np.ndarray = np.where(known, units * (weights / weights.sum()), np.nan)
    return parts.reshape(scores.shape)


def teaching(advantages: np.ndarray, group_size: int) -> np.ndarray:
    """Rows of the groups that hold an advantage other than 0, bool (B,)."""
    used: np.ndarray = advantages.reshape(-1, group_size).any(axis=1).repeat(group_size)
    return used


def zero_spread_fraction(rewards: np.ndarray, group_size: int) -> float:
    """Share of groups in which all known rewards are equal."""
    grouped = rewards.reshape(-1, group_size)
    spread = np.nanmax(np.where(np.isnan(grouped), -np.inf, grouped), axis=1) - np.nanmin(
        np.where(np.isnan(grouped), np.inf, grouped), axis=1
    )
    return float((spread <= 1e-9).mean())
