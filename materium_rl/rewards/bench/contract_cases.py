"""Cases on what every reward promises, whatever it measures."""

from __future__ import annotations

import dis
import inspect
import json
import math
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, ValidationError

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.bench.subject import Answer, Case, Subject, Verdict, is_breach, shortened
from materium_rl.rewards.execution.measuring import call
from materium_rl.rewards.external_function import FunctionReward
from materium_rl.rewards.shaping import Identity, Shaping

if TYPE_CHECKING:
    from pymatgen.core import Structure

HUGE = 1e300
_SWEEP = [sign * 10.0**power for sign in (-1, 1) for power in range(-3, 10)]
_DYNAMIC = {"model_dump", "getattr", "__dict__", "model_fields", "vars"}
"""Names whose use may read any option."""


def options_are_used(subject: Subject) -> Answer:
    """An unknown option is refused, and every known one is read somewhere."""
    reward = subject.reward
    given = reward.model_dump(by_alias=True)
    try:
        type(reward)(**given, **{"an option that there is not": 1})
    except ValidationError:
        pass
    else:
        return Verdict.FAIL, "accepts an option that it does not have; keep Reward's model_config"
    unread = sorted(type(reward).model_fields.keys() - _names_read(type(reward)))
    if unread and not _names_read(type(reward)) & _DYNAMIC:
        return Verdict.FAIL, f"never reads its option {', '.join(unread)}: accepted and ignored"
    return Verdict.PASS, f"{len(given)} options, all read" if given else "no options"


def measures_known_crystals(subject: Subject) -> Answer:
    """Textbook crystals get outcomes, and not all of them bad ones."""
    for name, result in subject.known.items():
        if is_breach(result):
            return Verdict.FAIL, f"{name}: {subject.say(result)}; return Failure(reason) instead"
    for kind, advice in (
        (Invalid, "a broken evaluator is a Failure, Invalid blames the policy"),
        (Failure, "nothing can be measured"),
    ):
        if all(isinstance(result, kind) for result in subject.known.values()):
            return Verdict.FAIL, f"all {subject.say(next(iter(subject.known.values())))}: {advice}"
    others = [
        f"{name} {subject.say(r)}" for name, r in subject.known.items() if not isinstance(r, Measurement)
    ]
    low, high = (subject.say(Measurement(subject.values[i])) for i in (0, -1))
    measured = f"{len(subject.values)} of {len(subject.known)} measured, {low} to {high}"
    return Verdict.PASS, "; ".join([measured, *others[:1]])


def repeats_itself(subject: Subject) -> Answer:
    """The same crystals get the same outcomes when asked again."""
    again = subject.measure(list(zoo.crystals().values()))
    for (name, first), second in zip(subject.known.items(), again, strict=True):
        if not subject.same(first, second):
            return Verdict.FAIL, f"{name}: {subject.say(first)}, then {subject.say(second)}"
    return Verdict.PASS, "equal outcomes"


def keeps_its_input(subject: Subject) -> Answer:
    """The structures are the same afterwards."""
    structures = [structure.copy() for structure in zoo.crystals().values()]
    call(subject.without_history(), structures, retry=False)
    for (name, before), after in zip(zoo.crystals().items(), structures, strict=True):
        if before.lattice.matrix.tobytes() != after.lattice.matrix.tobytes() or list(before) != list(after):
            return Verdict.FAIL, f"{name} is changed by measuring it; work on a copy"
    return Verdict.PASS, "unchanged"


def ignores_company(subject: Subject) -> Answer:
    """A crystal gets the same outcome alone and among unrelated ones, in whatever order."""
    crystals = zoo.crystals()
    backwards = dict(zip(reversed(crystals), subject.measure(list(crystals.values())[::-1]), strict=True))
    for name, structure in crystals.items():
        (alone,) = subject.measure([structure])
        for where, among in (("among others", subject.known[name]), ("in reverse order", backwards[name])):
            if not subject.same(alone, among):
                said = f"{name}: {subject.say(alone)} alone, {subject.say(among)} {where}"
                return Verdict.FAIL, f"{said}; a score must not depend on unrelated crystals of the batch"
    return Verdict.PASS, "the same alone and among others"


def answers_can_be_sent(subject: Subject) -> Answer:
    """Outcomes survive the way between processes."""
    results = list(subject.known.values())
    try:
        returned = pickle.loads(pickle.dumps(results))
    except Exception as error:  # noqa: BLE001 (pickle raises whatever an object's own methods raise)
        return Verdict.FAIL, f"cannot be pickled: {type(error).__name__}: {shortened(error)}"
    if returned != results:
        return Verdict.FAIL, "are others after pickling"
    return Verdict.PASS, "picklable"


