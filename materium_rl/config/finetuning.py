"""The config of ``materium-rl finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from materium_rl.config.loading import explain, merge
from materium_rl.config.reward import RewardConfig
from materium_rl.config.rl import GuardsConfig, ReplayConfig, RLConfig
from materium_rl.config.section import Section
from materium_rl.config.sentinel import SentinelConfig, SentinelResponses
from materium_rl.prompts import PromptsConfig

PROMPT_GROUP = 16
"""Size of the groups of a run with prompts that does not name one: eight prompts in a batch."""


class UntilConfig(Section):
    """When a stage ends: by a score, by a plateau, and at the latest after some steps."""

    steps: int | None = Field(None, ge=1, description="most steps of the stage; null: to the end of the run")
    of: str = Field("reward", description="what score and plateau look at: reward, or a reward's name")
    score: float | None = Field(None, ge=0, le=1, description="ends when its mean reaches this")
    plateau: int | None = Field(None, ge=1, description="ends after so many steps without a gain")
    min_gain: float = Field(0.01, gt=0, description="what counts as a gain of the mean")
    window: int = Field(5, ge=1, description="steps of the mean")


STAGED = ("reward", "rl", "guards", "replay", "sentinel")
OF_THE_RUN = ("algorithm", "steps", "batch_size", "num_iterations", "minibatches")
"""Of ``rl``: what a stage cannot change."""


class StageConfig(Section):
    """One stage of a run: what is other than in the rest of the config, and when it ends."""

    name: str = Field(min_length=1)
    until: UntilConfig = UntilConfig()
    reward: dict[str, Any] = Field({})
    rl: dict[str, Any] = Field({})
    guards: dict[str, Any] = Field({})
    replay: dict[str, Any] = Field({})
    sentinel: dict[str, Any] = Field({})

    @field_validator("rl")
    @classmethod
    def _leaves_the_run_alone(cls, rl: dict[str, Any]) -> dict[str, Any]:
        for name in OF_THE_RUN:
            if name in rl:
                hint = "; set until.steps" if name == "steps" else ""
                raise ValueError(f"rl.{name} is of the whole run, a stage cannot change it{hint}")
        return rl


class FinetuneConfig(Section):
    """Everything that ``materium-rl finetune`` needs."""

    policy: str = Field("nano", description="bundled name, policy folder or run folder")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(10, ge=1, description="steps between checkpoints that are kept")
    keep_checkpoints: int = Field(2, ge=1, description="of these, how many stay")
    resume_every: int = Field(
        1, ge=1, description="steps between checkpoints of which only the newest stays, to resume from"
    )
    reward: RewardConfig = RewardConfig()
    prompts: PromptsConfig = PromptsConfig()
    rl: RLConfig = RLConfig()
    guards: GuardsConfig = GuardsConfig()
    replay: ReplayConfig = ReplayConfig()
    sentinel: SentinelConfig = SentinelConfig()
    stages: tuple[StageConfig, ...] = Field(
        (), description="parts of the run, each with a reward of its own; see rl.stages"
    )

    def at_stage(self, index: int) -> FinetuneConfig:
        """The config of a stage, without stages; of a run without stages this one."""
        if not self.stages:
            return self
        tree = self.model_dump(exclude={"stages"})
        merge(tree, self.stages[index].model_dump(include=set(STAGED)))
        return FinetuneConfig.model_validate(tree)

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        for index, name in enumerate(names):
            try:
                self.at_stage(index)
            except ValidationError as error:
                raise ValueError(f"stage {name!r}: {explain(FinetuneConfig, error)}") from None
        return self

    @model_validator(mode="after")
    def _kl_can_be_raised(self) -> Self:
        signals = SentinelResponses.model_fields
        raising = [s for s in signals if self.sentinel.response_to(s) in ("raise_kl", "roll_back")]
        if raising and self.rl.kl_coef == 0:
            raise ValueError(
                f"the sentinel raises the KL weight (responses.{raising[0]}), so rl.kl_coef must be above 0"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _several_prompts_in_a_batch(cls, tree: Any) -> Any:
        """Without a group size of its own a run with prompts has smaller groups."""
        if not isinstance(tree, Mapping) or not isinstance(tree.get("prompts"), Mapping):
            return tree
        rl = tree.get("rl", {})
        if not isinstance(rl, Mapping) or "group_size" in rl or not _asks(tree["prompts"]):
            return tree
        return {**tree, "rl": {**rl, "group_size": min(PROMPT_GROUP, rl.get("batch_size", PROMPT_GROUP))}}


def _asks(prompts: Mapping[str, Any]) -> bool:
    """Whether a section of prompts, not yet checked, asks for anything."""
    limits = prompts.get("constraints") or {}
    values = limits.values() if isinstance(limits, Mapping) else [limits]
    return bool(prompts.get("conditions")) or any(value is not None for value in values)
