"""Control: supervised steps on the best crystals of each batch, in place of a policy gradient.

Reward-ranked fine-tuning (RAFT: Dong et al., arXiv 2304.06767): the likelihood of the best share of each
group is raised, the others teach nothing. Optimizer, schedule, passes, KL penalty, replay and weight average
are those of GRPO; the guards, which shape advantages, have nothing to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.rollout import Rollout


class SFTAcceptTrainer(CrystalGRPOTrainer):
    """Keeps the best of each group for the negative log-likelihood."""

    _log_probs: Tensor

    def _add_advantages(
        self, inputs: dict[str, Tensor], rollout: Rollout, signal: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Leave only what is accepted in the loss; the advantages are 0, so only the KL is left of TRL's."""
        chosen = accepted(signal, self.config.rl.group_size, self.config.rl.accept_share)
        self._metrics["train"]["accepted"].append(float(chosen.mean()))
        mask = inputs["completion_mask"]
        inputs["completion_mask"] = mask * torch.from_numpy(chosen).to(mask)[:, None]
        inputs["num_items_in_batch"] = inputs["completion_mask"].sum().clamp(min=1)
        inputs["advantages"] = torch.zeros_like(rollout.log_probs[:, 0])
        return {"accepted": chosen}

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, None]:
        """As in GRPO; the log-probabilities are kept for the loss."""
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._log_probs = found[0]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """KL penalty, replay, and the negative log-likelihood per token of what was accepted."""
        loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        likelihood = -(self._log_probs * mask).sum() / mask.sum().clamp(min=1)
        self._metrics["train"]["accepted/nll"].append(float(likelihood.detach()))
        return loss + likelihood


def accepted(rewards: np.ndarray, group_size: int, share: float) -> np.ndarray:
    """The best share of each group, of equal ones all; never what earned nothing or could not be measured.

    Args:
        rewards: (B,), groups adjacent; NaN marks what could not be measured.
        group_size: G, divides B.
        share: Of the samples of a group.

    Returns:
        bool (B,).
    """
    grouped = np.nan_to_num(rewards, nan=0.0).reshape(-1, group_size)
    count = max(1, round(share * group_size))
    least = np.sort(grouped, axis=1)[:, -count, None]
    chosen: np.ndarray = ((grouped >= least) & (grouped > 0)).reshape(-1)
    return chosen
