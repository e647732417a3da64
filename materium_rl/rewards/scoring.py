"""From structures to rewards: gates, terms, weights, and the rules for what could not be measured.

The reward of a structure is

    reward = aggregate(weight_i, score_i) * product of the gates' scores,

in [0, 1]. Nothing is normalised over the batch: a score means the same in every step. Three outcomes
are never mixed: *ok*; *invalid* (the policy's fault, reward 0); *failed* (the evaluator's fault, reward
NaN, to be left out). A failed monitor (weight 0, no gate) leaves the row as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry
from materium_rl.rewards.backends import Backend, InlineBackend
from materium_rl.rewards.base import Failure, Invalid, Measurement, Outcome, Result, Reward
from materium_rl.rewards.batches import Progress
from materium_rl.rewards.expression import Term, format_expression, parse
from materium_rl.rewards.measuring import Plan, Sample, call, import_provider, load_reward
from materium_rl.rewards.score_table import SKIPPED, ScoredSample, ScoreTable, TermScore
from materium_rl.rewards.shared import sharing
from materium_rl.rewards.workers import RayBackend
from materium_rl.structures import strip_oxidation_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_GATES = ("validity", "stability", "uniqueness")
MIN_ROWS_TO_STOP = 16

Aggregation = Literal["sum", "geometric", "minimum"]


def _sum(weights: Sequence[float], scores: Sequence[float]) -> float:
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)


def _geometric(weights: Sequence[float], scores: Sequence[float]) -> float:
    if min(scores) <= 0:
        return 0.0
    return math.exp(sum(w * math.log(s) for w, s in zip(weights, scores, strict=True)) / sum(weights))


def _minimum(_weights: Sequence[float], scores: Sequence[float]) -> float:
    return min(scores)


AGGREGATIONS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "sum": _sum,
    "geometric": _geometric,
    "minimum": _minimum,
}
"""Weighted arithmetic mean, weighted geometric mean, and the smallest score (weights > 0 take part)."""


class Scorer:
    """Scores batches of structures; holds the workers and the archives of batch-scope rewards.

    Args:
        expression: Reward expression, see ``rewards.expression``.
        gates: Rewards whose scores multiply the aggregate, each written as in an expression, without a
            weight. A gate that is a term too is measured once. Empty, or ``("none",)``: no gates.
        aggregation: How the scores of the terms become one number.
        workers: Ray workers; 0 measures in this process.
        timeout: Seconds for one chunk of structures.
        chunk_size: Structures in one call of a reward.
        worker_memory: GB that a worker may take beyond its loaded models (Linux).
        plugins: Python files that define rewards.
        shared: Shared work whose results are returned with each row. ``prototype`` also fills the
            label columns.
        max_failed: Stop when more than this share of a batch of at least 16 failed.
        ray_address: Ray cluster to join.

    Raises:
        ConfigError: A wrong expression, gate, option or setting.
        RewardError: A reward that is found but broken.
    """

    def __init__(
        self,
        expression: str = "novelty+bandgap",
        *,
        gates: Sequence[str] = DEFAULT_GATES,
        aggregation: Aggregation = "sum",
        workers: int = 0,
        timeout: float = 120.0,
        chunk_size: int = 16,
        worker_memory: float = 8.0,
        plugins: Sequence[str | Path] = (),
        shared: Sequence[str] = ("prototype",),
        max_failed: float = 0.5,
        ray_address: str | None = None,
    ) -> None:
        if aggregation not in AGGREGATIONS:
            raise ConfigError(registry.unknown("aggregation", aggregation, list(AGGREGATIONS)))
        if workers < 0 or chunk_size < 1 or timeout <= 0 or worker_memory <= 0:
            raise ConfigError(
                "workers must be at least 0, chunk_size at least 1, timeout and worker_memory more than 0"
            )
        for path in plugins:
            registry.load_plugin(path)
        self._aggregate = AGGREGATIONS[aggregation]
        self._max_failed = max_failed
        self._shared = tuple(shared)
        self._started = False
        self.terms = parse(expression)
        self.weights, self.gates, self._rewards, terms = _assemble(self.terms, gates)
        plan = Plan(
            terms=tuple(terms[n] for n, reward in self._rewards.items() if reward.scope == "structure"),
            screens=tuple(n for n in self.gates if self._rewards[n].screening),
            shared=self._shared,
            plugins=tuple(str(Path(path).resolve()) for path in plugins),
        )
        self._batch_names = [n for n, reward in self._rewards.items() if reward.scope == "batch"]
        self._backend: Backend = (
            RayBackend(
                plan,
                workers,
                timeout=timeout,
                chunk_size=chunk_size,
                memory=worker_memory,
                address=ray_address,
            )
            if workers
            else InlineBackend(plan, timeout=timeout, chunk_size=chunk_size)
        )

    @property
    def expression(self) -> str:
        """The canonical text of the expression."""
        return format_expression(self.terms)

    @property
    def names(self) -> list[str]:
        """Names of all rewards measured, gates first; the prefixes of the table's columns."""
        return list(self._rewards)

    def start(self) -> None:
        """Load every reward, and start the workers.

        Raises:
            RewardError: A reward cannot be loaded; names it.
        """
        if not self._started:
            for name in self._batch_names:
                load_reward(self._rewards[name])
            for name in self._shared:
                import_provider(name)
            self._backend.start()
            self._started = True

    def close(self) -> None:
        """Stop the workers; the next ``score`` starts them again."""
        self._backend.close()
        self._started = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(
        self, structures: Sequence[Structure | Invalid | None], progress: Progress | None = None
    ) -> ScoreTable:
        """Score N completions; batch-scope rewards remember them.

        Args:
            structures: N structures; ``Invalid`` or None for a completion that is no structure.
            progress: Is called now and then with the number of structures that are measured, and
                that of all which are to be.

        Returns:
            N rows in the same order.

        Raises:
            RewardError: Too many rows failed; names the commonest reason.
        """
        self.start()
        clean = [_cleaned(structure) for structure in structures]
        readable = [i for i, item in enumerate(clean) if not isinstance(item, Invalid)]
        inputs: list[Structure] = [clean[i] for i in readable]  # type: ignore[misc]
        samples = self._backend.run(inputs, progress)
        self._measure_batch(inputs, samples)
        by_index = dict(zip(readable, samples, strict=True))
        table = ScoreTable(
            tuple(self._row(i, item, by_index.get(i, Sample())) for i, item in enumerate(clean))
        )
        self._check_failures(table)
        return table

    def state_dict(self) -> dict[str, Any]:
        """What batch-scope rewards remember, by reward name (plain data, fit for JSON)."""
        return {name: self._rewards[name].state_dict() for name in self._batch_names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            RewardError: The state is that of other rewards.
        """
        if set(state) != set(self._batch_names):
            raise RewardError(
                f"the saved reward state is of {sorted(state)}, this run has {sorted(self._batch_names)}; "
                "resume with the expression and gates that the run was started with"
            )
        for name in self._batch_names:
            self._rewards[name].load_state_dict(state[name])

    def _measure_batch(self, structures: Sequence[Structure], samples: Sequence[Sample]) -> None:
        """Run batch-scope rewards on what no gate or term has called invalid."""
        alive = [i for i, sample in enumerate(samples) if self._is_alive(sample)]
        with sharing() as store:
            for i in alive:
                for label, result in samples[i].labels.items():
                    store.add(label, structures[i], result)
            for name in self._batch_names:
                results = call(self._rewards[name], [structures[i] for i in alive], retry=False)
                for i, result in zip(alive, results, strict=True):
                    samples[i].results[name] = result

    def _is_alive(self, sample: Sample) -> bool:
        screened = all(
            isinstance(sample.results.get(name), Measurement)
            for name in self.gates
            if self._rewards[name].screening and self._rewards[name].scope == "structure"
        )
        return screened and not any(
            isinstance(result, Invalid) and self._counts(name) for name, result in sample.results.items()
        )

    def _counts(self, name: str) -> bool:
        return name in self.gates or self.weights.get(name, 0.0) > 0

    def _row(self, index: int, structure: Structure | Invalid, sample: Sample) -> ScoredSample:
        terms = {name: self._term(name, sample.results.get(name)) for name in self._rewards}
        if isinstance(structure, Invalid):
            terms = {name: TermScore(SKIPPED, reason=structure.reason) for name in terms}
            outcome, reason = Outcome.INVALID, structure.reason
        else:
            outcome, reason = self._verdict(terms)
        return ScoredSample(
            index=index,
            outcome=outcome,
            reason=reason,
            reward=self._reward(outcome, terms),
            terms=terms,
            labels=_labels(structure, sample),
            shared=sample.labels,
        )

    def _term(self, name: str, result: Result | None) -> TermScore:
        if result is None:
            return TermScore(SKIPPED, reason="not measured: turned down before")
        if isinstance(result, Invalid):
            return TermScore(Outcome.INVALID.value, reason=result.reason)
        scored = result if isinstance(result, Failure) else _scored(self._rewards[name], result)
        if isinstance(scored, Failure):
            return TermScore(Outcome.FAILED.value, reason=scored.reason)
        measurement, score = scored
        total = sum(self.weights.values())
        return TermScore(
            Outcome.OK.value,
            value=measurement.value,
            score=score,
            uncertainty=math.nan if measurement.uncertainty is None else measurement.uncertainty,
            contribution=self.weights.get(name, 0.0) * score / total,
            details=measurement.details,
        )

    def _verdict(self, terms: Mapping[str, TermScore]) -> tuple[Outcome, str]:
        for outcome in (Outcome.INVALID, Outcome.FAILED):
            for name, term in terms.items():
                if term.outcome == outcome.value and self._counts(name):
                    return outcome, f"{name}: {term.reason}"
        return Outcome.OK, ""

    def _reward(self, outcome: Outcome, terms: Mapping[str, TermScore]) -> float:
        if outcome is not Outcome.OK:
            return 0.0 if outcome is Outcome.INVALID else math.nan
        weighted = {name: weight for name, weight in self.weights.items() if weight > 0}
        reward = self._aggregate(list(weighted.values()), [terms[name].score for name in weighted])
        for name in self.gates:
            reward *= terms[name].score
        return min(1.0, max(0.0, reward))

    def _check_failures(self, table: ScoreTable) -> None:
        failed = [row.reason for row in table if row.outcome is Outcome.FAILED]
        if len(table) >= MIN_ROWS_TO_STOP and len(failed) > self._max_failed * len(table):
            reason, count = Counter(failed).most_common(1)[0]
            raise RewardError(
                f"{len(failed)} of {len(table)} structures could not be measured (the limit is "
                f"{self._max_failed:.0%}); commonest reason, {count} times: {reason}"
            )


def _assemble(
    terms: Sequence[Term], gates: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...], dict[str, Reward], dict[str, Term]]:
    """Build every reward once: weights by name, gate names, rewards by name (gates first), terms."""
    rewards: dict[str, Reward] = {}
    built: dict[str, Term] = {}
    weights: dict[str, float] = {}
    for term in terms:
        reward, term = _create(term)
        if reward.name in rewards:
            raise ConfigError(f"two rewards of the expression are called {reward.name!r}; rename one")
        rewards[reward.name], built[reward.name], weights[reward.name] = reward, term, term.weight
    if sum(weights.values()) <= 0:
        raise ConfigError("every term of the reward expression has weight 0; one must have more")
    names: list[str] = []
    for text in [] if list(gates) == ["none"] else gates:
        gate, *more = parse(text)
        if more or gate.weight != 1:
            raise ConfigError(f"a gate is one reward without a weight, found {text!r}")
        reward, term = _create(gate)
        if reward.name in names:
            raise ConfigError(f"gate {reward.name!r} is given twice")
        if (
            reward.name in rewards
            and gate.options
            and rewards[reward.name].model_dump() != reward.model_dump()
        ):
            raise ConfigError(
                f"{reward.name!r} is both a gate and a term, with different options; give them to one only"
            )
        rewards.setdefault(reward.name, reward)
        built.setdefault(reward.name, term)
        names.append(reward.name)
    order = [*names, *(name for name in rewards if name not in names)]
    return weights, tuple(names), {name: rewards[name] for name in order}, built


def _create(term: Term) -> tuple[Reward, Term]:
    """Build a term's reward; a file is named by its full path, as workers may run elsewhere."""
    path, separator, attribute = term.name.rpartition(":")
    if separator:
        term = Term(f"{Path(path).expanduser().resolve()}:{attribute}", term.options, term.weight)
    return registry.create(term.name, term.options), term


def _cleaned(structure: Structure | Invalid | None) -> Structure | Invalid:
    if structure is None:
        return Invalid("the completion is not a structure")
    if isinstance(structure, Invalid):
        return structure
    if not structure.is_ordered:
        return Invalid("the structure has disordered sites")
    return strip_oxidation_states(structure)


def _scored(reward: Reward, measurement: Measurement) -> tuple[Measurement, float] | Failure:
    try:
        score = float(reward.shaping()(measurement.value))
    except (TypeError, ValueError, ArithmeticError, NotImplementedError) as error:
        return Failure(f"the shaping of {measurement.value:g} raised {type(error).__name__}: {error}")
    if not 0.0 <= score <= 1.0:
        return Failure(f"the shaping of {measurement.value:g} gave {score}; expected a score in [0, 1]")
    return measurement, score


def _labels(structure: Structure | Invalid, sample: Sample) -> dict[str, Any]:
    prototype = sample.labels.get("prototype")
    formula, n_sites = None, None
    if not isinstance(structure, Invalid):
        n_sites = len(structure)
        formula = structure.composition.reduced_formula if n_sites else None
    return {
        "formula": formula,
        "n_sites": n_sites,
        "prototype": getattr(prototype, "label", None),
        "framework": getattr(prototype, "framework_label", None),
        "family_formula": getattr(prototype, "family_formula", None),
        "space_group_number": getattr(prototype, "space_group_number", None),
    }
