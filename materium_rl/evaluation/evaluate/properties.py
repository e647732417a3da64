"""Properties of the samples: what is measured, how it is distributed, and how much of it is as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.conditions import NUMBERS
from materium_rl.errors import ConfigError
from materium_rl.evaluation.evaluate.distributions import Population
from materium_rl.evaluation.metrics import elements_of
from materium_rl.rewards import registry

if TYPE_CHECKING:
    import pandas as pd

BINS = 30
TAIL = 0.005
"""Share of the values at each end that falls into the last bin."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Property:
    """A number of each structure.

    Args:
        unit: Its unit.
        column: Of the score table; None where it is counted from the structure.
        reward: The reward that measures it, if it is not measured anyway.
    """

    unit: str
    column: str | None = None
    reward: str | None = None


ALWAYS: dict[str, Property] = {
    "e_above_hull": Property("eV/atom", "best.e_above_hull"),
    "formation_energy": Property("eV/atom", "stability.formation_energy"),
    "band_gap": Property("eV", "bandgap.value"),
    "density": Property("g/cm3", "validity.density"),
    "volume_per_atom": Property("Å3"),
    "n_sites": Property("", "n_sites"),
    "n_elements": Property(""),
    "space_group": Property("", "space_group_number"),
    "rmsd": Property("Å", "relaxed.rmsd"),
}
"""Measured of every structure, where there is a value (the last one only after a relaxation)."""
NO_HISTOGRAM = ("space_group",)


@dataclass(frozen=True, slots=True)
class Target:
    """What a property should be.

    Args:
        name: Of the property.
        low: Least value.
        high: Greatest value.
    """

    name: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """``band_gap=1..2``, ``e_above_hull=..0.05``, ``density=5..`` or ``space_group=225``.

        Raises:
            ConfigError: Not of this form, an unknown property, or an empty range.
        """
        name, equals, wanted = (part.strip() for part in text.partition("="))
        if not equals or not name or not wanted:
            raise ConfigError(f"--target {text!r}: expected NAME=RANGE, such as band_gap=1..2")
        property_of(name)
        low, dots, high = wanted.partition("..")
        bounds = (_number(text, low, -math.inf), _number(text, high if dots else low, math.inf))
        if not bounds[0] <= bounds[1]:
            raise ConfigError(f"--target {text!r}: an empty range; write the smaller number first")
        if not dots and bounds[0] != round(bounds[0]):
            raise ConfigError(
                f"--target {text!r}: no value is exactly {low}; give a range, such as {name}=A..B"
            )
        return cls(name, *bounds)

    @property
    def text(self) -> str:
        """As it is written."""
        if self.low == self.high:
            return f"{self.low:g}"
        low = "" if math.isinf(self.low) else f"{self.low:g}"
        return f"{low}..{'' if math.isinf(self.high) else f'{self.high:g}'}"

    def hit(self, values: Floats) -> NDArray[np.bool_]:
        """Which of N values are within; what was not measured is not."""
        return np.asarray((values >= self.low) & (values <= self.high), dtype=bool)


@cache
def property_of(name: str) -> Property:
    """A property by name: one that is always measured, a condition, or any reward.

    Raises:
        ConfigError: There is none of that name, or it does not belong to one structure alone.
        RewardError: The reward is broken.
    """
    if name in ALWAYS:
        return ALWAYS[name]
    reward_name = NUMBERS[name].reward if name in NUMBERS else name
    known = [info.name for info in registry.available()]
    if reward_name not in known:
        raise ConfigError(registry.unknown("property", name, [*ALWAYS, *NUMBERS, *known]))
    reward = registry.create(reward_name, {})
    if reward.scope != "structure":
        raise ConfigError(f"{name} is no property of a structure: it depends on the others")
    return Property(reward.unit, f"{reward_name}.value", reward_name)


def values_of(frame: pd.DataFrame, name: str) -> Floats:
    """N values of a property; NaN where there is none."""
    formulas = frame["formula"]
    if name == "n_elements":
        return np.array(
            [len(elements_of(f)) if isinstance(f, str) else math.nan for f in formulas], dtype=float
        )
    if name == "volume_per_atom":
        return np.asarray(frame["volume_per_atom"], dtype=np.float64)
    column = property_of(name).column
    if column is None or column not in frame:
        return np.full(len(frame), math.nan)
    return np.asarray(frame[column].astype("Float64").to_numpy(dtype=np.float64, na_value=math.nan))


@dataclass(frozen=True, slots=True)
class Histogram:
    """How a property is distributed among the valid samples.

    Args:
        unit: Of the values.
        edges: Of the bins; values beyond the ends count in the last ones.
        counts: Samples in each bin.
        reference: References in each bin; empty where the reference has no such values.
        measured: Samples with a value.
        mean: Of the values.
        quantiles: 5, 25, 50, 75 and 95 %.
    """

    unit: str
    edges: list[float]
    counts: list[int]
    reference: list[int]
    measured: int
    mean: float
    quantiles: list[float]


def histogram(values: Floats, unit: str, reference: Population | None, name: str) -> Histogram | None:
    """Of one property; None if nothing has a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    others = getattr(reference, name, None) if reference is not None else None
    both = known if others is None else np.concatenate([known, others])
    low, high = np.quantile(both, [TAIL, 1 - TAIL])
    if np.array_equal(both, both.round()) and high - low < 2 * BINS:  # whole numbers have bins of their own
        edges = np.arange(low, high + 2) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = _counts(known, edges)
    return Histogram(
        unit=unit,
        edges=edges.tolist(),
        counts=counts,
        reference=[] if others is None else _counts(others, edges),
        measured=len(known),
        mean=float(known.mean()),
        quantiles=np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
    )


def _counts(values: Floats, edges: Floats) -> list[int]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [int(count) for count in counts]


def monitors(targets: Sequence[Target]) -> list[str]:
    """Rewards that have to be measured for some targets."""
    return [name for target in targets if (name := property_of(target.name).reward) is not None]


def _number(text: str, part: str, default: float) -> float:
    if not part.strip():
        return default
    try:
        return float(part)
    except ValueError:
        raise ConfigError(
            f"--target {text!r}: {part.strip()!r} is no number; expected such as 1..2"
        ) from None