def scores_lie_in_range(subject: Subject) -> Answer:
    """The curve stays in [0, 1] for any value."""
    curve = subject.reward.shaping()
    for value in [*subject.values, *_SWEEP]:
        score = _scored(curve, value)
        if not isinstance(score, float):
            return Verdict.FAIL, f"the curve raises at {value:g}: {score}"
        if not 0.0 <= score <= 1.0:
            return Verdict.FAIL, f"the curve gives {score:g} at {value:g}; expected a score in [0, 1]"
    clipped = [value for value in subject.values if not 0.0 <= value <= 1.0]
    if isinstance(curve, Identity) and clipped:
        return Verdict.WARN, f"values such as {clipped[0]:g} are cut to [0, 1]; give the reward a curve"
    return Verdict.PASS, "in [0, 1] from -1e9 to 1e9"


def does_not_repeat_work(subject: Subject) -> Answer:
    """No phase diagram is built and no file read for each structure of one chemical system."""
    base = zoo.crystals()["TiO2"]
    crystals = [base.copy() for _ in range(4)]
    for i, structure in enumerate(crystals):
        structure.scale_lattice(base.volume * (1 + 0.01 * i))
    reward = subject.without_history()
    subject.measure(crystals, reward)  # what is loaded once is loaded now
    with _counting() as (opened, built):
        subject.measure(crystals, reward)
    if len(built) >= len(crystals):
        return Verdict.FAIL, (
            f"builds {len(built)} phase diagrams for {len(crystals)} structures of one chemical system; "
            "build one in load(), or keep one for each system"
        )
    often = [path for path, n in Counter(opened).items() if n >= len(crystals)]
    if often:
        return Verdict.WARN, f"reads {shortened(often[0])} once for each structure; read it in load()"
    return Verdict.PASS, "nothing heavy is done again"


def restores_its_memory(subject: Subject) -> Answer:
    """A batch-scope reward that is saved and restored goes on as if nothing had happened."""
    if not subject.sees_batches:
        return Verdict.PASS, "no memory: scope is structure"
    structures = list(zoo.crystals().values())
    first, second = subject.fresh(), subject.fresh()
    subject.measure(structures[:3], first)
    try:
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    except Exception as error:  # noqa: BLE001 (foreign code)
        return Verdict.FAIL, f"its state does not survive JSON: {type(error).__name__}: {shortened(error)}"
    went_on, resumed = subject.measure(structures[:5], first), subject.measure(structures[:5], second)
    for a, b in zip(went_on, resumed, strict=True):
        if not subject.same(a, b):
            return Verdict.FAIL, f"{subject.say(a)} without and {subject.say(b)} after saving and restoring"
    return Verdict.PASS, "the same after saving and restoring"


class Sabotaged(Reward):
    """The reward, but for one structure it answers something else."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: ClassVar[str] = "sabotaged"

    inner: Any
    victim: Any
    fault: Callable[[list[Any], int], list[Any]]

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """The inner reward's answers, spoilt if the victim is there."""
        answers = list(self.inner.measure(structures))
        places = [i for i, structure in enumerate(structures) if structure is self.victim]
        return self.fault(answers, places[0]) if places else answers


def _raise(_answers: list[Any], _place: int) -> list[Any]:
    raise RuntimeError("sabotage")


def _replace(answer: object) -> Callable[[list[Any], int], list[Any]]:
    return lambda answers, place: [*answers[:place], answer, *answers[place + 1 :]]


def _cut(answers: list[Any], _place: int) -> list[Any]:
    return answers[:-1]


def survives(fault: Callable[[list[Any], int], list[Any]]) -> Case:
    """A case in which one structure of a batch goes wrong: it alone fails, the others keep their outcomes.

    Where the whole call is lost, the others are asked again one by one; a reward with a memory cannot be
    asked again, so all fail.

    Args:
        fault: Answers and place of the victim -> answers.
    """

    def case(subject: Subject) -> Answer:
        structures = [structure.copy() for structure in list(zoo.crystals().values())[:4]]
        victim = structures[1]
        sound = subject.measure(structures)
        sabotaged = Sabotaged(inner=subject.without_history(), victim=victim, fault=fault)
        results = call(sabotaged, structures, retry=not subject.sees_batches)
        all_fail = subject.sees_batches and fault in (_raise, _cut)
        for structure, before, after in zip(structures, sound, results, strict=True):
            if (structure is victim or all_fail) and not isinstance(after, Failure):
                return Verdict.FAIL, f"counts as {subject.say(after)}; expected a failure"
            if not (structure is victim or all_fail) and not subject.same(before, after):
                return Verdict.FAIL, f"another crystal of the batch gets {subject.say(after)}"
        return Verdict.PASS, "stopped by the scorer: " + shortened(getattr(results[1], "reason", ""))

    return case


