"""Run rewards on one chunk of structures and turn whatever they answer into outcomes.

This is what a worker does; it knows nothing of weights, gates' arithmetic or processes.
"""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from materium_rl.errors import MateriumError, RewardError
from materium_rl.rewards import registry, shared
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.execution import provenance
from materium_rl.rewards.execution.cache import RESULTS, CacheSettings, MeasurementCache
from materium_rl.rewards.expression import Term

if TYPE_CHECKING:
    from pymatgen.core import Structure

RESERVED_COLUMNS = ("value", "score", "uncertainty", "contribution", "outcome", "reason")

_PROVIDER_MODULES = {
    "symmetry": "materium_rl.rewards.symmetry",
    "prototype": "materium_rl.rewards.prototypes",
    "fingerprint": "materium_rl.rewards.fingerprint",
    "energy": "materium_rl.rewards.energies",
    "chgnet": "materium_rl.rewards.energies",
    "chgnet_forces": "materium_rl.rewards.energies",
}
_LONGEST_MESSAGE = 500
_PLAIN = (str, int, float, bool, type(None))


class Part(NamedTuple):
    """A piece of a plan that can run on its own: one reward or one shared label."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker does with every structure; small and picklable.

    Args:
        terms: Structure-scope rewards in the order of evaluation.
        screens: Names of rewards that run first; what does not pass them is not measured further.
        shared: Names of shared work whose results are sent back as labels.
        plugins: Plugin files to load first.
        cache: Where measurements are kept.
    """

    terms: tuple[Term, ...]
    screens: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    cache: CacheSettings | None = None


@dataclass(slots=True)
class Sample:
    """What one structure got: results by reward name (none where skipped), labels by shared name.

    ``notes`` are warnings of the process that measured it, for the user; not of this structure.
    """

    results: dict[str, Result] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def merge(self, other: Sample) -> None:
        """Take over the results of another part of the plan."""
        self.results.update(other.results)
        self.labels.update(other.labels)
        self.notes += other.notes


class Measurer:
    """The rewards of a plan, built and loaded in this process."""

    def __init__(self, plan: Plan) -> None:
        for path in plan.plugins:
            registry.load_plugin(path)
        self.plan = plan
        built = [registry.create(term.name, term.options) for term in plan.terms]
        self.rewards = {reward.name: reward for reward in built}
        self.cache = None if plan.cache is None else MeasurementCache(plan.cache)
        self._subjects = {
            name: subject
            for name, reward in self.rewards.items()
            if self.cache and reward.cacheable and (subject := provenance.of_reward(reward))
        }
        self.parts = [Part("term", name) for name in self.rewards]
        self.parts += [Part("label", name) for name in plan.shared]

    def load(self) -> None:
        """Load every reward and the providers of shared work.

        Raises:
            RewardError: Names the reward and the cause.
        """
        for reward in self.rewards.values():
            load_reward(reward)
        for name in self.plan.shared:
            import_provider(name)

    def measure(self, structures: Sequence[Structure], part: Part | None = None) -> list[Sample]:
        """Measure a chunk of N structures.

        Args:
            structures: N structures without oxidation states.
            part: Run the screens and this part only; None runs the whole plan.

        Returns:
            N samples in the same order.
        """
        samples = [Sample() for _ in structures]
        passed = list(range(len(structures)))
        wanted = {name for reward in self.rewards.values() for name in reward.requires}
        with shared.sharing(wanted | set(self.plan.shared), self.cache):
            for name in self.plan.screens:
                self._term(name, structures, passed, samples)
                passed = [i for i in passed if isinstance(samples[i].results[name], Measurement)]
            for kind, name in self.parts if part is None else [part]:
                if kind == "label":
                    self._label(name, structures, passed, samples)
                elif name not in self.plan.screens:
                    self._term(name, structures, passed, samples)
        if self.cache and self.cache.problem and samples:
            samples[0].notes.append(self.cache.problem)
        return samples

    def close(self) -> None:
        """Close the cache; the next ``measure`` opens it again."""
        if self.cache:
            self.cache.close()

    def _term(
        self, name: str, structures: Sequence[Structure], indices: list[int], samples: list[Sample]
    ) -> None:
        results = self._results(name, [structures[i] for i in indices])
        for i, result in zip(indices, results, strict=True):
            samples[i].results[name] = result

    def _results(self, name: str, structures: list[Structure]) -> list[Result]:
        """Results of one reward, from the cache where they are there."""
        reward = self.rewards[name]
        if self.cache is None or name not in self._subjects:
            return call(reward, structures)
        return self.cache.recall(self._subjects[name], structures, partial(call, reward), RESULTS)

    def _label(
        self, name: str, structures: Sequence[Structure], indices: list[int], samples: list[Sample]
    ) -> None:
        for i, label in zip(indices, _provide(name, [structures[i] for i in indices]), strict=True):
            samples[i].labels[name] = label


