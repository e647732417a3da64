"""PPO on crystals: GRPO's trainer with a critic in place of the group.

A value head on the policy says, before each token, what the crystal will earn; generalised advantages
credit the token at which that changes. TRL's clipped loss takes advantages of single tokens as they are; its
passes over a batch (``num_iterations``) and parts of it (``minibatches``) are PPO's epochs and minibatches,
for the policy and for the critic, which has an optimizer of its own. The KL divergence from the reference
policy is counted once: in the loss, or in the reward of each token (``rl.kl_in``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.value_head import ValueHead
from materium_rl.rl.advantages import LARGEST, linear_part
from materium_rl.rl.critic import Critic
from materium_rl.rl.gae import (
    explained_variance,
    generalized_advantages,
    rewards_to_go,
    token_rewards,
    whiten,
)
from materium_rl.rl.grpo import CrystalGRPOTrainer, Part
from materium_rl.rl.rollout import Rollout
from materium_rl.rl.token_scores import scores_by_length
from materium_rl.token_layout import TokenClass


class CrystalPPOTrainer(CrystalGRPOTrainer):
    """Takes what ``CrystalGRPOTrainer`` takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        policy: CrystalForCausalLM = self.accelerator.unwrap_model(self.model)
        rl = self.config.rl
        self.critic = Critic(
            ValueHead(policy.config.hidden_size, seed=self.config.seed).to(policy.device),
            learning_rate=rl.ppo.value_learning_rate,
            clip_range=rl.ppo.value_clip_range,
            batches=rl.ppo.value_batches,
            passes=rl.num_iterations,
            minibatches=rl.minibatches,
        )
        self._weigh_kl()

    def _weigh_kl(self) -> None:
        self.beta = self.kl.coef if self.config.rl.kl_in == "loss" else 0.0

    def _add_advantages(
        self, inputs: dict[str, Tensor], rollout: Rollout, signal: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Generalised advantages (B, T) of the critic's values; the critic learns from the batch then.

        It learns the rewards to come themselves (lambda 1, whatever that of the advantages: VC-PPO,
        arXiv 2503.01491). With the reward at the end only, shorter targets mean that it is taught by itself.

        All that the guards look at is settled when the composition is written. So what they remove from the
        rewards, and what they add to push back a drift, goes to the tokens of the composition only: no later
        one can change it. Crystals that could not be measured teach nothing.
        """
        standard = self.guards.standardise(rollout.structures)
        known = ~np.isnan(signal)
        mask = rollout.completion_mask
        measured = mask * torch.from_numpy(known).to(mask)[:, None]
        composing = measured * is_composition(rollout.completion_ids)

        def settled(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(rollout.log_probs)[:, None] * composing

        rewards = torch.from_numpy(np.where(known, signal, 0.0)).to(rollout.log_probs)
        per_token = token_rewards(rewards, self._penalties(inputs), mask)
        hidden = self._hidden_of(rollout)
        values = self.critic.values(hidden) * mask
        advantages = generalized_advantages(per_token, values, mask, self.config.rl.ppo.gae_lambda)
        advantages -= settled(self._removed(signal, standard))
        self._teach_critic(hidden, values, rewards_to_go(per_token), measured)
        scaled = whiten(advantages, measured).clamp(-LARGEST, LARGEST)
        inputs["advantages"] = scaled + settled(self._restoring(rollout, standard))
        length = mask.sum(dim=1)
        return {
            "advantage": (inputs["advantages"].sum(dim=1) / length).cpu().numpy(),
            "value": (values.sum(dim=1) / length).cpu().numpy(),
        }

    def _removed(self, signal: np.ndarray, standard: np.ndarray) -> np.ndarray:
        """Part of the rewards (B,) that is linear in the descriptors of the guards, of mean 0."""
        known, removed = ~np.isnan(signal), np.zeros(len(signal))
        if known.sum() > standard.shape[1] + 2:
            explained = linear_part(signal[known], standard[known], self.guards.is_floor)
            removed[known] = explained - signal[known].mean()
        return removed

    def _penalties(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the KL divergence costs each token of the rollout, (B, T)."""
        drawn = inputs["old_per_token_logps"]
        if self.config.rl.kl_in == "loss" or self.ref_model is None:
            return torch.zeros_like(drawn)
        divergence = drawn - inputs["ref_per_token_logps"]
        self._metrics["train"]["kl"].append(float(divergence.sum() / inputs["completion_mask"].sum()))
        return self.kl.coef * divergence

    def _teach_critic(self, hidden: Tensor, values: Tensor, returns: Tensor, mask: Tensor) -> None:
        """Record how well the critic foresaw the batch, then let it learn."""
        chosen = mask.bool()
        seed = self.config.seed * 1_000_003 + self.steps_done
        metrics = self._metrics["train"]
        metrics["critic/explained_variance"].append(explained_variance(values, returns, mask))
        metrics["critic/value"].append(float(values[chosen].mean()))
        metrics["critic/loss"].append(self.critic.learn(hidden[chosen], returns[chosen], seed))

    def _hidden_of(self, rollout: Rollout) -> Tensor:
        """Hidden states (B, T, hidden) that the tokens of the rollout follow."""
        policy = self.accelerator.unwrap_model(self.model)
        first = rollout.prompt_ids.shape[1]
        with torch.no_grad():
            return scores_by_length(policy, rollout.whole, self.config.rl.temperature, first, rollout.asked)[
                2
            ]

    @property
    def _parts(self) -> dict[str, Part]:
        return super()._parts | {"critic": self.critic}

    def _write_parts(self, folder: Path) -> None:
        super()._write_parts(folder)
        self.critic.save(folder)

    def restore_rollout_state(self, checkpoint: Path) -> None:
        """Load the value head too."""
        super().restore_rollout_state(checkpoint)
        self.critic.load(checkpoint)


def is_composition(ids: Tensor) -> Tensor:
    """1 for the tokens (B, T) up to the one that ends the composition, that included."""
    ends = (ids == TokenClass.LATTICE).long()
    return (ends.cumsum(dim=1) - ends == 0).long()
