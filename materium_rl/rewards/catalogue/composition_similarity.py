"""The ``composition_similarity`` reward: chemical distance from a given formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from materium_rl.constraints import formula_unit
from materium_rl.rewards.base import Failure, Measurement, Result, Reward
from materium_rl.rewards.elements import element_amounts
from materium_rl.rewards.shaping import SoftDecay

if TYPE_CHECKING:
    from pymatgen.core import Structure


LAST_ON_SCALE = 103
"""Atomic number of Lr."""


class CompositionSimilarity(Reward):
    """Element mover's distance from a formula: 0 for the same reduced formula, whatever the structure.

    The least work that turns one composition into the other, where moving the share x of the atoms from
    one element to another costs x times the distance of their Mendeleev numbers (Pettifor's chemical
    scale, 1 to 103, on which elements that replace each other are neighbours). KCl is 0.5 from NaCl, MgO 32.
    The score is 1 at 0 and 1/2 at ``width``.

    Elements beyond Lr have no Mendeleev number, which is a failure.
    """

    name: ClassVar[str] = "composition_similarity"
    unit: ClassVar[str] = "Mendeleev numbers"
    citation: ClassVar[str] = (
        "Distance: Hargreaves et al., Chem. Mater. 32, 10610 (2020). Scale: Pettifor, Solid State Commun. "
        "51, 31 (1984), as tabulated in pymatgen"
    )

    target: str = Field(description="formula, such as LiFePO4", examples=["LiFePO4"])
    width: float = Field(default=5.0, gt=0, description="distance at which the score is 1/2")

    @field_validator("target")
    @classmethod
    def _has_numbers(cls, target: str) -> str:
        unknown = [symbol for symbol in formula_unit(target) if mendeleev_number(symbol) is None]
        if unknown:
            raise ValueError(f"no Mendeleev number of {', '.join(unknown)}; expected elements up to Lr")
        return target

    def shaping(self) -> SoftDecay:
        """Near is good."""
        return SoftDecay(full=0.0, half=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Distances of N structures; oxidation states are ignored."""
        wanted = formula_unit(self.target)
        return [_distance(structure, wanted) for structure in structures]


def _distance(structure: Structure, wanted: dict[str, int]) -> Result:
    amounts = element_amounts(structure)
    if not isinstance(amounts, dict):
        return amounts
    unknown = sorted(symbol for symbol in amounts if mendeleev_number(symbol) is None)
    if unknown:
        return Failure(f"no Mendeleev number of {', '.join(unknown)}")
    return Measurement(element_movers_distance(amounts, wanted))


def element_movers_distance(first: dict[str, int], second: dict[str, int]) -> float:
    """Earth mover's distance of two compositions on the scale of Mendeleev numbers."""
    from scipy.stats import wasserstein_distance

    places = [[mendeleev_number(symbol) for symbol in amounts] for amounts in (first, second)]
    return float(wasserstein_distance(*places, list(first.values()), list(second.values())))


def mendeleev_number(symbol: str) -> float | None:
    """Place of an element on Pettifor's scale, 1 to 103; None beyond Lr."""
    from pymatgen.core import Element

    element = Element(symbol)
    return float(element.mendeleev_no) if element.Z <= LAST_ON_SCALE else None
