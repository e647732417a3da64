"""From a value to a score: the curve of a term, and its caution with uncertain values.

With ``risk`` r, a value v of standard deviation s scores as the worst of what it may be: the lowest
score within [v - r s, v + r s]. For a rising curve that is the score of v - r s, for a falling one that
of v + r s, for a window that of the end farther from the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Measurement, Reward
from materium_rl.rewards.expression import CURVE, TARGET, CurveCall, Term
from materium_rl.rewards.shaping import CURVES, Reverse, Shaping


@dataclass(frozen=True, slots=True)
class TermScorer:
    """Scores the values of one reward.

    Args:
        reward: The reward.
        curve: In place of the reward's own curve.
        risk: Standard deviations that a value may be off.
        prompted: The term whose target is what each sample was asked for; None for a fixed target.
    """

    reward: Reward
    curve: Shaping | None = None
    risk: float = 0.0
    prompted: Term | None = None

    @classmethod
    def of(cls, reward: Reward, term: Term) -> TermScorer:
        """The scorer that a term of an expression asks for.

        Raises:
            ConfigError: An unknown curve, a wrong parameter, a risk on a curve that is none of ours, or a
                target=prompt that has no effect.
        """
        if term.prompted and term.curve is not None:
            raise ConfigError(f"{reward.name}: target=prompt has no effect beside a curve; leave one out")
        curve = None if term.curve is None else _build(term.curve, reward)
        if term.risk and curve is None:
            curve = _own_curve(reward, f"risk={term.risk:g}")
        return cls(reward, curve, term.risk, term if term.prompted else None)

    def score(self, measurement: Measurement, asked: Mapping[str, Any] | None = None) -> float | Failure:
        """Score of a measurement; a failure where the curve or the uncertainty says nothing.

        Args:
            measurement: What was measured.
            asked: What the sample was asked for, by name of the condition.
        """
        value, spread = measurement.value, measurement.uncertainty
        if self.risk and spread is None:
            return Failure(f"risk={self.risk:g} needs an uncertainty, and this measurement has none")
        try:
            curve = self._curve(asked or {})
            if self.risk and spread is not None:
                score = float(curve.lowest(value - self.risk * spread, value + self.risk * spread))
            else:
                score = float(curve(value))
        except (TypeError, ValueError, ArithmeticError, NotImplementedError) as error:
            return Failure(f"the shaping of {value:g} raised {type(error).__name__}: {error}")
        if not 0.0 <= score <= 1.0:
            return Failure(f"the shaping of {value:g} gave {score}; expected a score in [0, 1]")
        return score

    def target_of(self, asked: Mapping[str, Any]) -> Any:
        """What a sample was asked for of this reward; None where it was not, or the target is fixed."""
        names = self.reward.prompted_by if self.prompted else ()
        return next((asked[name] for name in names if name in asked), None)

    def _curve(self, asked: Mapping[str, Any]) -> Shaping:
        if self.prompted is not None:
            options = {**self.prompted.options, TARGET: self.target_of(asked)}
            return registry.create(self.prompted.name, options).shaping()
        return self.reward.shaping() if self.curve is None else self.curve


def _build(call: CurveCall, reward: Reward) -> Shaping:
    """The curve that a call describes."""
    if call.name not in CURVES:
        raise ConfigError(
            f"unknown curve {call.name!r}{did_you_mean(call.name, CURVES)}; curves: {', '.join(CURVES)}"
        )
    curve = CURVES[call.name]
    given = {
        key: _build(value, reward) if isinstance(value, CurveCall) else value
        for key, value in call.parameters.items()
    }
    if curve is Reverse and CURVE not in given:
        given[CURVE] = _own_curve(reward, call.name)
    try:
        return curve(**given)
    except ValidationError as error:
        problems = "; ".join(_problem(item, list(curve.model_fields)) for item in error.errors())
        raise ConfigError(f"curve {call.name!r}: {problems}") from None


def _problem(item: Any, parameters: list[str]) -> str:
    name = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        known = f"parameters: {', '.join(parameters)}" if parameters else "it has none"
        return f"unknown parameter {name!r}{did_you_mean(name, parameters)}; {known}"
    if item["type"] == "missing":
        return f"parameter {name!r} is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"parameter {name!r} = {item['input']!r}: {message}" if name else message


def _own_curve(reward: Reward, reason: str) -> Shaping:
    """The reward's own curve, which need not be one of ours."""
    curve = reward.shaping()
    if isinstance(curve, Shaping):
        return curve
    raise ConfigError(
        f"reward {reward.name!r} has a curve of its own kind, which {reason} cannot work with; "
        f"name one, such as curve=window(target=2, width=0.5)"
    )
