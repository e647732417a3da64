"""Cheap rewards that misbehave on marked structures: the mark is the lattice length a in Å."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PrivateAttr

from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import Identity

if TYPE_CHECKING:
    from pymatgen.core import Structure

MARK = 4.44
"""Å"""
_HOARD: list[bytearray] = []


class Fault(Reward):
    """0.5 for every structure, but ``kind`` happens on marked ones."""

    name: ClassVar[str] = "fault"

    kind: str
    mark: float = MARK
    sleep: str = "60"
    """Seconds that a left-behind child process sleeps."""

    def load(self) -> None:
        """Fail here if asked to."""
        if self.kind == "load":
            raise FileNotFoundError("model.pt")
        if self.kind == "exit_in_load":
            os._exit(3)

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Misbehave on marked structures."""
        answers: list[Any] = []
        for structure in structures:
            marked = abs(structure.lattice.a - self.mark) < 1e-6
            answers += self._answer() if marked else [Measurement(0.5)]
        return answers

    def _answer(self) -> list[Any]:
        if self.kind == "raise":
            raise ValueError("no such parameter")
        if self.kind == "leave":
            raise SystemExit(1)
        if self.kind == "hang":
            time.sleep(600)
        if self.kind == "crash":
            os._exit(1)
        if self.kind == "segfault":
            ctypes.string_at(0)
        if self.kind == "memory":
            _HOARD.extend(bytearray(10_000_000) for _ in range(100_000))
        if self.kind == "print":
            print("x" * 5_000_000, flush=True)
        if self.kind == "children":
            subprocess.Popen(["sleep", self.sleep])
        odd = {
            "print": 0.5, "children": 0.5,
            "none": None, "nan": float("nan"), "inf": Measurement(float("-inf")), "text": "0.5",
            "uncertainty": Measurement(0.5, float("nan")), "detail": Measurement(0.5, None, {"x": [1]}),
            "invalid": Invalid("too strange"), "above": 7.0,
        }  # fmt: skip
        return [] if self.kind == "short" else [odd[self.kind]]


class EveryFault(Fault):
    """Every kind at once: kind number i happens at a lattice length of 4 + i / 100 Å."""

    name: ClassVar[str] = "every_fault"
    kind: str = "all"
    KINDS: ClassVar[tuple[str, ...]] = (
        "raise", "nan", "inf", "none", "short", "text", "hang", "crash", "segfault", "memory", "print",
        "children", "invalid",
    )  # fmt: skip

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Misbehave as the lattice says."""
        answers: list[Any] = []
        for structure in structures:
            number = round((structure.lattice.a - 4) * 100)
            kind = self.KINDS[number] if 0 <= number < len(self.KINDS) else ""
            answers += (
                Fault(kind=kind, sleep=self.sleep)._answer() if kind else [Measurement(structure.lattice.a)]
            )
        return answers


class BrokenWorker(Reward):
    """0.5, but some processes are broken: there it does as ``kind`` says, always.

    Processes are numbered in the order in which they load. The first is broken, or, with ``sound``, all but
    that one.
    """

    name: ClassVar[str] = "broken_worker"

    kind: str
    folder: str
    sound: int | None = None
    _number: list[int] = PrivateAttr(default_factory=list)

    def load(self) -> None:
        """Take a number."""
        for number in count():
            with suppress(FileExistsError):
                os.close(os.open(f"{self.folder}/{number}", os.O_CREAT | os.O_EXCL))
                self._number.append(number)
                return

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """0.5 each."""
        number = self._number[0]
        broken = number == 0 if self.sound is None else number != self.sound
        if broken and self.kind == "crash":
            os._exit(1)
        if broken:
            raise OSError("no such device")
        return [Measurement(0.5)] * len(structures)


class SecondFault(Fault):
    """Another fault in the same expression."""

    name: ClassVar[str] = "second_fault"


class History(Reward):
    """Batch scope: the number of structures seen so far, over 100."""

    name: ClassVar[str] = "history"
    scope: ClassVar[Any] = "batch"
    broken: bool = False
    _seen: list[int] = PrivateAttr(default_factory=lambda: [0])

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Count."""
        if self.broken:
            raise ValueError("archive lost")
        self._seen[0] += len(structures)
        return [Measurement(self._seen[0] / 100)] * len(structures)

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"seen": self._seen[0]}

    def load_state_dict(self, state: Any) -> None:
        """Restore the count."""
        self._seen[0] = state["seen"]


def length(structures: Sequence[Structure], *, longest: float = 10.0) -> list[float]:
    """Lattice length a over ``longest``: a plain function as a reward."""
    return [structure.lattice.a / longest for structure in structures]


def angle(structures: Sequence[Structure]) -> list[float]:
    """Lattice angle alpha over 180 degrees."""
    return [structure.lattice.alpha / 180 for structure in structures]


def slow(structures: Sequence[Structure]) -> list[float]:
    """As ``length``, 10 ms each."""
    time.sleep(0.01 * len(structures))
    return length(structures)
