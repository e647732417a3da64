"""The critic of PPO: a value head that learns from what the policy has seen of late.

A batch of crystals holds little about its rewards: they come once per crystal. So the head learns from
several batches, on the hidden states that the policy had when it wrote them, as in the auxiliary phase of PPG
(arXiv 2009.04416). The policy is left alone, and as only the head is computed, this takes little time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from materium_rl.policies.value_head import ValueHead
from materium_rl.rl.gae import clipped_value_loss


@dataclass(frozen=True)
class Experience:
    """Tokens of one batch: hidden states (N, hidden) that they follow, rewards that came after, (N,)."""

    hidden: Tensor
    returns: Tensor


class Critic:
    """A value head, its optimizer and the last batches.

    Args:
        head: Value head.
        learning_rate: Constant, as it has to follow the policy.
        clip_range: How far one call of ``learn`` may move a value.
        batches: How many batches it learns from.
        passes: Passes over them after each batch.
        minibatches: Updates per pass and batch.
    """

    def __init__(
        self,
        head: ValueHead,
        *,
        learning_rate: float,
        clip_range: float,
        batches: int,
        passes: int,
        minibatches: int,
    ) -> None:
        self.head, self.learning_rate, self.clip_range = head, learning_rate, clip_range
        self.passes, self.minibatches = passes, minibatches
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.0)
        self.memory: deque[Experience] = deque(maxlen=batches)

    @torch.no_grad()
    def values(self, hidden: Tensor) -> Tensor:
        """Values (B, T) of hidden states (B, T, hidden); before it has learnt, 0."""
        values: Tensor = self.head(hidden.float())
        return values

    def learn(self, hidden: Tensor, returns: Tensor, seed: int) -> float:
        """Take in a batch and learn from the last ones.

        Args:
            hidden: Hidden states (N, hidden).
            returns: What was earned from each on, (N,).
            seed: Of the order of the tokens.

        Returns:
            The mean clipped value loss.
        """
        if not self.memory:
            self.head.start_at(float(returns.mean()) if len(returns) else 0.0)
        self.memory.append(Experience(hidden.half(), returns))
        states = torch.cat([e.hidden for e in self.memory]).float()
        targets = torch.cat([e.returns for e in self.memory])
        before = self.values(states)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(self.passes):
            order = torch.randperm(len(states), generator=generator).to(states.device)
            for rows in order.tensor_split(self.minibatches * len(self.memory)):
                loss = clipped_value_loss(
                    self.head(states[rows]),
                    before[rows],
                    targets[rows],
                    torch.ones_like(targets[rows]),
                    self.clip_range,
                )
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
                self.optimizer.step()
                losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    def save(self, folder: Path) -> None:
        """Write the value head into a checkpoint."""
        self.head.save(folder)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""
        self.head.load(folder)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and memory."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "memory": [(e.hidden, e.returns) for e in self.memory],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.memory.clear()
        self.memory.extend(Experience(*pair) for pair in state["memory"])
