"""The ``external`` reward: a program that reads structures and writes answers, one JSON object a line."""

from __future__ import annotations

import json
import shlex
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.execution.line_process import LineProcess
from materium_rl.rewards.execution.measuring import checked
from materium_rl.rewards.shaping import Identity, Shaping, TargetWindow

if TYPE_CHECKING:
    from pymatgen.core import Structure

OUTCOMES = ("value", "invalid", "error")
_STDERR_SHOWN = 300
_LINE_SHOWN = 80


class External(Reward):
    """What a program of your own answers: a simulation, a queue of a cluster, another Python.

    The program reads one request a line, ``{"id": 7, "structure": {...}}``, and writes one answer a line,
    in any order: ``{"id": 7, "value": 1.2}``, ``{"id": 7, "invalid": reason}`` for what is wrong with the
    structure, or ``{"id": 7, "error": reason}`` for what it cannot measure. It stays alive between batches
    and ends when its stdin closes. A program that hangs or dies is killed with its children and started
    again; what it had not answered is sent again, one by one, so that only the culprit fails.

    Without a target the values must be scores in [0, 1].
    """

    name: ClassVar[str] = "external"

    command: str = Field(description="program and arguments; no shell runs; may stand without a name")
    timeout: float = Field(
        default=60.0, gt=0, description="longest wait for the next answer, s: the limit of one structure"
    )
    in_flight: int = Field(default=8, ge=1, description="structures sent ahead of their answers")
    send: Literal["pymatgen", "cif"] = Field(
        default="pymatgen", description="a structure as pymatgen's dict, or as text under the key cif"
    )
    expected_unit: str = Field(
        default="", alias="unit", description="unit of the values; an answer that names another one fails"
    )
    target: float | None = Field(default=None, description="wanted value; none: the value is the score")
    width: float = Field(default=1.0, gt=0, description="distance from the target at which the score is 1/2")

    _program: LineProcess | None = PrivateAttr(default=None)
    _sent: int = PrivateAttr(default=0)

    @field_validator("command")
    @classmethod
    def _is_a_command(cls, command: str) -> str:
        if not shlex.split(command):
            raise ValueError("expected a program and its arguments")
        return command

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.target is None and "width" in self.model_fields_set:
            raise ValueError("width has no effect without a target; give both")
        return self

    def shaping(self) -> Shaping:
        """A window around the target; without one the value is the score."""
        return Identity() if self.target is None else TargetWindow(target=self.target, width=self.width)

    def load(self) -> None:
        """Start the program.

        Raises:
            RewardError: It cannot be started.
        """
        self._running()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Ask the program about N structures."""
        batch = _Batch(structures)
        try:
            while batch.together or batch.alone:
                problem = self._converse(batch)
                if problem:
                    batch.broken(problem)
                    self._stop()
        except BaseException:  # an interrupt or a time limit: its answers would come too late
            self._stop()
            raise
        return batch.results

    def _converse(self, batch: _Batch) -> str:
        """Ask until one queue is answered (returns ""), or until the program must be stopped (says why)."""
        program = self._running()
        queue, window = (batch.together, self.in_flight) if batch.together else (batch.alone, 1)
        patience = time.monotonic() + self.timeout
        rubbish = ""
        while queue or batch.open:
            while queue and len(batch.open) < window:
                self._ask(program, batch, queue.popleft())
            try:
                line = program.receive(patience)
            except TimeoutError:
                return f"no answer within {self.timeout:g} s{rubbish}{_words(program)}"
            except EOFError as error:
                return f"the program {error}{rubbish}{_words(program)}"
            answer = _parsed(line)
            identifier = _identifier(answer)
            if identifier in batch.open:
                batch.results[batch.open.pop(identifier)] = self._result(answer, program)
                patience = time.monotonic() + self.timeout
            elif not 0 <= identifier < self._sent and answer.keys() & set(OUTCOMES):
                return f"answered without the id of a request: {line:.{_LINE_SHOWN}}{_words(program)}"
            else:  # a line of a log, or a second answer to the same request
                rubbish = f"; its last line that is no answer: {line:.{_LINE_SHOWN}}"
                if time.monotonic() > patience:
                    return f"no answer within {self.timeout:g} s{rubbish}{_words(program)}"
        return ""

    def _ask(self, program: LineProcess, batch: _Batch, index: int) -> None:
        structure = batch.structures[index]
        key, content = (
            ("structure", structure.as_dict())
            if self.send == "pymatgen"
            else ("cif", structure.to(fmt="cif"))
        )
        program.send(json.dumps({"id": self._sent, key: content}))
        batch.open[self._sent] = index
        self._sent += 1

    def _result(self, answer: dict[str, Any], program: LineProcess) -> Result:
        """The outcome that an answer states."""
        result = _outcome(answer)
        expected = self.expected_unit or type(self).unit
        unit = answer.get("unit", expected)
        if isinstance(result, Measurement) and unit != expected:
            result = Failure(f"answered in {unit!r:.{_LINE_SHOWN}}; expected {expected!r} (option unit)")
        return Failure(f"{result.reason}{_words(program)}") if isinstance(result, Failure) else result

    def _running(self) -> LineProcess:
        if self._program is not None and self._program.has_ended():
            self._stop()
        if self._program is None:
            command = shlex.split(self.command)
            try:
                self._program = LineProcess(command)
            except OSError as error:
                raise RewardError(
                    f"reward {self.name!r}: the program {command[0]!r} cannot be started: {error}; "
                    "expected a command that can be run from this folder, or a full path"
                ) from error
        return self._program

    def _stop(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None


class _Batch:
    """Which structures are still to be asked, which have been, and what came back."""

    def __init__(self, structures: Sequence[Structure]) -> None:
        self.structures = structures
        self.results: list[Result] = [_unsendable(structure) or Failure("") for structure in structures]
        self.together = deque(i for i, result in enumerate(self.results) if isinstance(result, Failure))
        self.alone: deque[int] = deque()
        self.open: dict[int, int] = {}
        """Identifiers of requests without an answer -> position of the structure."""

    def broken(self, problem: str) -> None:
        """The program is lost: a structure that was alone is the culprit, of several each is asked alone."""
        indices = list(self.open.values())
        self.open.clear()
        if len(indices) == 1:
            self.results[indices[0]] = Failure(problem)
        else:
            self.alone.extend(indices)


def _unsendable(structure: Structure) -> Invalid | None:
    if len(structure) == 0:
        return Invalid("the structure has no sites")
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return Invalid("a lattice vector or a coordinate is not finite")
    return None


def _parsed(line: str) -> dict[str, Any]:
    """The JSON object on a line; empty for anything else."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _identifier(answer: dict[str, Any]) -> int:
    """The request that an answer names; -1 if it names none."""
    identifier = answer.get("id")
    return identifier if type(identifier) is int else -1


def _outcome(answer: dict[str, Any]) -> Result:
    given = [key for key in OUTCOMES if answer.get(key) is not None]
    if len(given) != 1:
        found = ", ".join(given) or ", ".join(map(str, answer))
        return Failure(f"answered with {found:.{_LINE_SHOWN}}; expected one of {', '.join(OUTCOMES)}")
    details = answer.get("details") or {}
    if not isinstance(details, dict):
        return Failure(f"answered with details {details!r:.{_LINE_SHOWN}}; expected an object")
    if given == ["value"]:
        return checked(Measurement(answer["value"], answer.get("uncertainty"), details))
    reason = str(answer[given[0]])
    return Invalid(reason) if given == ["invalid"] else Failure(reason)


def _words(program: LineProcess) -> str:
    """The end of stderr, as the end of a reason."""
    text = " ".join(program.stderr.split())
    return f"; stderr: {text[-_STDERR_SHOWN:]}" if text else ""
