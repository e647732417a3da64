"""The process in which a reward under test runs: one JSON line in for a case, one out with what happened.

Run by ``isolation`` as a module. What the reward prints goes to stderr, so that it cannot spoil the answers.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from materium_rl.errors import ConfigError, MateriumError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Measurement, Reward
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.bench.contract_cases import Sabotaged
from materium_rl.rewards.bench.report import run_case
from materium_rl.rewards.bench.subject import Subject
from materium_rl.rewards.execution.measuring import call
from materium_rl.rewards.expression import parse_one

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Build the reward that the first line names, then run a case for every further line."""
    warnings.simplefilter("ignore")
    requests, answers = _private_pipes()
    setup = json.loads(requests.readline())
    try:
        subject = Subject(_maker(setup["target"], setup["plugins"]))
    except MateriumError as error:
        _say(answers, {"error": str(error), "usage": isinstance(error, ConfigError)})
        return
    _say(answers, {"name": subject.reward.name})
    for line in requests:
        case = json.loads(line)["case"]
        if case in ("values", "hang"):
            _say(answers, {"values": _values(subject)})
            if case == "hang":
                _hang(subject)
        else:
            _say(answers, run_case(subject, case).as_dict())


def _private_pipes() -> tuple[TextIO, TextIO]:
    """The pipes to the bench; the reward is left with an empty stdin and with stderr for its stdout."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


def _maker(target: str, plugins: Sequence[str]) -> Any:
    for path in plugins:
        registry.load_plugin(path)
    term = parse_one(target)
    if term.curve is not None or term.risk:
        raise ConfigError("the bench checks a reward with its own curve; leave out curve and risk")

    def make() -> Reward:
        return registry.create(term.name, term.options)

    make()  # a wrong name or option shows here
    return make


def _values(subject: Subject) -> list[float | None]:
    results = subject.measure(list(zoo.crystals().values()))
    return [result.value if isinstance(result, Measurement) else None for result in results]


def _hang(subject: Subject) -> None:
    structures = [structure.copy() for structure in zoo.crystals().values()]
    call(
        Sabotaged(inner=subject.without_history(), victim=structures[1], fault=_sleep),
        structures,
        retry=False,
    )


def _sleep(_answers: list[Any], _place: int) -> NoReturn:
    while True:
        time.sleep(3600)


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
