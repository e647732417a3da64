"""What the sentinel watches, and what it does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from materium_rl.config.section import Section


class SentinelLimits(Section):
    """How far a signal may go; see ``rl.signals`` and docs/finetuning.md for what was measured."""

    unique: float = Field(0.55, ge=0, description="distinct crystals may fall to so many times the reference")
    prototype_unique: float = Field(0.4, ge=0, description="distinct prototypes: the same")
    top5: float = Field(0.25, ge=0, description="share of the five commonest prototypes may rise by so much")
    rare_earth: float = Field(0.25, ge=0, description="share with rare earths may rise by so much")
    anion: float = Field(
        0.6, ge=0, description="share with an anion former may fall to so many times the reference"
    )
    element_divergence: float = Field(0.4, gt=0, description="of the elements from the reference, bits")
    mean_sites: float = Field(
        1.4, gt=1, description="mean number of sites may change by this factor, up or down"
    )
    mean_elements: float = Field(1.3, gt=1, description="mean number of elements: the same")
    hull_tail: float = Field(0.1, ge=0, description="share more than 0.1 eV/atom below the hull")
    second_opinion: float = Field(
        0.5, ge=0, description="score by a second model, over that by the reward's own, of the best samples"
    )
    dominant_term: float = Field(0.95, gt=0, le=1, description="share of one term in the spread of the terms")
    zero_spread: float = Field(0.5, ge=0, le=1, description="share of groups that all earn the same")
    kl: float = Field(1.0, gt=0, description="median KL divergence from the reference policy, nats per token")
    clip_fraction: float = Field(0.3, gt=0, le=1, description="share of tokens whose ratio was clipped")


Response = Literal["ignore", "warn", "raise_kl", "roll_back", "stop"]


class SentinelResponses(Section):
    """What is done when a signal is past its limit."""

    unique: Response = "stop"
    prototype_unique: Response = "stop"
    top5: Response = "stop"
    rare_earth: Response = "warn"
    anion: Response = "warn"
    element_divergence: Response = "warn"
    mean_sites: Response = "warn"
    mean_elements: Response = "warn"
    hull_tail: Response = "warn"
    second_opinion: Response = "warn"
    dominant_term: Response = "warn"
    zero_spread: Response = "warn"
    kl: Response = "warn"
    clip_fraction: Response = "warn"


class SentinelConfig(Section):
    """Watches a run for collapse and for a reward that is being gamed; see ``rl.sentinel``."""

    response: Response | None = Field(None, description="of every signal, in place of those in responses")
    responses: SentinelResponses = SentinelResponses()
    limits: SentinelLimits = SentinelLimits()
    window: int = Field(5, ge=1, description="steps whose samples are judged together")
    patience: int = Field(3, ge=1, description="steps in a row past a limit before anything is done")
    kl_factor: float = Field(2.0, gt=1, description="raise_kl and roll_back multiply the KL weight by this")
    max_rollbacks: int = Field(2, ge=0, description="a run that must be rolled back once more is stopped")
    opinions: int = Field(
        8, ge=0, description="best samples of a step that a second model judges; 0: no second opinion"
    )

    def response_to(self, signal: str) -> Response:
        """What is done when a signal is past its limit."""
        response: Response = self.response or getattr(self.responses, signal)
        return response
