"""Rewards that ask for a value near a target or, without a target, for high or low values."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from materium_rl.rewards.base import Reward
from materium_rl.rewards.shaping import Shaping, TargetWindow


class TargetedReward(Reward):
    """Base class; a subclass sets ``untargeted`` and redefines the two options with limits and units."""

    untargeted: ClassVar[Shaping]
    """The curve that scores when no target is given."""

    target: float | None = None
    width: float

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.target is None and "width" in self.model_fields_set:
            raise ValueError("width has no effect without a target; give both")
        return self

    def shaping(self) -> Shaping:
        """A window around the target, or the curve that needs none."""
        if self.target is None:
            return self.untargeted
        return TargetWindow(target=self.target, width=self.width)
