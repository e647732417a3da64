"""Control: no learning; the reward calls choose the sampling temperature.

The temperatures of ``rl.temperatures`` take turns, and that of the best mean reward stays. The run keeps the
weights it began with and says at which temperature ``generate`` and ``compare`` sample them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from materium_rl.policies.run_sampling import RunSampling
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rl.best_of_n import BestOfNTrainer
from materium_rl.rl.grpo import Part


class Tried:
    """Mean reward of each temperature so far."""

    def __init__(self, temperatures: tuple[float, ...]) -> None:
        self.temperatures = temperatures
        self._sums = dict.fromkeys(temperatures, 0.0)
        self._counts = dict.fromkeys(temperatures, 0)

    def add(self, temperature: float, rewards: np.ndarray) -> None:
        """Take in the rewards (B,) of a batch; NaN where there is none."""
        known = rewards[~np.isnan(rewards)]
        self._sums[temperature] += float(known.sum())
        self._counts[temperature] += len(known)

    def mean(self, temperature: float) -> float:
        """Mean reward, minus infinity before it was tried."""
        count = self._counts[temperature]
        return self._sums[temperature] / count if count else -np.inf

    @property
    def best(self) -> float:
        """That of the highest mean reward; of equal ones the one nearest to 1."""
        return max(self.temperatures, key=lambda t: (self.mean(t), -abs(np.log(t))))

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class TemperatureTrainer(BestOfNTrainer):
    """Samples at one temperature after another."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tried = Tried(self.config.rl.temperatures)

    def _factor(self, step: int) -> float:
        temperatures = self.config.rl.temperatures
        return temperatures[(step - 1) % len(temperatures)]

    def _temperature(self, step: int) -> float:
        return self._factor(step) * self.config.rl.temperature

    def _credited(self, step: int, table: ScoreTable) -> ScoreTable:
        """Count the batch for its temperature."""
        self.tried.add(self._factor(step), table.rewards)
        self._metrics["train"]["temperature"].append(self._temperature(step))
        self._metrics["train"]["temperature/best"].append(self.tried.best * self.config.rl.temperature)
        return table

    @property
    def _parts(self) -> dict[str, Part]:
        return super()._parts | {"tried": self.tried}

    def _sampling(self) -> RunSampling:
        return RunSampling(temperature=self.tried.best * self.config.rl.temperature)
