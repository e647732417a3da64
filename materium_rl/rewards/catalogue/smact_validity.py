"""The ``smact_validity`` reward: chemical plausibility of a formula by the rules of SMACT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from materium_rl.rewards.base import Failure, Measurement, Result, Reward
from materium_rl.rewards.elements import element_amounts, reduced_formula
from materium_rl.rewards.shaping import Identity

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_COMBINATIONS = 200_000
"""Choices of oxidation states that SMACT may have to try, at about 2 µs each."""


class SmactValidity(Reward):
    """1 where SMACT calls the formula valid, else 0.

    Valid is a formula for which some choice of oxidation states, one for each element, is neutral and
    gives the positive states to the less electronegative elements (Pauling test). The states are SMACT's
    default set (seen in the ICSD of 2024 often enough). One state for each element means that mixed
    valence compounds such as Fe3O4 are not valid. Elements are always valid, compounds of metals only
    unless ``alloys`` is off.

    An element without states in that set (He, Ne, Ar, At, Rn, Fr and beyond Es) in a compound, and more
    than 200,000 choices of states (mostly from seven elements on) are failures.
    """

    name: ClassVar[str] = "smact_validity"
    citation: ClassVar[str] = (
        "Davies et al., J. Open Source Softw. 4, 1361 (2019); Davies et al., Chem 1, 617 (2016)"
    )

    alloys: bool = Field(default=True, description="compounds of metals only are valid")
    pauling_test: bool = Field(default=True, description="ask for the order of electronegativities too")

    def load(self) -> None:
        """Read SMACT's oxidation states."""
        oxidation_states()

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Verdicts on N structures; oxidation states that they carry are ignored."""
        return [self._verdict(structure) for structure in structures]

    def _verdict(self, structure: Structure) -> Result:
        amounts = element_amounts(structure)
        if not isinstance(amounts, dict):
            return amounts
        if len(amounts) > 1:
            states = oxidation_states()
            unknown = sorted(amounts.keys() - states.keys())
            if unknown:
                return Failure(f"SMACT has no oxidation states of {', '.join(unknown)}")
            choices = prod(states[symbol] for symbol in amounts)
            if choices > MOST_COMBINATIONS:
                return Failure(f"{choices:,} choices of oxidation states; limit {MOST_COMBINATIONS:,}")
        formula = reduced_formula(amounts)
        return Measurement(float(_is_valid(formula, self.alloys, self.pauling_test)))


@lru_cache(maxsize=100_000)
def _is_valid(formula: str, alloys: bool, pauling_test: bool) -> bool:
    from smact.screening import smact_validity

    return bool(smact_validity(formula, use_pauling_test=pauling_test, include_alloys=alloys))


@cache
def oxidation_states() -> Mapping[str, int]:
    """Number of oxidation states of each element in SMACT's default set."""
    from smact.screening import ICSD24FilterConfig
    from smact.utils.oxidation import ICSD24OxStatesFilter

    default = ICSD24FilterConfig()
    table = ICSD24OxStatesFilter().filter(
        consensus=default.consensus, include_zero=default.include_zero, commonality=default.commonality
    )
    columns = zip(table["element"], table["oxidation_state"], strict=True)
    return {str(element): len(str(states).split()) for element, states in columns}
