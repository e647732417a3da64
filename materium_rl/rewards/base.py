"""What a reward is: options in, one outcome per structure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from materium_rl.rewards.shaping import Shaping

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Outcome(StrEnum):
    """The three outcomes of a measurement; they are never mixed."""

    OK = "ok"
    INVALID = "invalid"
    """The policy's fault: unphysical or unreadable. Gets the lowest reward."""
    FAILED = "failed"
    """The evaluator's fault: crash, time limit, missing reference. Zero advantage, counted."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finite raw value in the reward's unit.

    Args:
        value: Raw value.
        uncertainty: One standard deviation in the same unit, if the model gives one.
        details: Further columns for the sample table (plain str, int, float or bool).
    """

    value: float
    uncertainty: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Invalid:
    """The structure is unphysical or unreadable: the policy's fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The evaluator could not measure this structure: never a number, never a penalty."""

    reason: str


Result = Measurement | Invalid | Failure


class Reward(BaseModel):
    """Base class of every reward; the fields of a subclass are its options.

    A subclass sets ``name``, ``unit``, ``citation`` and ``default_shaping`` and implements
    ``measure``. State that is slow to build (a network, an index) is made in ``load``, which runs
    once in each worker process.

    ``scope`` is ``"structure"`` when each structure is measured on its own (runs in the workers,
    in chunks) and ``"batch"`` when the whole batch and the history matter (runs once, in the main
    process; such a reward also implements ``state_dict`` and ``load_state_dict``).
    ``seeks_novelty`` marks a reward that pays for being unlike other crystals: the test bench then asks
    that strains, element swaps and new decorations of a framework do not pay.
    ``screening`` marks a cheap check that, as a gate, runs before everything else: a structure that
    is invalid there is not measured further.
    ``requires`` names shared work (see ``rewards.shared``) that is computed once per structure.
    ``prompted_by`` names the conditions (``materium_rl.conditions``) whose value ``target=prompt`` stands
    for: then every sample has a target of its own, on which the curve may depend, but not ``measure``.
    ``version`` counts what the values depend on and neither the options nor the source of the reward show,
    such as the weights of a model or an external program: raise it, and the cache of measurements
    (``rewards.execution.cache``) holds nothing of the older one. ``cacheable`` is off where equal
    structures may get different values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    scope: ClassVar[Literal["structure", "batch"]] = "structure"
    seeks_novelty: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    prompted_by: ClassVar[tuple[str, ...]] = ()
    screening: ClassVar[bool] = False
    version: ClassVar[str] = ""
    cacheable: ClassVar[bool] = True

    def load(self) -> None:
        """Load models and tables; called once per process before the first ``measure``."""

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Measure N structures.

        Args:
            structures: N pymatgen structures; must not be changed.

        Returns:
            N results in the same order.
        """
        raise NotImplementedError

    def shaping(self) -> Shaping:
        """The curve that maps a raw value to a score in [0, 1]."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What the reward remembers of earlier batches, as plain data that fits into JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            RewardError: The state is that of a reward with other options.
        """