def survives_huge_values(subject: Subject) -> Answer:
    """A value of 1e300 of either sign gets a score in [0, 1], or none."""
    curve = subject.reward.shaping()
    scores = {value: _scored(curve, value) for value in (-HUGE, HUGE)}
    for value, score in scores.items():
        if isinstance(score, float) and not 0.0 <= score <= 1.0:
            return Verdict.FAIL, f"{value:g} scores {score:g}"
    paid = [f"{value:g}" for value, score in scores.items() if isinstance(score, float) and score > 0.5]
    remark = f"; {' and '.join(paid)} would pay, so measure() must keep values in range" if paid else ""
    return Verdict.PASS, f"scored in [0, 1] or failed{remark}"


FAULTS: dict[str, Case] = {
    "NaN": survives(_replace(math.nan)),
    "text": survives(_replace("0.5")),
    "exception": survives(_raise),
    "wrong length": survives(_cut),
    "huge value": survives_huge_values,
}
"""What the scorer makes of this reward when something goes wrong inside it."""

CONTRACT: dict[str, Case] = {
    "options": options_are_used,
    "known crystals": measures_known_crystals,
    "asked again": repeats_itself,
    "input": keeps_its_input,
    "company": ignores_company,
    "between processes": answers_can_be_sent,
    "curve": scores_lie_in_range,
    "work done again": does_not_repeat_work,
    "saved state": restores_its_memory,
}


def _scored(curve: Shaping, value: float) -> float | str:
    """Score, or what went wrong."""
    try:
        return float(curve(value))
    except (TypeError, ValueError, ArithmeticError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"


def _names_read(reward: type[Reward]) -> set[str]:
    """Names of the variables and attributes that the code of a reward reads.

    Of a class: in its methods and in the functions of the modules that it and its bases come from.
    Validators do not count: to check an option is not to use it.
    """
    if issubclass(reward, FunctionReward):
        return _loaded(inspect.unwrap(reward.function).__code__)
    found: set[str] = set()
    for base in reward.__mro__[: reward.__mro__.index(Reward)]:
        functions = [_function(value) for value in vars(base).values()]
        functions += [_function(value) for value in vars(sys.modules[base.__module__]).values()]
        found.update(*(_loaded(f.__code__) for f in functions if f and f.__module__ == base.__module__))
    return found


def _function(value: object) -> FunctionType | None:
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, cached_property):
        value = value.func
    value = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    return value if isinstance(value, FunctionType) else None


def _loaded(code: CodeType) -> set[str]:
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname.startswith("LOAD_")}
    return names.union(*(_loaded(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


_OPENED: list[str] | None = None


def _note_open(event: str, arguments: tuple[Any, ...]) -> None:
    if _OPENED is not None and event == "open" and isinstance(arguments[0], str):
        _OPENED.append(arguments[0])


@cache
def _listen() -> None:
    """Once in a process: an audit hook cannot be removed."""
    sys.addaudithook(_note_open)


@contextmanager
def _counting() -> Iterator[tuple[list[str], list[object]]]:
    """Regular files that are opened, and phase diagrams that are built, inside the block."""
    global _OPENED
    _listen()
    opened: list[str] = []
    built: list[object] = []
    _OPENED = opened
    try:
        with _counted_diagrams(built):
            yield opened, built
    finally:
        _OPENED = None
        opened[:] = [path for path in opened if os.path.isfile(path)]


@contextmanager
def _counted_diagrams(built: list[object]) -> Iterator[None]:
    module = sys.modules.get("pymatgen.analysis.phase_diagram")  # slow to import: only if the reward does
    if module is None:
        yield
        return
    original = module.PhaseDiagram.__init__

    def counted(self: object, *args: Any, **options: Any) -> None:
        built.append(self)
        original(self, *args, **options)

    module.PhaseDiagram.__init__ = counted
    try:
        yield
    finally:
        module.PhaseDiagram.__init__ = original
