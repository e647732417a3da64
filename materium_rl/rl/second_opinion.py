"""A second model for what a model of the reward predicts, asked about the best samples of each step.

A policy that is paid by a model learns the errors of that model. A second one of the same kind that the
policy has never been paid by does not share all of them: for the band gap the other half of the ensemble,
for the energy above the hull another potential, where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from materium_rl.rewards.base import Measurement, Outcome, Reward
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.term_scores import TermScorer
from materium_rl.structures import strip_oxidation_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materium_rl.rewards.score_table import ScoreTable

SECOND_POTENTIAL = "sevenn"
OTHER_HALF = {"reward": "evaluation", "evaluation": "reward"}


def second_model(reward: Reward) -> Reward | None:
    """The same reward by another model; None where there is none."""
    if isinstance(reward, BandGap) and reward.members in OTHER_HALF:
        return BandGap(**reward.model_dump() | {"members": OTHER_HALF[reward.members]})
    by_itself = isinstance(reward, Stability) and reward.calculator == "chgnet" and not reward.relax
    if by_itself and find_spec(SECOND_POTENTIAL):
        return Stability(**reward.model_dump() | {"calculator": SECOND_POTENTIAL})
    return None


class SecondOpinions:
    """Loads the second models of a reward, and asks them.

    Args:
        scorers: Of the gates and the terms that count, by name.
        n: Best samples of a step that are judged; 0 asks nobody.
    """

    def __init__(self, scorers: Mapping[str, TermScorer], n: int) -> None:
        self.n = n
        self._second: dict[str, TermScorer] = {}
        for name, scorer in scorers.items():
            other = second_model(scorer.reward) if n else None
            if other is not None:
                other.load()
                self._second[name] = TermScorer(other, scorer.curve, scorer.risk)

    def ask(self, structures: Sequence[Structure], table: ScoreTable) -> dict[str, tuple[float, float]]:
        """By name the sum of the scores of the best samples, and the sum of those by the second model.

        Samples that the second model cannot measure are left out of both.
        """
        measured = [row for row in table if row.outcome is Outcome.OK]
        best = sorted(measured, key=lambda row: -row.reward)[: self.n]
        crystals = [strip_oxidation_states(structures[row.index]) for row in best]
        sums = {}
        for name, scorer in self._second.items():
            pairs = [
                (row.terms[name].score, score)
                for row, result in zip(best, scorer.reward.measure(crystals), strict=True)
                if isinstance(result, Measurement) and isinstance(score := scorer.score(result), float)
            ]
            sums[name] = (sum(own for own, _ in pairs), sum(second for _, second in pairs))
        return sums
