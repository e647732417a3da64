"""The ``abundance`` reward: how common the rarest element is in the Earth's crust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Failure, Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.elements import element_amounts
from materium_rl.rewards.shaping import Shaping, SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Abundance(TargetedReward):
    """Decimal logarithm of the crustal abundance, in mg/kg, of the rarest element in the structure.

    Gold has -2.4, copper 1.8, silicon 5.5. Without a target, high is good: 0 at -2, 1 from 3 on
    (1 g/kg). One rare element decides, however little there is of it. It depends on the elements alone. An
    element without a tabulated abundance (Tc, Pm, and those made by man) is a failure.
    """

    name: ClassVar[str] = "abundance"
    unit: ClassVar[str] = "log10(mg/kg)"
    citation: ClassVar[str] = "CRC Handbook of Chemistry and Physics, as tabulated in SMACT"
    untargeted: ClassVar[Shaping] = SoftStep(full=3.0, zero=-2.0)

    target: float | None = Field(
        default=None, description="wanted logarithm of the abundance in mg/kg; none: high is good"
    )
    width: float = Field(default=0.5, gt=0, description="distance from the target at which the score is 1/2")

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Abundances of N structures; oxidation states are ignored."""
        return [_rarest(structure) for structure in structures]


def _rarest(structure: Structure) -> Result:
    amounts = element_amounts(structure)
    if not isinstance(amounts, dict):
        return amounts
    known = {symbol: crustal_abundance(symbol) for symbol in amounts}
    unknown = sorted(symbol for symbol, value in known.items() if value is None)
    if unknown:
        return Failure(f"no crustal abundance of {', '.join(unknown)}")
    value, symbol = min((value, symbol) for symbol, value in known.items() if value is not None)
    return Measurement(math.log10(value), details={"rarest_element": symbol})


@cache
def crustal_abundance(symbol: str) -> float | None:
    """mg/kg of an element in the Earth's crust; None where the table has no value above 0."""
    from smact import Element

    try:
        value = Element(symbol).crustal_abundance
    except KeyError:  # how SMACT says that it does not know the element
        return None
    return float(value) if value else None
