"""Curves that map a raw value to a score in [0, 1].

Each rises to one top and falls from it, or only does one of the two, so that over a range of values the
lowest score stands at one of its ends; ``Reverse`` turns a curve upside down.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Shaping(BaseModel):
    """Base class of the curves; a subclass implements ``__call__`` and ``top``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: ClassVar[str]
    """Name in an expression."""

    def __call__(self, value: float) -> float:
        """Score of a finite raw value."""
        raise NotImplementedError

    @property
    def top(self) -> float:
        """A value with the highest score; infinite for a curve that only rises or only falls."""
        raise NotImplementedError

    def lowest(self, low: float, high: float) -> float:
        """Lowest score of the values from ``low`` to ``high``."""
        return min(self(low), self(high))

    def highest(self, low: float, high: float) -> float:
        """Highest score of the values from ``low`` to ``high``."""
        return self(min(max(self.top, low), high))


class Identity(Shaping):
    """The value is already a score; clipped to [0, 1]."""

    kind: ClassVar[str] = "identity"

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return min(1.0, max(0.0, value))

    @property
    def top(self) -> float:
        """It rises."""
        return math.inf


class TargetWindow(Shaping):
    """1 at ``target``, 1/2 at ``width`` from it: 1 / (1 + ((value - target) / width)^2).

    It never reaches 0, so that far from the target too the closer of two samples earns more.
    """

    kind: ClassVar[str] = "window"
    target: float
    width: float = Field(gt=0)

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        distance = (value - self.target) / self.width
        return 1.0 / (1.0 + distance * distance)

    @property
    def top(self) -> float:
        """The target."""
        return self.target


class SoftStep(Shaping):
    """1 up to ``full``, 0 from ``zero`` on, linear between (either order of the two)."""

    kind: ClassVar[str] = "linear"
    full: float
    zero: float

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if self.full == self.zero:
            raise ValueError("full and zero must differ; a jump is step(low=...) or step(high=...)")
        return self

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return min(1.0, max(0.0, (value - self.zero) / (self.full - self.zero)))

    @property
    def top(self) -> float:
        """Beyond ``full``."""
        return math.copysign(math.inf, self.full - self.zero)


class SoftDecay(Shaping):
    """1 up to ``full``, then 1 / (1 + ((value - full) / (half - full))^2): 1/2 at ``half``, never 0."""

    kind: ClassVar[str] = "decay"
    full: float
    half: float

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.half <= self.full:
            raise ValueError(f"half ({self.half:g}) must be above full ({self.full:g})")
        return self

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        excess = max(0.0, value - self.full) / (self.half - self.full)
        return 1.0 / (1.0 + excess * excess)

    @property
    def top(self) -> float:
        """It falls."""
        return -math.inf


class Interval(Shaping):
    """1 from ``low`` to ``high``, both included, 0 elsewhere; without one of them open to that side."""

    kind: ClassVar[str] = "step"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g}); reverse(...) scores outside")
        return self

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        above = self.low is None or value >= self.low
        return float(above and (self.high is None or value <= self.high))

    @property
    def top(self) -> float:
        """The lower limit, or everything below the upper one."""
        return -math.inf if self.low is None else self.low


class Sigmoid(Shaping):
    """Rises from 0 to 1: 1 / (1 + exp(-steepness (value - middle) / (high - low))), 1/2 in the middle.

    With the default steepness it is 0.007 at ``low`` and 0.993 at ``high``. REINVENT4's sigmoid (Loeffler
    et al., J. Cheminform. 16, 20, 2024) with its parameter k is this one with the steepness 10 k ln 10.
    """

    kind: ClassVar[str] = "sigmoid"
    low: float
    high: float
    steepness: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low ({self.low:g}) must be below high ({self.high:g}); reverse(curve=sigmoid(...)) falls"
            )
        return self

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        middle = self.low + (self.high - self.low) / 2
        return _logistic(self.steepness * ((value - middle) / (self.high - self.low)))

    @property
    def top(self) -> float:
        """It rises."""
        return math.inf


class DoubleSigmoid(Shaping):
    """A plateau: rises around ``low`` and falls around ``high``, with 1/2 at both.

    Each flank is 1 / (1 + exp(-steepness d / (high - low))), d being the distance from its limit
    inwards; they meet in the middle, with the default steepness at 0.993.
    """

    kind: ClassVar[str] = "double_sigmoid"
    low: float
    high: float
    steepness: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        inwards = min(value - self.low, self.high - value)
        return _logistic(self.steepness * (inwards / (self.high - self.low)))

    @property
    def top(self) -> float:
        """The middle."""
        return self.low + (self.high - self.low) / 2


class Reverse(Shaping):
    """1 minus another curve; in an expression without one, 1 minus the reward's own curve."""

    kind: ClassVar[str] = "reverse"
    curve: Shaping

    def __call__(self, value: float) -> float:
        """Score of a raw value."""
        return 1.0 - self.curve(value)

    def lowest(self, low: float, high: float) -> float:
        """Where the other curve is highest."""
        return 1.0 - self.curve.highest(low, high)

    def highest(self, low: float, high: float) -> float:
        """Where the other curve is lowest."""
        return 1.0 - self.curve.lowest(low, high)


CURVES: dict[str, type[Shaping]] = {
    curve.kind: curve
    for curve in (Identity, TargetWindow, SoftStep, SoftDecay, Interval, Sigmoid, DoubleSigmoid, Reverse)
}
"""The curves by their name in an expression."""


def _logistic(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + math.tanh(x / 2))
