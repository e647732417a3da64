"""The ``charge_neutrality`` reward: how far the usual oxidation states are from adding up to zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Failure, Measurement, Result, Reward
from materium_rl.rewards.elements import element_amounts, reduced_formula
from materium_rl.rewards.shaping import SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Element, Structure


class ChargeNeutrality(Reward):
    """Least net charge that the usual oxidation states leave, in elementary charges per atom.

    States are those seen in the ICSD, else the common ones (pymatgen's tables). 0 means that some choice
    of states is neutral; linear from 1 at 0 to 0 at 0.5. It sees the composition only: a neutral formula
    need not be a sensible crystal, and with ``mixed_valence`` most compounds of transition metals pass.

    Elements are neutral. Of compounds of metals and metalloids oxidation states say little; they count as
    neutral unless ``alloys`` is off, and then as charged. An element without oxidation states (He, Ne, Ar,
    Rn and most beyond Rf) in a compound is a failure.
    """

    name: ClassVar[str] = "charge_neutrality"
    unit: ClassVar[str] = "e/atom"
    citation: ClassVar[str] = "Oxidation states: ICSD statistics as tabulated in pymatgen"

    mixed_valence: bool = Field(
        default=True, description="atoms of one element may have different states, as in Fe3O4"
    )
    alloys: bool = Field(default=True, description="compounds of metals and metalloids count as neutral")

    def shaping(self) -> SoftStep:
        """Neutral is good."""
        return SoftStep(full=0.0, zero=0.5)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Net charges of N structures; oxidation states that they carry are ignored."""
        return [self._charge(structure) for structure in structures]

    def _charge(self, structure: Structure) -> Result:
        from pymatgen.core import Element

        amounts = element_amounts(structure)
        if not isinstance(amounts, dict):
            return amounts
        charge = least_charge(reduced_formula(amounts), mixed_valence=self.mixed_valence, alloys=self.alloys)
        if charge is None:
            unknown = [symbol for symbol in sorted(amounts) if not _states(Element(symbol))]
            return Failure(f"no oxidation states known of {', '.join(unknown)}")
        return Measurement(charge)


@lru_cache(maxsize=100_000)
def least_charge(formula: str, *, mixed_valence: bool = True, alloys: bool = True) -> float | None:
    """Smallest possible net charge of a formula in e/atom; None where an element has no oxidation states.

    Args:
        formula: Formula with whole numbers.
        mixed_valence: Choose states atom by atom, not element by element.
        alloys: Count formulas of metals and metalloids only as neutral, as those of one element are.
    """
    from pymatgen.core import Composition, Element

    amounts = {Element(symbol): round(n) for symbol, n in Composition(formula).get_el_amt_dict().items()}
    if len(amounts) == 1 or (alloys and all(e.is_metal or e.is_metalloid for e in amounts)):
        return 0.0
    totals = {0}
    for element, n in amounts.items():
        states = _states(element)
        if not states:
            return None
        if mixed_valence:
            for _ in range(n):
                totals = {total + state for total in totals for state in states}
        else:
            totals = {total + n * state for total in totals for state in states}
    return min(map(abs, totals)) / sum(amounts.values())


def _states(element: Element) -> tuple[int, ...]:
    return element.icsd_oxidation_states or element.common_oxidation_states
