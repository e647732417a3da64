"""What the sentinel watches: figures of the last steps that show a collapse or a reward that is gamed.

A step is boiled down to its ``Facts``; those of a few steps are pooled, and each signal is one number of
the pool. Some are compared with the pretrained policy's own samples (the reference), the others with a
limit of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from materium_rl.evaluation.comparison.rarefaction import rarefaction
from materium_rl.evaluation.definitions import COMMONEST
from materium_rl.evaluation.metrics import element_counts, elements_of
from materium_rl.evaluation.statistics import jensen_shannon
from materium_rl.rewards.catalogue.stability import TOO_FAR_BELOW
from materium_rl.rewards.elements import ANION_FORMERS, RARE_EARTHS
from materium_rl.rewards.prototypes import prototypes

FAR_BELOW = -0.1
"""eV/atom; a crystal so far below the hull is more often an error of the potential than a discovery."""
HULL = "stability.e_above_hull_raw"


@dataclass(frozen=True)
class Facts:
    """What is kept of the samples of one step or several; R of them are no invalid ones.

    Args:
        formulas: Reduced formulas (R).
        prototypes: Prototype labels (R).
        n_sites: Sites (R).
        energies: Samples with an energy above the hull, or turned down for being too far below it.
        far_below: Those among them below ``FAR_BELOW``.
        scores: Weighted scores of the terms, a row for each sample that was fully measured.
        opinions: By term, the sum of the scores of the best samples, and that by a second model.
        kl: Nats per token, one value a step.
        clip_fraction: Share of clipped tokens, one value a step.
        zero_spread: Share of groups that earned the same, one value a step.
    """

    formulas: list[str] = field(default_factory=list)
    prototypes: list[str] = field(default_factory=list)
    n_sites: list[int] = field(default_factory=list)
    energies: int = 0
    far_below: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)
    opinions: dict[str, tuple[float, float]] = field(default_factory=dict)
    kl: list[float] = field(default_factory=list)
    clip_fraction: list[float] = field(default_factory=list)
    zero_spread: list[float] = field(default_factory=list)


def facts_of_structures(structures: Sequence[Structure]) -> Facts:
    """The facts of valid structures that nobody has scored."""
    formulas = [s.composition.element_composition.reduced_formula for s in structures]
    labels = [getattr(found, "label", None) for found in prototypes(structures)]
    return Facts(
        formulas=formulas,
        prototypes=[label or formula for label, formula in zip(labels, formulas, strict=True)],
        n_sites=[len(structure) for structure in structures],
    )


def facts_of(
    frame: pd.DataFrame,
    weights: Mapping[str, float],
    metrics: Mapping[str, Any],
    opinions: Mapping[str, tuple[float, float]] | None = None,
) -> Facts:
    """The facts of one step.

    Args:
        frame: Its table of samples, as in the run folder.
        weights: Of the terms of the reward, by name.
        metrics: Its line of metrics; of those that a run has not, nothing is kept.
        opinions: From ``second_opinion``.
    """
    kept = frame[(frame["outcome"] != "invalid") & frame["formula"].notna()]
    columns = {name: f"{name}.score" for name, weight in weights.items() if weight > 0}
    scores = frame[list(columns.values())].dropna()
    return Facts(
        formulas=[str(formula) for formula in kept["formula"]],
        prototypes=[str(label) for label in kept["prototype"].fillna(kept["formula"])],
        n_sites=[int(n) for n in kept["n_sites"]],
        **_energies(frame),
        scores={name: (weights[name] * scores[column]).tolist() for name, column in columns.items()},
        opinions=dict(opinions or {}),
        kl=_known(metrics, "kl"),
        clip_fraction=_known(metrics, "clip_ratio/region_mean"),
        zero_spread=_known(metrics, "frac_reward_zero_std"),
    )


def _energies(frame: pd.DataFrame) -> dict[str, int]:
    if HULL not in frame:
        return {}
    energies = frame[HULL].dropna()
    suspicious = int(frame["stability.reason"].str.contains(TOO_FAR_BELOW, regex=False).sum())
    return {
        "energies": len(energies) + suspicious,
        "far_below": int((energies < FAR_BELOW).sum()) + suspicious,
    }


def _known(metrics: Mapping[str, Any], key: str) -> list[float]:
    value = metrics.get(key)
    return [] if value is None else [float(value)]


def pooled(steps: Sequence[Facts]) -> Facts:
    """The facts of several steps together; of the scores those of the terms of the last one."""
    return Facts(
        formulas=[x for facts in steps for x in facts.formulas],
        prototypes=[x for facts in steps for x in facts.prototypes],
        n_sites=[x for facts in steps for x in facts.n_sites],
        energies=sum(facts.energies for facts in steps),
        far_below=sum(facts.far_below for facts in steps),
        scores={name: [x for f in steps for x in f.scores.get(name, [])] for name in steps[-1].scores},
        opinions={name: _summed(steps, name) for name in steps[-1].opinions},
        kl=[x for facts in steps for x in facts.kl],
        clip_fraction=[x for facts in steps for x in facts.clip_fraction],
        zero_spread=[x for facts in steps for x in facts.zero_spread],
    )


def _summed(steps: Sequence[Facts], name: str) -> tuple[float, float]:
    own, second = zip(*(facts.opinions.get(name, (0.0, 0.0)) for facts in steps), strict=True)
    return sum(own), sum(second)


Measure = Callable[[Facts, Facts], float | None]
Bounds = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Signal:
    """One figure and its bounds.

    Args:
        title: What it is, for a sentence.
        meaning: What it means that it is out of bounds.
        unit: How it is written: ``%``, ``bits`` and so on.
        measure: (pool, reference) -> value; None where the run has none.
        bounds: (value of the reference, limit) -> least and largest value.
    """

    title: str
    meaning: str
    unit: str
    measure: Measure
    bounds: Bounds

    @property
    def has_reference(self) -> bool:
        """Whether the limit is relative to the value of the pretrained policy."""
        return self.bounds in (_falls, _rises, _changes)

    def written(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.0%}".replace("%", " %") if self.unit == "%" else f"{value:.2f} {self.unit}".rstrip()


def _falls(reference: float, limit: float) -> tuple[float, float]:
    return limit * reference, np.inf


def _rises(reference: float, limit: float) -> tuple[float, float]:
    return -np.inf, reference + limit


def _changes(reference: float, limit: float) -> tuple[float, float]:
    return reference / limit, reference * limit


def _exceeds(_reference: float, limit: float) -> tuple[float, float]:
    return -np.inf, limit


def _misses(_reference: float, limit: float) -> tuple[float, float]:
    return limit, np.inf


def distinct_share(labels: Sequence[str], n: int) -> float:
    """Distinct labels expected among n of N, over n; shares of samples of different size do not compare."""
    codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    return float(rarefaction(codes, [n])[0][0]) / n


def _distinct(labels: Callable[[Facts], Sequence[str]]) -> Measure:
    def measure(facts: Facts, reference: Facts) -> float | None:
        n = min(len(facts.formulas), len(reference.formulas))
        return distinct_share(labels(facts), n) if n else None

    return measure


def _crystals(facts: Facts) -> list[str]:
    return [f"{f} {p}" for f, p in zip(facts.formulas, facts.prototypes, strict=True)]


def _top5(facts: Facts, _reference: Facts) -> float | None:
    commonest = Counter(facts.prototypes).most_common(COMMONEST)
    return sum(count for _, count in commonest) / len(facts.prototypes) if commonest else None


def _share_with(symbols: frozenset[str]) -> Measure:
    def measure(facts: Facts, _reference: Facts) -> float | None:
        return _mean([not symbols.isdisjoint(elements_of(formula)) for formula in facts.formulas])

    return measure


def _divergence(facts: Facts, reference: Facts) -> float | None:
    found, expected = element_counts(facts.formulas), element_counts(reference.formulas)
    symbols = sorted({*found, *expected})
    if not found or not expected:
        return None
    return jensen_shannon([found.get(s, 0) for s in symbols], [expected.get(s, 0) for s in symbols])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _second_opinion(facts: Facts, _reference: Facts) -> float | None:
    shares = [second / own for own, second in facts.opinions.values() if own > 0]
    return min(shares, default=None)


def _dominant(facts: Facts, _reference: Facts) -> float | None:
    """Largest share of one term in the variance of the sum of the weighted scores."""
    scores = np.array(list(facts.scores.values()))
    if len(scores) < 2 or scores.shape[1] < 2 or (spread := float(scores.sum(axis=0).var())) < 1e-12:
        return None
    return float((np.cov(scores, ddof=0).sum(axis=1) / spread).max())


SIGNALS: dict[str, Signal] = {
    "top5": Signal(
        "share of the five commonest prototypes",
        "the policy writes a few structures in ever new colours",
        "%",
        _top5,
        _rises,
    ),
    "prototype_unique": Signal(
        "share of distinct prototypes",
        "the policy falls back on fewer and fewer structures",
        "%",
        _distinct(lambda facts: facts.prototypes),
        _falls,
    ),
    "unique": Signal(
        "share of distinct crystals",
        "the policy repeats itself",
        "%",
        _distinct(_crystals),
        _falls,
    ),
    "rare_earth": Signal(
        "share with rare earths",
        "rare earths are swapped for one another",
        "%",
        _share_with(RARE_EARTHS),
        _rises,
    ),
    "anion": Signal(
        "share with an anion former",
        "compounds give way to intermetallics",
        "%",
        _share_with(ANION_FORMERS),
        _falls,
    ),
    "element_divergence": Signal(
        "divergence of the elements",
        "the chemistry leaves that of the reference",
        "bits",
        _divergence,
        _exceeds,
    ),
    "mean_sites": Signal(
        "mean number of sites",
        "the cells change in size, which no reward should pay for",
        "",
        lambda facts, _: _mean(facts.n_sites),
        _changes,
    ),
    "mean_elements": Signal(
        "mean number of elements",
        "crystals are made new by adding or leaving out elements",
        "",
        lambda facts, _: _mean([len(elements_of(formula)) for formula in facts.formulas]),
        _changes,
    ),
    "hull_tail": Signal(
        f"share below {FAR_BELOW} eV/atom above the hull",
        "the policy has found where the potential is wrong",
        "%",
        lambda facts, _: facts.far_below / facts.energies if facts.energies else None,
        _exceeds,
    ),
    "second_opinion": Signal(
        "score by a second model, over that by the reward's own, of the best samples",
        "the policy has learnt the errors of the reward's model",
        "",
        _second_opinion,
        _misses,
    ),
    "dominant_term": Signal(
        "share of one term in the spread of the terms",
        "the other terms of the reward teach nothing",
        "%",
        _dominant,
        _exceeds,
    ),
    "zero_spread": Signal(
        "share of groups that all earn the same",
        "there is next to nothing to learn from",
        "%",
        lambda facts, _: _mean(facts.zero_spread),
        _exceeds,
    ),
    "kl": Signal(
        "median KL divergence",
        "the policy is far from the pretrained one",
        "nats per token",
        lambda facts, _: median(facts.kl) if facts.kl else None,
        _exceeds,
    ),
    "clip_fraction": Signal(
        "share of clipped tokens",
        "the updates are too large",
        "%",
        lambda facts, _: _mean(facts.clip_fraction),
        _exceeds,
    ),
}
"""Signals by name, those that name a cause of a collapse best first."""
