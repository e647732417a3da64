"""The configs of ``materium-rl evaluate`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from materium_rl.config.reward import RewardConfig
from materium_rl.config.section import Section
from materium_rl.prompts import PromptsConfig


class EvaluatorConfig(Section):
    """Who judges stability beside the reward's own potential; see ``evaluation.judges``."""

    potential: str = Field(
        "auto", description="a potential of docs/potentials.md; auto: the first at hand that the reward lacks"
    )
    scale: Literal["mp2020", "uncorrected"] | None = Field(
        None, description="its energies, where its name does not tell"
    )
    relax: int = Field(0, ge=0, description="most relaxation steps of what is valid and unique; 0: none")
    relaxer: str | None = Field(
        None, description="potential that relaxes, such as chgnet, which is fast; without it the evaluator"
    )
    relax_within: float | None = Field(
        None, ge=0, description="relax only what is at most so far above the hull before, eV/atom"
    )

    @model_validator(mode="after")
    def _relaxes_something(self) -> Self:
        if not self.relax and (self.relaxer is not None or self.relax_within is not None):
            raise ValueError("relaxer and relax_within need relax=N (--relax N), the most steps")
        return self


class EvaluateConfig(Section):
    """Everything that ``materium-rl evaluate`` needs."""

    source: str = Field(description="structure files, a folder or archive of them, a policy or a run")
    n: int | None = Field(
        None, ge=1, description="structures sampled from a policy (1024), or the first so many of files"
    )
    requested: int | None = Field(
        None, ge=1, description="structures that were asked for, where files hold fewer"
    )
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    reference: str | None = Field(
        None, description="known structures: files, an .npz index, or a policy for its training structures"
    )
    targets: tuple[str, ...] = Field(
        (), description="properties with the range that is wanted, such as band_gap=1..2"
    )
    out: Path = Path("evaluation")
    evaluator: EvaluatorConfig = EvaluatorConfig()
    reward: RewardConfig = RewardConfig()


class ControlsConfig(Section):
    """What the baseline reaches without fine-tuning."""

    enabled: bool = Field(False, description="sample a hotter baseline, and its best at equal reward calls")
    temperature: float = Field(1.2, gt=0, description="of the hotter baseline, in units of temperature")
    max_calls: int | None = Field(
        None, ge=1, description="most reward calls of best-of-n; unset: as many as the run and n samples"
    )

    @model_validator(mode="after")
    def _limit_has_something_to_limit(self) -> Self:
        if self.max_calls is not None and not self.enabled:
            raise ValueError("max_calls limits a control: add --controls, or leave it out")
        return self


class CompareConfig(Section):
    """Everything that ``materium-rl compare`` needs."""

    policies: tuple[str, ...] = Field(
        min_length=2,
        description="the first one is the baseline; a,b,c are runs of one recipe with several seeds",
    )
    n: int = Field(1024, ge=1, description="structures requested from each policy")
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    out: Path = Path("comparison")
    reward: RewardConfig = RewardConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    prompts: PromptsConfig | None = Field(
        None, description="what every policy is asked for; null: what the runs were trained with"
    )
    controls: ControlsConfig = ControlsConfig()
    trajectory: bool = Field(
        False, description="sample n/4 structures from every checkpoint of each run as well"
    )
