"""Control: GRPO that learns from rewards that are not those of its crystals.

Whatever it gains, the loop gains without the reward: nothing, if all is well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rl.grpo import CrystalGRPOTrainer


class ShuffledRewardTrainer(CrystalGRPOTrainer):
    """Hands the scores of each batch round among its crystals before anything is learnt from them."""

    def _credited(self, step: int, table: ScoreTable) -> ScoreTable:
        """Each crystal with the outcome and the scores of another one of the batch."""
        order = np.random.default_rng((self.config.seed, 5, step)).permutation(len(table))
        earned = ("outcome", "reason", "reward", "gate", "terms")
        return ScoreTable(
            tuple(
                replace(row, **{name: getattr(table.rows[other], name) for name in earned})
                for row, other in zip(table, order, strict=True)
            )
        )

    def _signal(self, table: ScoreTable) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """As in GRPO; the reward that each crystal was given is recorded."""
        signal, columns = super()._signal(table)
        return signal, columns | {"credited_reward": table.rewards}
