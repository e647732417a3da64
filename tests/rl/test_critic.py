"""The critic learns a known function, remembers the last batches, and goes on to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from materium_rl.errors import PolicyError
from materium_rl.policies.value_head import FILE, ValueHead
from materium_rl.rl.critic import Critic
from materium_rl.rl.gae import explained_variance

WIDTH = 16


def critic(batches: int = 3, clip_range: float = 10.0, passes: int = 2) -> Critic:
    return Critic(
        ValueHead(WIDTH),
        learning_rate=1e-2,
        clip_range=clip_range,
        batches=batches,
        passes=passes,
        minibatches=4,
    )


def batch(seed: int, n: int = 300, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states, and rewards that are a sum of two of their numbers, with noise."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, WIDTH, generator=generator)
    return hidden, hidden[:, 0] + hidden[:, 1] + 5.0 + noise * torch.randn(n, generator=generator)


def foreseen(judge: Critic) -> float:
    hidden, returns = batch(999, n=2000, noise=0.0)
    return explained_variance(judge.values(hidden), returns, torch.ones(2000))


def test_critic_learns_and_a_longer_memory_helps() -> None:
    """Small noisy batches: twelve passes over the last one, or one over the last twelve."""
    scores = []
    for batches, passes in ((1, 12), (12, 1)):
        judge = critic(batches, passes=passes)
        for seed in range(12):
            judge.learn(*batch(seed, n=100, noise=2.0), seed)
        assert len(judge.memory) == batches
        scores.append(foreseen(judge))
    assert 0.2 < scores[0] < scores[1] - 0.2


def test_first_batch_sets_the_level() -> None:
    judge = critic()
    assert not judge.values(torch.randn(2, 3, WIDTH)).any()
    judge.learn(*batch(0), 0)
    assert float(judge.values(batch(1)[0]).mean()) == pytest.approx(5.0, abs=0.5)


def test_clipping_holds_the_values_back() -> None:
    moved = []
    for clip_range in (10.0, 0.02):
        judge = critic(clip_range=clip_range)
        judge.learn(*batch(0), 0)
        before = judge.values(batch(1)[0])
        hidden, returns = batch(0)
        judge.learn(hidden, returns + 3.0, 1)
        moved.append(float((judge.values(batch(1)[0]) - before).abs().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_nothing_measured_teaches_nothing() -> None:
    judge = critic()
    judge.learn(torch.zeros(0, WIDTH), torch.zeros(0), 0)
    assert not judge.values(torch.randn(2, 3, WIDTH)).any()


def test_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, parts, resumed = critic(2), critic(2), critic(2)
    for seed in range(3):
        whole.learn(*batch(seed), seed)
        parts.learn(*batch(seed), seed)
    parts.save(tmp_path)
    torch.save(parts.state_dict(), tmp_path / "state.pt")
    resumed.load(tmp_path)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    for judge in (whole, resumed):
        judge.learn(*batch(3), 3)
    assert torch.equal(whole.values(batch(9)[0]), resumed.values(batch(9)[0]))


def test_value_head_that_is_not_there_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no value head at"):
        ValueHead(WIDTH).load(tmp_path)
    ValueHead(2 * WIDTH).save(tmp_path)
    with pytest.raises(PolicyError, match=rf"{FILE} does not fit this policy"):
        ValueHead(WIDTH).load(tmp_path)


def test_value_head_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ValueHead(WIDTH, seed=1)
    assert torch.equal(torch.rand(4), expected)
