"""The ``uniqueness`` reward: credit shared by all samples of one kind, over the whole run."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Measurement, Result, Reward
from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.shaping import Identity

if TYPE_CHECKING:
    from pymatgen.core import Structure

Kind = Literal["structure", "formula", "merged_formula", "family_formula", "prototype", "framework"]


class Uniqueness(Reward):
    """(tolerance / k)^exponent, at most 1, where k counts the samples of the same kind seen so far.

    k is the number seen in earlier batches plus the number in this one, so that all samples of one
    kind in one batch get the same credit, whatever their order: two equal ones in a first batch get
    1/2 each, a third in a later batch 1/3. Only what has passed the gates so far is counted.

    Kinds: ``structure`` (formula and prototype), ``formula``, ``merged_formula`` (all rare earths as
    one element), ``family_formula`` (each element as its chemical family), ``prototype`` (rare earths
    as one element) and ``framework`` (all sites as one element).
    """

    name: ClassVar[str] = "uniqueness"
    scope: ClassVar[Literal["structure", "batch"]] = "batch"
    seeks_novelty: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("prototype",)

    by: tuple[Kind, ...] = Field(
        default=("structure", "prototype", "framework"),
        min_length=1,
        description="One kind or a list of kinds",
    )
    exponent: float | tuple[float, ...] = Field(
        default=1.0, description="How fast credit falls with k: one for all kinds, or one for each"
    )
    tolerance: int | tuple[int, ...] = Field(
        default=1, description="Samples of a kind that keep full credit: one for all kinds, or one for each"
    )
    combine: Literal["product", "minimum"] = Field(
        default="minimum", description="How the credits by several kinds become one"
    )
    window: int | tuple[int, ...] = Field(
        default=0,
        description="Samples remembered: one for all kinds, or one for each; 0 remembers the whole run, else "
        "credit recovers",
    )

    _counts: dict[str, Counter[str]] = PrivateAttr(default_factory=dict)
    _recent: dict[str, deque[str]] = PrivateAttr(default_factory=dict)

    @field_validator("by", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_exponent_each(self) -> Self:
        if len(set(self.by)) < len(self.by):
            raise ValueError("a kind appears twice in by")
        if len(self.exponents) != len(self.by) or min(self.exponents) <= 0:
            raise ValueError(f"expected one exponent > 0, or one for each of {', '.join(self.by)}")
        if len(self.tolerances) != len(self.by) or min(self.tolerances) < 1:
            raise ValueError(f"expected one tolerance >= 1, or one for each of {', '.join(self.by)}")
        if len(self.windows) != len(self.by) or min(self.windows) < 0:
            raise ValueError(f"expected one window >= 0, or one for each of {', '.join(self.by)}")
        return self

    @property
    def tolerances(self) -> tuple[int, ...]:
        """One tolerance for each kind in ``by``."""
        return self.tolerance if isinstance(self.tolerance, tuple) else (self.tolerance,) * len(self.by)

    @property
    def exponents(self) -> tuple[float, ...]:
        """One exponent for each kind in ``by``."""
        return self.exponent if isinstance(self.exponent, tuple) else (self.exponent,) * len(self.by)

    @property
    def windows(self) -> tuple[int, ...]:
        """One window for each kind in ``by``."""
        return self.window if isinstance(self.window, tuple) else (self.window,) * len(self.by)

    def shaping(self) -> Identity:
        """The credit is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Credit N structures and remember them; what has no prototype is neither credited nor counted."""
        found = prototypes(structures)
        keys = [self._keys(item) if isinstance(item, Prototype) else None for item in found]
        self._count([key for key in keys if key is not None])
        results = [item if key is None else self._credit(key) for item, key in zip(found, keys, strict=True)]
        self._forget()
        return results

    def state_dict(self) -> dict[str, Any]:
        """The archive, with the options it was kept under."""
        return {
            "by": list(self.by),
            "window": list(self.windows),
            "counts": {kind: dict(self._counts.get(kind, {})) for kind in self.by},
            "recent": {kind: list(self._recent.get(kind, ())) for kind in self.by},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the archive by a saved one.

        Raises:
            RewardError: The archive was kept under another ``by`` or ``window``.
        """
        for option, mine in (("by", list(self.by)), ("window", list(self.windows))):
            if state[option] != mine:
                raise RewardError(
                    f"the saved archive of 'uniqueness' has {option}={state[option]!r}, this run {mine!r}; "
                    "resume with the options that the run was started with"
                )
        self._counts = {kind: Counter(state["counts"][kind]) for kind in self.by}
        self._recent = {kind: deque(state["recent"][kind]) for kind in self.by}

    def _keys(self, prototype: Prototype) -> tuple[str, ...]:
        return tuple(_key(kind, prototype) for kind in self.by)

    def _count(self, keys: Sequence[tuple[str, ...]]) -> None:
        for position, (kind, window) in enumerate(zip(self.by, self.windows, strict=True)):
            found = [key[position] for key in keys]
            self._counts.setdefault(kind, Counter()).update(found)
            if window:
                self._recent.setdefault(kind, deque()).extend(found)

    def _forget(self) -> None:
        for kind, window in zip(self.by, self.windows, strict=True):
            counts, recent = self._counts[kind], self._recent.get(kind, deque())
            while len(recent) > window:
                key = recent.popleft()
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]

    def _credit(self, keys: tuple[str, ...]) -> Measurement:
        seen = [self._counts[kind][key] for kind, key in zip(self.by, keys, strict=True)]
        parts = [
            min(1.0, tolerance / k) ** exponent
            for k, tolerance, exponent in zip(seen, self.tolerances, self.exponents, strict=True)
        ]
        credit = min(parts) if self.combine == "minimum" else math.prod(parts)
        return Measurement(credit, details={f"k_{kind}": k for kind, k in zip(self.by, seen, strict=True)})


def _key(kind: Kind, prototype: Prototype) -> str:
    match kind:
        case "structure":
            return f"{prototype.formula} {prototype.label}"
        case "formula":
            return prototype.formula
        case "merged_formula":
            return merged_formula(prototype.formula)
        case "family_formula":
            return prototype.family_formula
        case "prototype":
            return prototype.merged_label
        case "framework":
            return prototype.framework_label


@lru_cache(maxsize=100_000)
def merged_formula(formula: str) -> str:
    """Formula with all rare earths added up as R: TbTmAlAu -> Al1 Au1 R2."""
    from pymatgen.core import Composition

    merged: Counter[str] = Counter()
    for symbol, amount in Composition(formula).get_el_amt_dict().items():
        merged["R" if symbol in RARE_EARTHS else symbol] += round(amount)
    return " ".join(f"{symbol}{n}" for symbol, n in sorted(merged.items()))
