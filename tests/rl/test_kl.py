"""The KL weight is steered to its target, and left alone without one."""

from __future__ import annotations

import pytest

from materium_rl.rl.kl import KLController


def test_steps_by_hand() -> None:
    kl = KLController(0.1, target=0.2, horizon=1000)
    kl.update(0.22, completions=100)  # 10 % too far
    assert kl.coef == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    kl.update(5.0, completions=100)  # far too far: counted as 20 %
    assert kl.coef == pytest.approx(0.101 * (1 + 0.2 * 0.1))
    before = kl.coef
    kl.update(-0.1, completions=500)  # an estimate may be negative
    assert kl.coef == pytest.approx(before * (1 - 0.2 * 0.5))


def test_without_a_target_the_weight_stays() -> None:
    kl = KLController(0.05, target=None, horizon=10)
    kl.update(3.0, completions=100)
    assert kl.coef == 0.05


@pytest.mark.parametrize("start", [0.001, 1.0])
def test_a_policy_that_answers_is_brought_to_the_target(start: float) -> None:
    """A policy whose KL falls with the weight, as 0.01 / weight."""
    kl = KLController(start, target=0.2, horizon=1000)
    for _ in range(400):
        kl.update(0.01 / kl.coef, completions=128)
    assert 0.01 / kl.coef == pytest.approx(0.2, rel=0.01)


def test_state_survives() -> None:
    kl = KLController(0.1, target=0.2, horizon=100)
    kl.update(1.0, completions=50)
    other = KLController(0.1, target=0.2, horizon=100)
    other.load_state_dict(kl.state_dict())
    assert other.coef == kl.coef != 0.1
    constant = KLController(0.03, target=None, horizon=100)
    constant.load_state_dict(kl.state_dict())
    assert constant.coef == 0.03
