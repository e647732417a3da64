"""Experience replay: the best different crystals of a run are shown to the policy again and again.

A policy that follows a reward for being different moves from framework to framework and forgets what it
has left. The buffer holds a few crystals of each framework found so far, and each update also raises the
likelihood of some of them (self-imitation: Oh et al., arXiv 1806.05635; the inception memory of
REINVENT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Memory:
    """One crystal: what it is, what it earned when it was found, how it is written, what was asked for.

    ``prompt`` is ``Prompt.as_data`` of what it was asked for; empty for nothing.
    """

    structure: str
    framework: str
    reward: float
    tokens: list[int]
    prompt: dict[str, Any] = field(default_factory=dict)


@dataclass
class ReplayBuffer:
    """The best crystals so far, ``per_framework`` of each framework, ``capacity`` in all.

    Args:
        capacity: Most crystals that are held.
        per_framework: Most crystals of one framework.
    """

    capacity: int
    per_framework: int
    _held: dict[str, Memory] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, memories: Sequence[Memory]) -> None:
        """Take in the crystals of a batch; of equal ones the best is kept, then the best of all."""
        for memory in memories:
            held = self._held.get(memory.structure)
            if memory.reward > 0 and (held is None or memory.reward > held.reward):
                self._held[memory.structure] = memory
        kept: dict[str, Memory] = {}
        frameworks: dict[str, int] = {}
        for memory in sorted(self._held.values(), key=lambda m: -m.reward):
            count = frameworks.get(memory.framework, 0)
            if count < self.per_framework and len(kept) < self.capacity:
                frameworks[memory.framework] = count + 1
                kept[memory.structure] = memory
        self._held = kept

    def draw(self, n: int, rng: np.random.Generator) -> list[Memory]:
        """N different crystals (all, if there are fewer), drawn evenly."""
        memories = list(self._held.values())
        return [memories[i] for i in rng.permutation(len(memories))[:n]]

    def state_dict(self) -> dict[str, Any]:
        """What is held."""
        return {"held": [vars(memory) for memory in self._held.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._held = {row["structure"]: Memory(**row) for row in state["held"]}
