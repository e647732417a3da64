"""The sentinel: watches a run for collapse and for a reward that is being gamed, says so, and acts.

A policy can win almost any reward by writing one structure in ever new colours, by leaving compounds for
intermetallics, or by finding where the reward's models are wrong. The reward goes up all the while. The
signals (``rl.signals``) are those figures that show it. One that is past its limit for ``patience`` steps in
a row raises an alarm, which is answered as ``FinetuneConfig.sentinel`` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from materium_rl.config import Response, SentinelConfig
from materium_rl.errors import MateriumError
from materium_rl.rl.signals import SIGNALS, Facts, facts_of, pooled

SEVERITY: tuple[Response, ...] = ("ignore", "warn", "raise_kl", "roll_back", "stop")


class SentinelStopError(MateriumError):
    """The sentinel has stopped a run; its checkpoint is written."""


@dataclass(frozen=True)
class Alarm:
    """A signal that has been past its limit for too long.

    Args:
        step: When the alarm was raised.
        signal: Name in ``SIGNALS``.
        value: Of the last steps.
        reference: Of the pretrained policy; None for a signal that has only a limit.
        limit: The bound that was passed.
        since: First step past it.
        response: What is done.
    """

    step: int
    signal: str
    value: float
    reference: float | None
    limit: float
    since: int
    response: Response

    @property
    def text(self) -> str:
        """One sentence: what, how far, since when, what it means."""
        signal = SIGNALS[self.signal]
        reference = "" if self.reference is None else f"reference {signal.written(self.reference)}, "
        return (
            f"{self.signal}: {signal.title} {signal.written(self.value)} "
            f"({reference}limit {signal.written(self.limit)}) since step {self.since}: {signal.meaning}"
        )


@dataclass(frozen=True)
class _Reading:
    value: float
    reference: float | None
    low: float
    high: float

    @property
    def is_past(self) -> bool:
        return not self.low <= self.value <= self.high

    @property
    def passed(self) -> float:
        return self.low if self.value < self.low else self.high


class Sentinel:
    """Watches the samples of a run, a step at a time.

    Args:
        config: Limits and responses.
    """

    def __init__(self, config: SentinelConfig) -> None:
        self.config = config
        self.reference = Facts()
        self.alarms: list[Alarm] = []
        self.rollbacks = 0
        self._window: deque[Facts] = deque(maxlen=config.window)
        self._since: dict[str, int] = {}

    def fit(self, reference: Facts) -> None:
        """Take samples of the pretrained policy as the reference."""
        self.reference = reference

    def observe(self, step: int, facts: Facts) -> tuple[dict[str, float], list[Alarm]]:
        """Take in a step.

        Returns:
            The value of each signal over the window, and new alarms, the severest first; nothing until the
            window is full.
        """
        self._window.append(facts)
        if len(self._window) < self.config.window:
            return {}, []
        raised = []
        readings = self._read(pooled(self._window))
        for name in SIGNALS:
            reading = readings.get(name)
            if reading is None or not reading.is_past:
                self._since.pop(name, None)
                continue
            since = self._since.setdefault(name, step)
            response = self.config.response_to(name)
            if self._is_due(step - since + 1, response):
                raised.append(
                    Alarm(step, name, reading.value, reading.reference, reading.passed, since, response)
                )
        self.alarms += raised
        values = {name: reading.value for name, reading in readings.items()}
        return values, sorted(raised, key=lambda alarm: -SEVERITY.index(alarm.response))

    def _read(self, pool: Facts) -> dict[str, _Reading]:
        readings = {}
        for name, signal in SIGNALS.items():
            value = signal.measure(pool, self.reference)
            reference = signal.measure(self.reference, pool) if signal.has_reference else None
            if value is None or (signal.has_reference and reference is None):
                continue
            low, high = signal.bounds(reference or 0.0, getattr(self.config.limits, name))
            readings[name] = _Reading(value, reference, low, high)
        return readings

    def _is_due(self, steps: int, response: Response) -> bool:
        """Whether a signal past its limit for so many steps raises an alarm now.

        A warning is given once; the KL weight is raised again after as many steps as show its effect.
        """
        late = steps - self.config.patience
        if late < 0 or response == "ignore":
            return False
        if response == "raise_kl":
            return late % self.config.window == 0
        return late == 0 or response in ("roll_back", "stop")

    def records(self) -> list[dict[str, Any]]:
        """The alarms so far as plain values, each with its text."""
        return [asdict(alarm) | {"text": alarm.text} for alarm in self.alarms]

    def state_dict(self) -> dict[str, Any]:
        """All that ``observe`` depends on, as plain values."""
        return {
            "reference": asdict(self.reference),
            "window": [asdict(facts) for facts in self._window],
            "since": dict(self._since),
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.reference = Facts(**state["reference"])
        self._window = deque((Facts(**facts) for facts in state["window"]), maxlen=self.config.window)
        self._since = dict(state["since"])
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        self.rollbacks = state["rollbacks"]


def replay(
    config: SentinelConfig,
    tables: Sequence[pd.DataFrame],
    metrics: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
) -> tuple[list[Alarm], list[dict[str, float]]]:
    """What the sentinel would have said of a recorded run; its first window is the reference.

    Second opinions are left out, as the samples are not measured again.

    Args:
        config: Limits and responses.
        tables: Samples of the steps, as in the run folder.
        metrics: Lines of metrics of the same steps.
        weights: Of the terms of the reward.

    Returns:
        The alarms, and the values of the signals at each step.
    """
    sentinel = Sentinel(config)
    steps = [facts_of(table, weights, row) for table, row in zip(tables, metrics, strict=True)]
    sentinel.fit(pooled(steps[: config.window]))
    values = [sentinel.observe(step, facts)[0] for step, facts in enumerate(steps, start=1)]
    return sentinel.alarms, values
