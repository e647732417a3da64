"""The update, and what holds the policy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from materium_rl.config.section import Section


class PPOConfig(Section):
    """What PPO has and GRPO has not: a critic; see ``rl.ppo``."""

    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="1 takes the advantages from the rewards alone, 0 from the values alone"
    )
    value_clip_range: float = Field(0.2, gt=0, description="how far one step may move a value")
    value_learning_rate: float = Field(1e-3, gt=0, description="of the value head; constant")
    value_batches: int = Field(4, ge=1, description="batches, the newest ones, that the critic learns from")


LOSS_TYPES = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
PPO_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


ALGORITHMS = Literal["grpo", "ppo", "best-of-n", "sft-accept", "temperature", "shuffled-reward"]


class RLConfig(Section):
    """The update; names and meanings as in TRL."""

    algorithm: ALGORITHMS = Field(
        "grpo", description="grpo and ppo, or a control at equal reward calls, see docs/finetuning.md"
    )
    steps: int = Field(160, ge=1, description="batches of completions")
    batch_size: int = Field(128, ge=2, description="completions per step")
    group_size: int = Field(
        128, ge=2, description="GRPO: completions that share one baseline, and one prompt if there are any"
    )
    learning_rate: float = Field(8e-4, gt=0, description="at the start; falls evenly to 0 at the last step")
    num_iterations: int = Field(1, ge=1, description="passes over each batch of completions")
    minibatches: int = Field(1, ge=1, description="updates per pass")
    kl_coef: float = Field(0.05, ge=0, description="weight of the KL divergence from the reference policy")
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="where the KL divergence is counted, once; in the reward of each token: PPO only"
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description="KL divergence, nats per token, that kl_coef is steered to; null keeps it constant",
    )
    kl_horizon: int = Field(2560, ge=1, description="completions in which kl_coef adapts")
    clip_range: float = Field(0.2, gt=0)
    clip_range_high: float | None = Field(
        None,
        gt=0,
        description="upper bound where it is another; of cispo that of the ratio itself, such as 5",
    )
    loss_type: LOSS_TYPES = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="of the ratio; sequence with loss_type grpo is GSPO"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "batch", description="GRPO: the spread that advantages are in units of"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0)
    average_decay: float = Field(
        0.97,
        ge=0,
        lt=1,
        description="decay of the weight average that a run ends with; 0 keeps the last weights",
    )
    reward_power: float = Field(
        0.5,
        gt=0,
        le=1,
        description="advantages are those of reward to this power; below 1 it tames a long tail",
    )
    ppo: PPOConfig = PPOConfig()
    accept_share: float = Field(
        0.25, gt=0, le=1, description="sft-accept: share of a group, its best, whose likelihood is raised"
    )
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.7, 0.85, 1.0, 1.15, 1.3),
        min_length=1,
        description="temperature: tried in turn, in units of temperature; that of the best mean reward stays",
    )

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per batch of completions."""
        return self.num_iterations * self.minibatches

    @property
    def baseline_size(self) -> int:
        """Completions that are compared with one another: a group; with a critic the whole batch."""
        return self.batch_size if self.algorithm == "ppo" else self.group_size

    @property
    def prompt_size(self) -> int:
        """Completions of one prompt: a group; with a critic each has its own."""
        return 1 if self.algorithm == "ppo" else self.group_size

    @model_validator(mode="after")
    def _parts_fill_the_batch(self) -> Self:
        for name, size in (("group_size", self.baseline_size), ("minibatches", self.minibatches)):
            if self.batch_size % size:
                raise ValueError(f"batch_size {self.batch_size} must be a multiple of {name} {size}")
        return self

    @model_validator(mode="after")
    def _loss_has_what_it_needs(self) -> Self:
        if self.loss_type == "cispo" and (self.clip_range_high or 0) < 1:
            raise ValueError(
                "loss_type cispo needs clip_range_high of at least 1, the bound of the ratio, such as 5"
            )
        level = {"luspo": "sequence", "vespo": "token"}.get(self.loss_type, self.importance_sampling_level)
        if level != self.importance_sampling_level:
            raise ValueError(f"loss_type {self.loss_type} needs importance_sampling_level {level}")
        return self

    @model_validator(mode="after")
    def _algorithm_can_do_it(self) -> Self:
        if self.algorithm == "ppo":
            if self.loss_type not in PPO_LOSS_TYPES or self.importance_sampling_level != "token":
                raise ValueError(
                    f"algorithm ppo clips the ratio of each token: loss_type must be one of "
                    f"{', '.join(PPO_LOSS_TYPES)}, and importance_sampling_level token"
                )
        elif self.kl_in == "reward":
            raise ValueError(
                "kl_in reward needs algorithm ppo, which rewards single tokens; use kl_in loss, or ppo"
            )
        return self

    @model_validator(mode="after")
    def _target_has_a_weight(self) -> Self:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target needs a kl_coef above 0 to start from")
        return self


class GuardsConfig(Section):
    """Descriptors of the samples that fine-tuning may not drift away from; see ``rl.guards``."""

    descriptors: tuple[str, ...] = ("n_sites", "n_elements", "rare_earth", "anion")
    floors: tuple[str, ...] = Field(("anion",), description="those among them that may rise but not fall")
    strength: float = Field(3.0, ge=0, description="weight of the restoring term")


class ReplayConfig(Section):
    """Crystals of earlier steps that each update imitates; see ``rl.replay``."""

    coef: float = Field(1.0, ge=0, description="weight of their negative log-likelihood per token")
    batch_size: int = Field(64, ge=0, description="crystals per update; 0 switches replay off")
    capacity: int = Field(512, ge=1, description="crystals that are held")
    per_framework: int = Field(4, ge=1, description="crystals of one framework that are held")
