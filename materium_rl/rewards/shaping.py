"""Curves that map a raw value to a score in [0, 1]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Curve(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Curve):
    """The value is already a score; clipped to [0, 1]."""

    kind: Literal["identity"] = "identity"

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return min(1.0, max(0.0, value))


class TargetWindow(_Curve):
    """1 at ``target``, 1/2 at ``width`` from it: 1 / (1 + ((value - target) / width)^2).

    It never reaches 0, so that far from the target too the closer of two samples earns more.
    """

    kind: Literal["target"] = "target"
    target: float
    width: float = Field(gt=0)

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return 1.0 / (1.0 + ((value - self.target) / self.width) ** 2)


class SoftStep(_Curve):
    """1 up to ``full``, 0 from ``zero`` on, linear between (either order of the two)."""

    kind: Literal["soft_step"] = "soft_step"
    full: float
    zero: float

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return min(1.0, max(0.0, (value - self.zero) / (self.full - self.zero)))


class SoftDecay(_Curve):
    """1 up to ``full``, then 1 / (1 + ((value - full) / (half - full))^2): 1/2 at ``half``, never 0."""

    kind: Literal["soft_decay"] = "soft_decay"
    full: float
    half: float

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        excess = max(0.0, value - self.full) / (self.half - self.full)
        return 1.0 / (1.0 + excess**2)


class Interval(_Curve):
    """1 from ``low`` to ``high``, both included, 0 elsewhere."""

    kind: Literal["interval"] = "interval"
    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return float(self.low <= value <= self.high)


Shaping = Annotated[Identity | TargetWindow | SoftStep | SoftDecay | Interval, Field(discriminator="kind")]