def _provide(name: str, structures: Sequence[Structure]) -> list[Any]:
    """Shared work on N structures; where it raises, a ``Failure`` for the culprit alone."""
    try:
        return shared.PROVIDERS[name](structures)
    except MemoryError:  # what holds the memory may hold it still: the backend decides
        raise
    except Exception as error:  # noqa: BLE001 (worker boundary)
        if len(structures) > 1:
            return [_provide(name, [structure])[0] for structure in structures]
        return [Failure(f"{name}: {_said(error)}")]


def load_reward(reward: Reward) -> None:
    """Load one reward and check that the shared work it names exists.

    Raises:
        RewardError: Names the reward and the cause.
    """
    try:
        reward.load()
    except (Exception, SystemExit) as error:
        cause = str(error) if isinstance(error, MateriumError) else f"{type(error).__name__}: {error}"
        raise RewardError(f"reward {reward.name!r} cannot be loaded: {cause}") from error
    for name in reward.requires:
        try:
            import_provider(name)
        except RewardError as error:
            raise RewardError(f"reward {reward.name!r} cannot be loaded: {error}") from error


def import_provider(name: str) -> None:
    """Make sure that the provider of shared work ``name`` is registered."""
    if name not in shared.PROVIDERS and name in _PROVIDER_MODULES:
        importlib.import_module(_PROVIDER_MODULES[name])
    if name not in shared.PROVIDERS:
        known = [*shared.PROVIDERS, *_PROVIDER_MODULES]
        raise RewardError(registry.unknown("shared work", name, sorted(set(known))))


def call(reward: Reward, structures: Sequence[Structure], *, retry: bool = True) -> list[Result]:
    """Measure N structures with one reward; whatever it does, N outcomes come back.

    An exception or a wrong number of answers fails the structure that causes it: all are measured again
    one by one, unless ``retry`` is off (a reward with a memory must not run twice).

    Raises:
        MemoryError: There is no more memory; not with ``retry`` off.
    """
    if not structures:
        return []
    answers: Any = None
    try:
        answers = reward.measure(structures)
        problem = _not_one_each(answers, len(structures))
    except (Exception, SystemExit) as error:
        if retry and isinstance(error, MemoryError):  # what holds it may hold it still: the backend decides
            raise
        problem = f"raised {_said(error)}"
    if not problem:
        return [checked(answer) for answer in answers]
    if retry and len(structures) > 1:
        return [call(reward, [structure])[0] for structure in structures]
    return [Failure(problem)] * len(structures)


def _not_one_each(answers: object, n: int) -> str:
    if not isinstance(answers, list | tuple | np.ndarray):
        return f"returned {type(answers).__name__}; expected a list with one result per structure"
    return "" if len(answers) == n else f"returned {len(answers)} results for {n} structures"


def _said(error: BaseException) -> str:
    """Type and message of an exception, short enough for a table."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (worker boundary: a foreign exception's own method)
        message = "(its message cannot be read)"
    return f"{type(error).__name__}: {message[:_LONGEST_MESSAGE]}"


def checked(answer: object) -> Result:
    """Accept a result or a plain finite number; anything else is a failure."""
    if isinstance(answer, Invalid | Failure):
        return answer
    given = answer if isinstance(answer, Measurement) else Measurement(answer)  # type: ignore[arg-type]
    value, uncertainty = _number(given.value), _number(given.uncertainty)
    if value is None:
        return Failure(f"returned {type(given.value).__name__} {given.value!r:.60}; expected a number")
    if not math.isfinite(value):
        return Failure(f"returned {value}; expected a finite number")
    if given.uncertainty is not None and (uncertainty is None or not 0 <= uncertainty < math.inf):
        return Failure(f"returned an uncertainty of {given.uncertainty!r:.60}")
    details = {key: _plain(item) for key, item in given.details.items()}
    for key, item in details.items():
        if key in RESERVED_COLUMNS or not isinstance(item, _PLAIN):
            return Failure(
                f"returned the detail {key!r} of type {type(item).__name__}; expected plain str, int, float "
                f"or bool under a name other than {', '.join(RESERVED_COLUMNS)}"
            )
    return Measurement(value, uncertainty, details)


def _number(value: object) -> float | None:
    if isinstance(value, numbers.Real | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return None


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return value.item() if isinstance(value, np.generic) else value
