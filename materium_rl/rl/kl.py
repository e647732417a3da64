"""Weight of the KL penalty: constant, or held so that the policy stays at a wanted distance."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_ERROR = 0.2
"""A step moves the weight as if the KL missed its target by at most this share."""


@dataclass
class KLController:
    """Proportional control of the KL weight (Ziegler et al., arXiv 1909.08593, section 2.2).

    Args:
        coef: Weight, at first.
        target: Wanted KL divergence from the reference policy, nats per token; None keeps the weight.
        horizon: Completions over which an error of 1 would multiply the weight by about e.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, completions: int) -> None:
        """Take in the KL per token that a batch of completions had."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
            self.coef *= 1 + error * completions / self.horizon

    def state_dict(self) -> dict[str, float]:
        """The weight."""
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore ``state_dict``; a constant weight stays as it was set."""
        if self.target is not None:
            self.coef = state["coef"]
