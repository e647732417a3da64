"""The reward under test, and the words for what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.execution.measuring import call, load_reward
from materium_rl.rewards.shared import sharing

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOLERANCE = 1e-3
"""Of the value, and of the spread over common crystals: single precision and another neighbour order."""
_SHOWN = 90
_BREACHES = ("raised ", "returned ")


class Verdict(StrEnum):
    """What the bench thinks of one answer."""

    PASS = "pass"
    WARN = "warn"
    """A policy could win by it, or a user be misled, unless something else (a gate) stands in the way."""
    FAIL = "fail"
    """The reward breaks its contract or pays for what it must not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the reward did in one case.

    Args:
        case: Name of the case.
        verdict: pass, warn or fail.
        reason: What happened, with numbers.
    """

    case: str
    verdict: Verdict
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Plain data, fit for JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


Answer = tuple[Verdict, str]
Case = Callable[["Subject"], Answer]


class Subject:
    """A reward that can be made anew as often as the bench likes.

    Args:
        make: Builds the reward with its options; not loaded yet.

    Raises:
        RewardError: It cannot be loaded.
    """

    def __init__(self, make: Callable[[], Reward]) -> None:
        self._make = make
        self.reward = self.fresh()

    @property
    def sees_batches(self) -> bool:
        """Whether the whole batch and the history count."""
        return self.reward.scope == "batch"

    @property
    def is_novelty(self) -> bool:
        """Whether it pays for being unlike other crystals."""
        return self.sees_batches or self.reward.seeks_novelty

    def fresh(self) -> Reward:
        """The reward, loaded, without a history."""
        reward = self._make()
        load_reward(reward)
        return reward

    def without_history(self) -> Reward:
        """An instance that has seen nothing yet; loading is saved where there is no history."""
        return self.fresh() if self.sees_batches else self.reward

    def measure(self, structures: Sequence[Structure], reward: Reward | None = None) -> list[Result]:
        """Outcomes of copies of N structures, as the scorer would get them.

        Args:
            structures: N structures.
            reward: Which instance; by default one without a history.
        """
        copies = [structure.copy() for structure in structures]
        with sharing():
            return call(reward or self.without_history(), copies, retry=not self.sees_batches)

    def score(self, result: Result) -> float:
        """Score of an outcome: 0 unless it is a measurement that the curve can score."""
        if not isinstance(result, Measurement):
            return 0.0
        try:
            return float(self.reward.shaping()(result.value))
        except (TypeError, ValueError, ArithmeticError, NotImplementedError):  # the case "curve" reports it
            return 0.0

    @cached_property
    def known(self) -> dict[str, Result]:
        """Outcomes of the textbook crystals."""
        return dict(zip(zoo.crystals(), self.measure(list(zoo.crystals().values())), strict=True))

    @cached_property
    def values(self) -> list[float]:
        """Sorted values of the textbook crystals that could be measured."""
        return sorted(result.value for result in self.known.values() if isinstance(result, Measurement))

    @property
    def spread(self) -> float:
        """Largest minus smallest of ``values``."""
        return self.values[-1] - self.values[0] if self.values else 0.0

    def same(self, first: Result, second: Result) -> bool:
        """Whether two outcomes are equal up to rounding."""
        if isinstance(first, Measurement) and isinstance(second, Measurement):
            size = max(abs(first.value), abs(second.value))
            return abs(first.value - second.value) <= TOLERANCE * (size + self.spread)
        return type(first) is type(second)

    def say(self, result: Result) -> str:
        """An outcome in a few words."""
        if isinstance(result, Measurement):
            unit = f" {self.reward.unit}" if self.reward.unit else ""
            return f"{result.value:.4g}{unit}"
        what = "invalid" if isinstance(result, Invalid) else "failed"
        return f"{what} ({shortened(result.reason)})"


def is_breach(result: Result) -> bool:
    """Whether the scorer had to make this failure of an exception or of something that is no outcome."""
    return isinstance(result, Failure) and result.reason.startswith(_BREACHES)


def shortened(text: Any) -> str:
    """The text on one line, cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
