"""The config of ``materium-rl generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from materium_rl.conditions import Values, check_values
from materium_rl.config.section import Section
from materium_rl.constraints import Constraints
from materium_rl.prompts import PromptsConfig


class GenerateConfig(Section):
    """Everything that ``materium-rl generate`` needs."""

    policy: str = "nano"
    n: int = Field(100, ge=1, description="structures requested")
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    constraints: Constraints = Constraints()
    conditions: dict[str, Values] = Field(
        {}, description="values that the samples are asked for; of several, n samples of each combination"
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="above 1 the conditions count for more, and samples vary less; 1 takes no extra time",
    )
    prompts: PromptsConfig | None = Field(
        None,
        description="what each sample is asked for, drawn; null: what a run was trained with, unless "
        "conditions or constraints are given",
    )
    out: Path = Path("generated")

    @field_validator("conditions")
    @classmethod
    def _known_conditions(cls, values: dict[str, Values]) -> dict[str, Values]:
        check_values(values)
        return values

    @model_validator(mode="after")
    def _asked_once(self) -> Self:
        if self.prompts is not None and self.prompts.enabled and self.asks:
            raise ValueError("prompts are drawn, conditions and constraints are for all: give one of them")
        return self

    @property
    def asks(self) -> bool:
        """Whether all samples are asked for something."""
        return bool(self.conditions) or bool(self.constraints.request())
