"""Value head: what a policy's hidden state says about the reward that is to come."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from materium_rl.errors import PolicyError

FILE = "value_head.safetensors"


class ValueHead(nn.Module):
    """Two layers on the last hidden state that a token follows; predicts 0 until it is trained.

    It is no part of the policy: a policy folder is the same with and without.

    Args:
        hidden_size: Width of the policy.
        seed: Of the random first layer; the global generator is left alone.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.LayerNorm(hidden_size),
                nn.Linear(hidden_size, hidden_size),
                nn.SiLU(),
                nn.Linear(hidden_size, 1),
            )
        nn.init.zeros_(cast("nn.Linear", self.layers[-1]).weight)
        nn.init.zeros_(cast("nn.Linear", self.layers[-1]).bias)

    def start_at(self, value: float) -> None:
        """Predict this value everywhere, until trained."""
        nn.init.constant_(cast("nn.Linear", self.layers[-1]).bias, value)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values (B, T) of hidden states (B, T, hidden)."""
        values: Tensor = self.layers(hidden)[..., 0]
        return values

    def save(self, folder: Path) -> None:
        """Write ``value_head.safetensors`` into a checkpoint."""
        save_file(self.state_dict(), folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            PolicyError: There is none, or it is of a policy of another width.
        """
        path = folder / FILE
        if not path.is_file():
            raise PolicyError(f"no value head at {path}; expected a checkpoint of a PPO run")
        try:
            self.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise PolicyError(
                f"{path} does not fit this policy: {' '.join(str(error).split())[:200]}"
            ) from error
