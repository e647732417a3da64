"""From structures to rewards: gates, terms, weights, and the rules for what could not be measured.

The reward of a structure is

    reward = aggregate(weight_i, score_i) * product of the gates' scores,

in [0, 1]. Nothing is normalised over the batch here: a score means the same in every step. Three outcomes
are never mixed: *ok*; *invalid* (the policy's fault, reward 0); *failed* (the evaluator's fault, reward
NaN, to be left out). A failed monitor (weight 0, no gate) leaves the row as it is.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry
from materium_rl.rewards.aggregation import AGGREGATIONS, Aggregation, contributions, gate_of, reward_of
from materium_rl.rewards.assembly import assemble, measured
from materium_rl.rewards.base import Failure, Invalid, Measurement, Outcome, Result
from materium_rl.rewards.execution.backends import Backend, InlineBackend
from materium_rl.rewards.execution.batches import Progress
from materium_rl.rewards.execution.cache import GIGABYTE, CacheSettings
from materium_rl.rewards.execution.measuring import Plan, Sample, call, import_provider, load_reward
from materium_rl.rewards.execution.workers import RayBackend
from materium_rl.rewards.expression import format_expression, parse
from materium_rl.rewards.score_table import SKIPPED, ScoredSample, ScoreTable, TermScore
from materium_rl.rewards.shared import sharing
from materium_rl.rewards.term_scores import TermScorer
from materium_rl.structures import strip_oxidation_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

DEFAULT_GATES = ("validity", "stability", "uniqueness")
MIN_ROWS_TO_STOP = 16


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
        shared: Shared work whose results are returned with each row, beside that of batch-scope
            rewards. ``prototype`` also fills the label columns.
        max_failed: Stop when more than this share of a batch of at least 16 failed.
        ray_address: Ray cluster to join.
        cache: Folder in which measurements are kept and found again (``rewards.execution.cache``).
        cache_limit: Size in GB at which the oldest of them make room.

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
        cache: str | Path | None = None,
        cache_limit: float = 1.0,
    ) -> None:
        if aggregation not in AGGREGATIONS:
            raise ConfigError(registry.unknown("aggregation", aggregation, list(AGGREGATIONS)))
        if workers < 0 or chunk_size < 1 or timeout <= 0 or worker_memory <= 0:
            raise ConfigError(
                "workers must be at least 0, chunk_size at least 1, timeout and worker_memory more than 0"
            )
        for path in plugins:
            registry.load_plugin(path)
        self.aggregation = aggregation
        self._max_failed = max_failed
        self._started = False
        self._said: set[str] = set()
        self.terms = parse(expression)
        self.weights, self.gates, self._rewards, terms = assemble(self.terms, gates)
        self._scorers = {name: TermScorer.of(reward, terms[name]) for name, reward in self._rewards.items()}
        self._batch_names = [n for n, reward in self._rewards.items() if reward.scope == "batch"]
        needed = (work for name in self._batch_names for work in self._rewards[name].requires)
        self._shared = tuple(dict.fromkeys([*shared, *needed]))
        plan = Plan(
            terms=tuple(
                measured(terms[n]) for n, reward in self._rewards.items() if reward.scope == "structure"
            ),
            screens=tuple(n for n in self.gates if self._rewards[n].screening),
            shared=self._shared,
            plugins=tuple(str(Path(path).resolve()) for path in plugins),
            cache=_cache_settings(cache, cache_limit),
        )
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

    @property
    def paying(self) -> dict[str, TermScorer]:
        """The gates and the terms with a weight, by name, each with its curve."""
        return {name: scorer for name, scorer in self._scorers.items() if self._counts(name)}

    @property
    def prompted(self) -> set[str]:
        """Names of the rewards whose target is what each sample was asked for."""
        return {name for name, scorer in self._scorers.items() if scorer.prompted}

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

    def check_prompts(self, names: Collection[str]) -> None:
        """Check that samples are asked for whatever a reward of them takes as its target.

        Args:
            names: Conditions that every sample has a value of.

        Raises:
            ConfigError: A reward's target is the prompt, and there is none.
        """
        for name, scorer in self._scorers.items():
            wanted = self._rewards[name].prompted_by
            if scorer.prompted and set(wanted).isdisjoint(names):
                found = ", ".join(names) or "nothing"
                raise ConfigError(
                    f"{name}(target=prompt) needs samples that are asked for {' or '.join(wanted)}, but they "
                    f"are asked for {found}: add --set prompts.conditions.{wanted[0]}=..., or write a number "
                    "as the target"
                )

    def score(
        self,
        structures: Sequence[Structure | Invalid | None],
        progress: Progress | None = None,
        *,
        asked: Sequence[Mapping[str, Any]] = (),
    ) -> ScoreTable:
        """Score N completions; batch-scope rewards remember them.

        Args:
            structures: N structures; ``Invalid`` or None for a completion that is no structure.
            progress: Is called now and then with the number of structures that are measured, and
                that of all which are to be.
            asked: What each completion was asked for, by name of the condition; empty if for nothing.

        Returns:
            N rows in the same order.

        Raises:
            ConfigError: A reward's target is the prompt, and a completion has none.
            RewardError: Too many rows failed; names the commonest reason.
        """
        wishes = [*asked] if asked else [{}] * len(structures)
        for wish in wishes:
            self.check_prompts(wish)
        self.start()
        clean = [_cleaned(structure) for structure in structures]
        readable = [i for i, item in enumerate(clean) if not isinstance(item, Invalid)]
        inputs: list[Structure] = [clean[i] for i in readable]  # type: ignore[misc]
        samples = self._backend.run(inputs, progress)
        self._pass_on_notes(samples)
        self._measure_batch(inputs, samples)
        self._check_uncertainties(samples)
        by_index = dict(zip(readable, samples, strict=True))
        table = ScoreTable(
            tuple(
                self._row(i, item, by_index.get(i, Sample()), wish)
                for i, (item, wish) in enumerate(zip(clean, wishes, strict=True))
            )
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

    def _row(
        self, index: int, structure: Structure | Invalid, sample: Sample, asked: Mapping[str, Any]
    ) -> ScoredSample:
        terms = {name: self._term(name, sample.results.get(name), asked) for name in self._rewards}
        if isinstance(structure, Invalid):
            terms = {name: TermScore(SKIPPED, reason=structure.reason) for name in terms}
            outcome, reason = Outcome.INVALID, structure.reason
        else:
            outcome, reason = self._verdict(terms)
        reward = gate = 0.0 if outcome is Outcome.INVALID else math.nan
        if outcome is Outcome.OK:
            scores = {name: term.score for name, term in terms.items()}
            reward = reward_of(self.aggregation, self.weights, self.gates, scores)
            gate = gate_of(self.gates, scores)
            shares = contributions(self.aggregation, self.weights, self.gates, scores)
            terms = {name: replace(term, contribution=shares[name]) for name, term in terms.items()}
        return ScoredSample(
            index=index,
            outcome=outcome,
            reason=reason,
            reward=reward,
            gate=gate,
            terms=terms,
            labels=_labels(structure, sample),
            shared=sample.labels,
        )

    def _term(self, name: str, result: Result | None, asked: Mapping[str, Any]) -> TermScore:
        if result is None:
            return TermScore(SKIPPED, reason="not measured: turned down before")
        if isinstance(result, Invalid):
            return TermScore(Outcome.INVALID.value, reason=result.reason)
        score = result if isinstance(result, Failure) else self._scorers[name].score(result, asked)
        if isinstance(score, Failure):
            return TermScore(Outcome.FAILED.value, reason=score.reason)
        assert isinstance(result, Measurement)
        return TermScore(
            Outcome.OK.value,
            value=result.value,
            score=score,
            uncertainty=math.nan if result.uncertainty is None else result.uncertainty,
            details=result.details,
        )

    def _verdict(self, terms: Mapping[str, TermScore]) -> tuple[Outcome, str]:
        for outcome in (Outcome.INVALID, Outcome.FAILED):
            for name, term in terms.items():
                if term.outcome == outcome.value and self._counts(name):
                    return outcome, f"{name}: {term.reason}"
        return Outcome.OK, ""

    def _pass_on_notes(self, samples: Sequence[Sample]) -> None:
        """Say what the processes that measured have to say, each thing once."""
        for note in dict.fromkeys(note for sample in samples for note in sample.notes):
            if note not in self._said:
                self._said.add(note)
                warnings.warn(note, RuntimeWarning, stacklevel=3)

    def _check_uncertainties(self, samples: Sequence[Sample]) -> None:
        """A reward that never says how uncertain it is cannot be scored with a risk."""
        for name, scorer in self._scorers.items():
            results = [sample.results.get(name) for sample in samples] if scorer.risk else []
            measured = [result for result in results if isinstance(result, Measurement)]
            if measured and all(result.uncertainty is None for result in measured):
                raise RewardError(
                    f"{name}(risk={scorer.risk:g}): this reward gives no uncertainty; remove risk, or use a "
                    "reward that measures with one, such as bandgap"
                )

    def _check_failures(self, table: ScoreTable) -> None:
        failed = [row.reason for row in table if row.outcome is Outcome.FAILED]
        if len(table) >= MIN_ROWS_TO_STOP and len(failed) > self._max_failed * len(table):
            reason, count = Counter(failed).most_common(1)[0]
            raise RewardError(
                f"{len(failed)} of {len(table)} structures could not be measured (the limit is "
                f"{self._max_failed:.0%}); commonest reason, {count} times: {reason}"
            )


def _cache_settings(folder: str | Path | None, gigabytes: float) -> CacheSettings | None:
    if folder is None:
        return None
    path = Path(folder).expanduser().resolve()
    if gigabytes <= 0:
        raise ConfigError(f"cache_limit is a size in GB, more than 0, found {gigabytes:g}")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"the cache of measurements is a folder, but {path} is a file")
    return CacheSettings(str(path), int(gigabytes * GIGABYTE))


def _cleaned(structure: Structure | Invalid | None) -> Structure | Invalid:
    if structure is None:
        return Invalid("the completion is not a structure")
    if isinstance(structure, Invalid):
        return structure
    if not structure.is_ordered:
        return Invalid("the structure has disordered sites")
    return strip_oxidation_states(structure)


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
