"""Staged learning: one policy and one optimizer, one reward after another.

As in REINVENT4 (Loeffler et al., J. Cheminform. 16, 20 (2024)): an easy reward first, harder ones when it is
met. Each stage is a part of the run with its own scorer and settings (``FinetuneConfig.stages``), from its
first step to the step at which its exit rule is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from materium_rl.config import FinetuneConfig, UntilConfig
from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.rewards.scoring import Scorer
from materium_rl.runs import RunFolder, step_of

ROLLOUT_STATE = "rollout_state.pt"
"""In a checkpoint: the state of everything that remembers, by name."""
REWARD = "reward"


class Stage:
    """One stage, and how far it is.

    Args:
        index: Which of the stages, from 0.
        name: Recorded with samples and metrics; empty in a run without stages.
        until: When it ends; None for at the end of the run.
        first: Its first step.
    """

    def __init__(
        self, index: int = 0, name: str = "", until: UntilConfig | None = None, first: int = 1
    ) -> None:
        self.index, self.name, self.until, self.first = index, name, until, first
        self.ended = ""
        self._values: list[float] = []

    @property
    def label(self) -> dict[str, str]:
        """The column of samples and metrics that tells the stages apart."""
        return {"stage": self.name} if self.name else {}

    def last(self, steps: int) -> int:
        """Its last step, at the latest, in a run of so many steps."""
        if self.until is None or self.until.steps is None:
            return steps
        return min(self.first - 1 + self.until.steps, steps)

    def settings(self, config: FinetuneConfig) -> FinetuneConfig:
        """The config of the stage; its ``rl.steps`` is the last step of the stage."""
        settings = config.at_stage(self.index)
        steps = self.last(config.rl.steps)
        return settings.model_copy(update={"rl": settings.rl.model_copy(update={"steps": steps})})

    def observe(self, row: Mapping[str, Any]) -> None:
        """Take in the metrics of a step; sets ``ended`` to the reason once the exit rule is met."""
        until = self.until
        value = None if until is None else row.get(_metric(until))
        if until is None or value is None:
            return
        self._values.append(float(value))
        means = _moving_means(self._values, until.window)
        if not means:
            return
        if until.score is not None and means[-1] >= until.score:
            self.ended = f"{until.of} is {means[-1]:.3f}, at least {until.score:g}"
        elif until.plateau is not None and _stale(means, until.min_gain) >= until.plateau:
            self.ended = f"{until.of} has not risen by {until.min_gain:g} for {until.plateau} steps"

    def state_dict(self) -> dict[str, Any]:
        """Which stage it is, and what its exit rule has seen."""
        return {
            "index": self.index,
            "first": self.first,
            "ended": self.ended,
            "values": list(self._values),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.index, self.first, self.ended = state["index"], state["first"], state["ended"]
        self._values = list(state["values"])


def stage_at(config: FinetuneConfig, index: int, first: int = 1) -> Stage:
    """A stage at its beginning; a run without stages is one stage."""
    if not config.stages:
        return Stage()
    stage = config.stages[index]
    return Stage(index, stage.name, stage.until, first)


def next_stage(config: FinetuneConfig, run: RunFolder) -> Stage | None:
    """The stage that a run goes on with after its latest checkpoint; None if it is finished."""
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        return stage_at(config, 0)
    done = step_of(checkpoint)
    state = rollout_state(checkpoint)["stage"]
    stage = stage_at(config, state["index"])
    stage.load_state_dict(state)
    if done >= config.rl.steps:
        return None
    if not stage.ended and done < stage.last(config.rl.steps):
        return stage
    if stage.index + 1 >= max(1, len(config.stages)):
        return None
    return stage_at(config, stage.index + 1, first=done + 1)


class StageScorer:
    """Holds the scorer of the stage that is under way.

    Args:
        config: The config of the whole run.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        self._config = config
        self._open: tuple[int, Scorer] | None = None

    def of(self, stage: Stage) -> Scorer:
        """The scorer of a stage, started; that of another stage is closed."""
        if self._open is None or self._open[0] != stage.index:
            self.close()
            scorer = make_scorer(self._config.at_stage(stage.index))
            scorer.start()
            self._open = stage.index, scorer
        return self._open[1]

    def close(self) -> None:
        """Stop the workers."""
        if self._open is not None:
            self._open[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def rollout_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside weights and optimizer."""
    state: dict[str, Any] = torch.load(checkpoint / ROLLOUT_STATE, weights_only=False)
    return state


def make_scorer(config: FinetuneConfig) -> Scorer:
    """The scorer of a run, not started.

    Raises:
        ConfigError: A wrong reward, or one whose target is a prompt that there is not.
    """
    scorer = Scorer(**config.reward.model_dump())
    scorer.check_prompts(config.prompts.targets)
    return scorer


def check_stages(config: FinetuneConfig) -> None:
    """Build the scorer of every stage, without loading any model.

    Raises:
        ConfigError: A wrong reward, or an exit rule about a reward that is not measured.
    """
    for index in range(max(1, len(config.stages))):
        scorer = make_scorer(config.at_stage(index))
        until = config.stages[index].until if config.stages else None
        names = [REWARD, *scorer.names]
        if until is not None and until.of not in names:
            raise ConfigError(
                f"stage {config.stages[index].name!r} ends by the score of {until.of!r}, which it does not "
                f"measure{did_you_mean(until.of, names)}; it has {', '.join(names)}"
            )


def _metric(until: UntilConfig) -> str:
    return until.of if until.of == REWARD else f"rewards/{until.of}/mean"


def _moving_means(values: list[float], window: int) -> list[float]:
    return [sum(values[i - window : i]) / window for i in range(window, len(values) + 1)]


def _stale(means: list[float], min_gain: float) -> int:
    """Steps since the mean last rose by ``min_gain`` above the best before."""
    best, at = means[0], 0
    for step, mean in enumerate(means):
        if mean >= best + min_gain:
            best, at = mean, step
    return len(means) - 1 - at
