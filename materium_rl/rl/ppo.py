"""PPO on crystals: GRPO's trainer with a critic in place of the group.

A value head on the policy says, before each token, what the crystal will earn; generalised advantages
credit the token at which that changes. TRL's clipped loss takes advantages of single tokens as they are,
its passes over a batch (``num_iterations``) and parts of it (``minibatches``) are PPO's epochs and
minibatches. The KL divergence from the reference policy is counted once: in the loss, or in the reward of
each token (``rl.kl_in``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.value_head import ValueHead
from materium_rl.rl.advantages import LARGEST, linear_part
from materium_rl.rl.gae import (
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    rewards_to_go,
    token_rewards,
    whiten,
)
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.rollout import Rollout
from materium_rl.rl.token_scores import scores_by_length


class CrystalPPOTrainer(CrystalGRPOTrainer):
    """Takes what ``CrystalGRPOTrainer`` takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        policy: CrystalForCausalLM = self.accelerator.unwrap_model(self.model)
        self.value_head = ValueHead(policy.config.hidden_size, seed=self.config.seed).to(policy.device)
        self._values: Tensor | None = None
        self._weigh_kl()

    def _weigh_kl(self) -> None:
        self.beta = self.kl.coef if self.config.rl.kl_in == "loss" else 0.0

    def _add_advantages(
        self, inputs: dict[str, Tensor], rollout: Rollout, signal: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Values, generalised advantages and the targets of the values, each (B, T).

        The targets are the rewards to come themselves (lambda 1 for the critic, whatever that of the
        advantages: VC-PPO, arXiv 2503.01491): with the reward at the end only, shorter ones mean that the
        critic is taught by itself.

        What the guards remove from the rewards is removed before the critic sees them; what they add to push
        back a drift is added to the advantages of all tokens. Crystals that could not be measured teach
        nothing.
        """
        standard = self.guards.standardise(rollout.structures)
        known = torch.from_numpy(~np.isnan(signal)).to(rollout.log_probs.device)
        rewards = torch.from_numpy(self._guarded(signal, standard)).to(rollout.log_probs)
        mask = rollout.completion_mask
        measured = mask * known[:, None]
        if self.steps_done == 0:
            self.value_head.start_at(float(rewards[known].mean()) if bool(known.any()) else 0.0)
        values = self._values_of(rollout) * mask
        per_token = token_rewards(rewards, self._penalties(inputs), mask)
        advantages = generalized_advantages(per_token, values, mask, self.config.rl.ppo.gae_lambda)
        returns = rewards_to_go(per_token)
        self._record_critic(values, returns, measured)
        scaled = whiten(advantages, measured).clamp(-LARGEST, LARGEST)
        restoring = torch.from_numpy(self._restoring(rollout, standard)).to(scaled)
        inputs["advantages"] = (scaled + restoring[:, None]) * measured
        inputs["old_values"] = values
        inputs["returns"] = returns
        inputs["value_mask"] = measured
        length = mask.sum(dim=1)
        return {
            "advantage": (inputs["advantages"].sum(dim=1) / length).cpu().numpy(),
            "value": (values.sum(dim=1) / length).cpu().numpy(),
        }

    def _guarded(self, signal: np.ndarray, standard: np.ndarray) -> np.ndarray:
        """Rewards (B,) without their part that is linear in the descriptors of the guards; 0 for NaN."""
        known = ~np.isnan(signal)
        rewards = np.where(known, signal, 0.0)
        if known.sum() > standard.shape[1] + 2:
            explained = linear_part(rewards[known], standard[known], self.guards.is_floor)
            rewards[known] -= explained - rewards[known].mean()
        return rewards

    def _penalties(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the KL divergence costs each token of the rollout, (B, T)."""
        drawn = inputs["old_per_token_logps"]
        if self.config.rl.kl_in == "loss" or self.ref_model is None:
            return torch.zeros_like(drawn)
        divergence = drawn - inputs["ref_per_token_logps"]
        self._metrics["train"]["kl"].append(float(divergence.sum() / inputs["completion_mask"].sum()))
        return self.kl.coef * divergence

    def _record_critic(self, values: Tensor, returns: Tensor, mask: Tensor) -> None:
        """How well the critic foresaw the batch before learning from it."""
        metrics = self._metrics["train"]
        metrics["critic/explained_variance"].append(explained_variance(values, returns, mask))
        metrics["critic/value"].append(float((values * mask).sum() / mask.sum().clamp(min=1)))

    def _values_of(self, rollout: Rollout) -> Tensor:
        """Values (B, T) of the states that the tokens of the rollout follow."""
        policy = self.accelerator.unwrap_model(self.model)
        whole = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)
        with torch.no_grad():
            first = rollout.prompt_ids.shape[1]
            return scores_by_length(policy, whole, self.config.rl.temperature, first, self.value_head)[2]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, _attention_mask: Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[Tensor, Tensor, None]:
        """As in GRPO; the values of the same pass are kept for the loss."""
        policy: CrystalForCausalLM = self.accelerator.unwrap_model(model)
        first = input_ids.shape[1] - logits_to_keep
        log_probs, entropies, self._values = scores_by_length(
            policy, input_ids, self.config.rl.temperature, first, self.value_head
        )
        return log_probs, entropies, None

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """GRPO's loss with the advantages of single tokens, and the clipped value loss."""
        loss = super()._compute_loss(model, inputs)
        assert self._values is not None
        ppo = self.config.rl.ppo
        value_loss = clipped_value_loss(
            self._values, inputs["old_values"], inputs["returns"], inputs["value_mask"], ppo.value_clip_range
        )
        self._values = None
        self._metrics["train"]["critic/loss"].append(float(value_loss.detach()))
        return loss + ppo.value_coef * value_loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """TRL's optimizer, with the value head as its last group."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        head = {"params": list(self.value_head.parameters()), "weight_decay": 0.0}
        optimizer.add_param_group(head | {"lr": self.config.rl.ppo.value_learning_rate})
        return optimizer

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's schedule, but for the value head, whose rate is constant: it has to follow the policy."""
        schedule = super().create_scheduler(*args, **kwargs)
        schedule.lr_lambdas[-1] = _constant
        self.optimizer.param_groups[-1]["lr"] = self.config.rl.ppo.value_learning_rate
        return schedule

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer clears the gradients of the policy only."""
        self.value_head.zero_grad()
        loss: Tensor = super().training_step(*args, **kwargs)
        nn.utils.clip_grad_norm_(self.value_head.parameters(), self.config.rl.max_grad_norm)
        return loss

    def _write_parts(self, folder: Path) -> None:
        super()._write_parts(folder)
        self.value_head.save(folder)

    def restore_rollout_state(self, checkpoint: Path) -> None:
        """Load the value head too."""
        super().restore_rollout_state(checkpoint)
        self.value_head.load(checkpoint)


def _constant(_update: int) -> float:
    return 1.0
