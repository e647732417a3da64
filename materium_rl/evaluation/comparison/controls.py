"""What the base reaches without fine-tuning: hotter, or at the cost of the run spent on choosing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from materium_rl.config import CompareConfig, RewardConfig
from materium_rl.evaluation.comparison.entries import REWARD_KEYS, FinetuneRun
from materium_rl.evaluation.comparison.found import Found, found_in
from materium_rl.evaluation.scored import sample_structures
from materium_rl.policies.loading import Policy
from materium_rl.prompting import prompt_tensors
from materium_rl.prompts import Prompt
from materium_rl.rewards.base import Invalid, Outcome
from materium_rl.rewards.execution.batches import Progress
from materium_rl.rewards.scoring import Scorer

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

NOT_OK = {Outcome.FAILED: -1.0, Outcome.INVALID: -2.0}
"""Below every reward: what could not be measured, and what is no crystal."""


def standing(outcome: str, reward: float) -> float:
    """What samples are ranked by: the reward, or less than any for what has none."""
    return NOT_OK.get(Outcome(outcome), reward)


@dataclass(frozen=True)
class Chosen:
    """The best of many samples.

    Args:
        structures: Those kept, in the order in which they were drawn.
        prompts: What each of them was asked for; empty if for nothing.
        calls: Samples drawn and rewarded.
        seconds: Time for both.
        found: What was stable and new among all that were drawn; None if the reward does not tell.
    """

    structures: list[Structure | Invalid]
    prompts: list[Prompt]
    calls: int
    seconds: float
    found: Found | None


def best_of(
    policy: Policy,
    run: FinetuneRun,
    config: CompareConfig,
    calls: int,
    progress: Progress | None = None,
    prompts: Sequence[Prompt] = (),
) -> Chosen:
    """Draw ``calls`` samples and keep the n that the reward of a run puts highest; of equal ones the first.

    They are rewarded in batches of the run, so that a reward that remembers what came before sees them
    as it saw those of the run.

    Args:
        policy: The base.
        run: Whose reward it is.
        config: n, seed, temperature, and how to score.
        calls: At least n.
        progress: Is told how many samples have been rewarded.
        prompts: What each sample is asked for, ``calls`` or none.
    """
    start, size = time.monotonic(), run.config.rl.batch_size
    best: list[tuple[float, int, Structure | Invalid]] = []
    tables: list[pd.DataFrame] = []
    with Scorer(**_reward(run.config.reward, config.reward).model_dump()) as scorer:
        for first in range(0, calls, size):
            wishes = prompts[first : first + size]
            drawn = sample_structures(
                policy,
                min(size, calls - first),
                seed=config.seed,
                temperature=config.temperature,
                batch_size=config.batch_size,
                first=first,
                asked=prompt_tensors(policy.model, wishes),
            )
            table = scorer.score(drawn, asked=[wish.targets() for wish in wishes])
            tables.append(table.to_frame())
            ranked = [(standing(row.outcome, row.reward), first + i, drawn[i]) for i, row in enumerate(table)]
            best = sorted([*best, *ranked], key=lambda item: (-item[0], item[1]))[: config.n]
            if progress:
                progress(first + len(drawn), calls)
    best.sort(key=lambda item: item[1])
    kept = [structure for _, _, structure in best]
    wishes = [prompts[i] for _, i, _ in best] if prompts else []
    return Chosen(kept, wishes, calls, time.monotonic() - start, found_in(tables))


def _reward(reward: RewardConfig, how: RewardConfig) -> RewardConfig:
    """What a run rewarded, computed as the comparison is."""
    return how.model_copy(update={key: getattr(reward, key) for key in REWARD_KEYS})
