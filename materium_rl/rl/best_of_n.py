"""Control: no learning; of all that the policy writes for the same reward calls the best is kept.

The run keeps the weights it began with. ``compare`` takes the best of the samples that the run recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from materium_rl.policies.run_sampling import RunSampling
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.rollout import Rollout


class BestOfNTrainer(CrystalGRPOTrainer):
    """Samples and scores; its updates move nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ref_model = None

    def _count_kl(self, _inputs: dict[str, Tensor], _mask: Tensor) -> None:
        """Nothing is held back, as nothing moves."""

    def _remember(self, step: int, rollout: Rollout, credited: ScoreTable) -> None:
        """Nothing is imitated: the tables of samples are the memory."""

    def _compute_loss(self, model: Any, _inputs: dict[str, Tensor]) -> Tensor:
        """0, with gradients of 0, by which the optimizer moves nothing."""
        loss: Tensor = 0.0 * next(model.parameters()).sum()
        return loss

    def _sampling(self) -> RunSampling:
        """How what this run ends with is sampled."""
        return RunSampling(best_of_samples=True)

    def _write_policy(self, folder: Path) -> None:
        super()._write_policy(folder)
        self._sampling().write(folder)
