"""From structures to a table of verdicts and the figures counted from it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.config import RewardConfig
from materium_rl.errors import TokenizationError
from materium_rl.evaluation.definitions import GAP, N_BOOT, NOVELTY, STABILITY, VALIDITY
from materium_rl.evaluation.metrics import Figure, add_verdicts, element_counts, figures, structure_groups
from materium_rl.evaluation.variety import bundled_rare_earth_formulas
from materium_rl.policies.loading import Policy
from materium_rl.policies.sampling import sample_many
from materium_rl.prompting import UNPROMPTED, PromptTensors
from materium_rl.rewards import registry
from materium_rl.rewards.assembly import measured
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.execution.batches import Progress
from materium_rl.rewards.expression import Term, format_expression, parse
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.rewards.scoring import Scorer

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

Asked = Sequence[Mapping[str, Any]]
LABEL = "optimised proxy"
CAVEAT = (
    f"{LABEL}: energies and novelty come from the models and references that the reward uses, so part of a "
    "gain may be their blind spots."
)
HELD_OUT_GAP = (
    "Band gaps come from the half of the ensemble that the reward does not use; it has the same architecture "
    "and training data."
)


@dataclass(frozen=True)
class Evaluation:
    """What one set of structures is worth.

    Args:
        frame: One row per structure requested: the score table, the columns of ``add_verdicts``, cif.
        figures: By key, see ``definitions.DEFINITIONS``.
        seconds: Time for scoring and grouping.
    """

    frame: pd.DataFrame
    figures: dict[str, Figure]
    seconds: float


def evaluate_structures(
    structures: Sequence[Structure | Invalid | None],
    n_requested: int,
    scorer: Scorer,
    *,
    gap: BandGap,
    training_elements: Mapping[str, int] | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
    asked: Asked = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Score structures and count every figure, whatever they came from.

    Args:
        structures: At most ``n_requested``; None or ``Invalid`` for what could not be read. Those
            missing count as not parsed.
        n_requested: The denominator.
        scorer: Must have the reward ``validity`` as a gate; figures that need another reward that it
            has not are NaN. Batch-scope rewards start and end with the memory they had.
        gap: Target and width of the band gap.
        training_elements: Element -> number of training structures with it; the bundled training
            data by default.
        n_boot: Bootstrap resamples.
        seed: Of the resamples.
        asked: What each of the ``n_requested`` was asked for, by name of the condition; empty if for nothing.
        progress: Is told how many structures have been measured.

    Raises:
        ConfigError: A target is what samples were asked for, and they were not asked.
        ValueError: There are more structures than were requested.
    """
    start = time.monotonic()
    _, verdicts = score_structures(structures, n_requested, scorer, gap=gap, asked=asked, progress=progress)
    elements = bundled_training_elements() if training_elements is None else training_elements
    found = figures(verdicts, elements, n_boot=n_boot, seed=seed)
    return Evaluation(verdicts, found, time.monotonic() - start)


def score_structures(
    structures: Sequence[Structure | Invalid | None],
    n_requested: int,
    scorer: Scorer,
    *,
    gap: BandGap,
    asked: Asked = (),
    progress: Progress | None = None,
) -> tuple[list[Structure | None], pd.DataFrame]:
    """Score structures and pass verdicts on each; the arguments are those of ``evaluate_structures``.

    Returns:
        A structure for each one requested, None where it could not be read; the score table with the columns
        of ``add_verdicts``, ``band_gap_wanted`` (eV) and ``cif``.

    Raises:
        ConfigError: A target is what samples were asked for, and they were not asked.
        ValueError: There are more structures than were requested.
    """
    if len(structures) > n_requested:
        raise ValueError(f"{len(structures)} structures, but only {n_requested} were requested")
    memory = scorer.state_dict()
    padded = [*structures, *[None] * (n_requested - len(structures))]
    frame = scorer.score(padded, progress, asked=asked).to_frame()
    scorer.load_state_dict(memory)
    readable = [None if s is None or isinstance(s, Invalid) else s for s in padded]
    valid = frame[f"{VALIDITY}.outcome"] == "ok"
    groups = structure_groups(
        [s if ok else None for s, ok in zip(readable, valid, strict=True)], frame["formula"].tolist()
    )
    own = GAP in scorer.prompted  # each sample has a target of its own
    target = np.array([wish["band_gap"] for wish in asked] if own else [gap.target] * n_requested)
    verdicts = add_verdicts(
        frame, groups, target=target, width=gap.width, rare_earth_formulas=bundled_rare_earth_formulas()
    ).assign(band_gap_wanted=target)
    verdicts["cif"] = [None if s is None else s.to(fmt="cif") for s in readable]
    return readable, verdicts


def make_scorer(config: RewardConfig, monitors: Sequence[str] = ()) -> tuple[Scorer, BandGap]:
    """A scorer that always measures validity, stability, novelty and band gap.

    What the expression does not name becomes a monitor; uniqueness is counted from the structures, so
    it is no gate here. The band gap is measured by the members of the ensemble that the reward does
    not use, unless the expression says which.

    Args:
        config: Of the reward.
        monitors: Names of further rewards to measure.

    Returns:
        The scorer, and the band gap reward with its target and width; with ``target=prompt`` the target of
        each sample is what it was asked for, and that of the reward means nothing.
    """
    terms = list(parse(config.expression))
    gates = {parse(text)[0].name: text for text in config.gates}
    named = {term.name for term in terms}
    also = dict.fromkeys((NOVELTY, GAP, *monitors))
    terms += [Term(name, weight=0.0) for name in also if name not in {*named, VALIDITY, STABILITY}]
    for i, term in enumerate(terms):
        if term.name == GAP:
            terms[i] = replace(term, options={"members": "evaluation", **term.options})
    scorer = Scorer(
        format_expression(terms),
        gates=[gates.get(name, name) for name in (VALIDITY, STABILITY)],
        **config.model_dump(exclude={"expression", "gates"}),
    )
    gap = registry.create(GAP, next(measured(term).options for term in terms if term.name == GAP))
    assert isinstance(gap, BandGap)
    return scorer, gap


def sample_structures(
    policy: Policy,
    n: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 128,
    first: int = 0,
    asked: PromptTensors = UNPROMPTED,
) -> list[Structure | Invalid]:
    """Sample n structures; what a policy writes does not depend on the batch size.

    Args:
        policy: Policy.
        n: How many.
        seed: Of the sampling; sample i has the seed (seed, first + i).
        temperature: Divides the logits.
        batch_size: Sampled together.
        first: Index of the first sample.
        asked: What the n samples are asked for.

    Returns:
        n structures; ``Invalid`` where a completion cannot be decoded.
    """
    completions = sample_many(
        policy.model,
        n,
        seed=seed,
        temperature=temperature,
        batch_size=batch_size,
        first=first,
        **asked.keywords,
    )
    return [_decode(policy, row.tolist()) for row in completions.ids]


@cache
def bundled_training_elements() -> Counter[str]:
    """Element -> number of bundled training structures with it."""
    return element_counts(ReferenceIndex.bundled().formulas)


def _decode(policy: Policy, ids: list[int]) -> Structure | Invalid:
    try:
        return policy.codec.decode(ids)
    except TokenizationError as error:
        return Invalid(str(error))
