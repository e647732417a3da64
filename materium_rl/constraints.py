"""What the composition and the density of every sample must hold: a request, free of any policy.

The grammar enforces it token by token (``composition.py``), so it is met by construction.
"""

from __future__ import annotations

import re
from functools import cached_property
from math import gcd, inf
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _split(value: Any) -> Any:
    """``"Li,Fe,O"`` -> ``["Li", "Fe", "O"]``; other values as they are."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def known_elements(symbols: tuple[str, ...]) -> tuple[str, ...]:
    """The symbols without repeats.

    Raises:
        ValueError: One of them is not an element.
    """
    from pymatgen.core import Element

    for symbol in symbols:
        if not Element.is_valid_symbol(symbol):
            close = symbol.capitalize()
            hint = f"; did you mean {close!r}?" if Element.is_valid_symbol(close) else ""
            raise ValueError(f"{symbol!r} is not an element: expected symbols such as Li,Fe,O{hint}")
    return tuple(dict.fromkeys(symbols))


def _bounds(value: Any) -> Any:
    """``8`` and ``"8"`` -> ``(8, 8)``, ``"4..12"`` -> ``(4, 12)``; other values as they are."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", value)
        if found is None:
            raise ValueError("expected a number such as 8 or a range such as 4..12")
        return int(found[1]), int(found[2] or found[1])
    return value


def _range(value: Any) -> Any:
    """``"3.5..4.5"`` -> ``("3.5", "4.5")``; other values as they are."""
    if isinstance(value, str | int | float):
        low, dots, high = (part.strip() for part in str(value).partition(".."))
        if not dots or not low or not high:
            raise ValueError("expected a range such as 3.5..4.5")
        return low, high
    return value


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low < high < inf:
        raise ValueError(f"an empty range: {low:g}..{high:g}; expected 0 < lowest < highest")
    return bounds


def _ordered(bounds: tuple[int, int]) -> tuple[int, int]:
    low, high = bounds
    if not 1 <= low <= high:
        raise ValueError(f"an empty range: {low}..{high}; expected 1 <= first <= last")
    return bounds


def formula_unit(formula: str) -> dict[str, int]:
    """Atoms of each element in the smallest whole formula unit.

    Raises:
        ValueError: It is not a formula.
    """
    from pymatgen.core import Composition, Element

    wrong = f"{formula!r} is not a formula: expected elements and whole numbers, such as LiFeO2"
    try:
        amounts = Composition(formula).get_el_amt_dict()
    except (ValueError, KeyError, TypeError):  # its ways to refuse a text
        raise ValueError(wrong) from None
    if not amounts or any(n != round(n) or not Element.is_valid_symbol(e) for e, n in amounts.items()):
        raise ValueError(wrong)
    divisor = gcd(*(round(n) for n in amounts.values()))
    return {element: round(n) // divisor for element, n in amounts.items()}


Elements = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(known_elements)]
"""Element symbols, also read from ``"Li,Fe,O"``."""
Bounds = Annotated[tuple[int, int], BeforeValidator(_bounds), AfterValidator(_ordered)]
"""Smallest and largest number, also read from ``8`` and ``"4..12"``."""

Range = Annotated[tuple[float, float], BeforeValidator(_range), AfterValidator(_positive)]
"""Lowest and highest value, also read from ``"3.5..4.5"``."""
NARROW = 1.3
"""A policy is told the density if the highest that is wanted is at most so many times the lowest."""


class CompositionConstraints(BaseModel):
    """What the composition of a primitive cell must hold; without any field, nothing.

    With a formula the number of formula units stays free, within ``n_sites`` and the limit of the policy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    allowed: Elements | None = Field(None, min_length=1, description="no other element may occur")
    required: Elements = Field((), description="each of them must occur")
    forbidden: Elements = Field((), description="none of them may occur")
    n_sites: Bounds | None = Field(None, description="number of sites, such as 8 or 4..12")
    n_elements: Bounds | None = Field(None, description="number of distinct elements, such as 3 or 2..3")
    formula: str | None = Field(None, description="exact formula up to a factor, such as LiFeO2")

    @cached_property
    def formula_unit(self) -> dict[str, int]:
        """Atoms of each element in the smallest whole formula unit; empty without a formula."""
        return {} if self.formula is None else formula_unit(self.formula)

    def units(self, largest: int) -> range:
        """Numbers of formula units whose sites are within ``n_sites`` and at most ``largest``."""
        size = sum(self.formula_unit.values())
        low, high = self.n_sites or (1, largest)
        return range(-(-low // size), min(high, largest) // size + 1) if size else range(0)

    def request(self) -> dict[str, str]:
        """What is asked for, as columns beside a sample; empty if nothing is."""
        columns = {}
        for name in CompositionConstraints.model_fields:
            value = getattr(self, name)
            if value is None or value == ():
                continue
            if name in ("n_sites", "n_elements"):
                low, high = value
                value = f"{low}..{high}" if low < high else f"{low}"
            columns[f"requested_{name}"] = value if isinstance(value, str) else ",".join(value)
        return columns

    def exact(self) -> dict[str, Any]:
        """What every sample will have, by name of the condition that asks for the same."""
        values: dict[str, Any] = {}
        if self.formula is not None:
            values["formula"] = self.formula
        if self.allowed is not None and set(self.allowed) - set(self.forbidden) == set(self.required):
            values["chemical_system"] = self.required
        if self.n_sites is not None and self.n_sites[0] == self.n_sites[1]:
            values["n_sites"] = self.n_sites[0]
        return values

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        """Refuse what contradicts itself, whatever the policy."""
        for clash, message in (*self._element_clashes(), *self._number_clashes()):
            if clash:
                raise ValueError(message)
        return self

    def _element_clashes(self) -> list[tuple[bool, str]]:
        unit, required, forbidden = set(self.formula_unit), set(self.required), set(self.forbidden)
        allowed = required | unit if self.allowed is None else set(self.allowed)
        rest = None if self.allowed is None else allowed - forbidden
        strange = (unit & forbidden) | (unit - allowed)
        return [
            (bool(required & forbidden), f"{_list(required & forbidden)} both required and forbidden"),
            (bool(required - allowed), f"{_list(required - allowed)} required but not among the allowed"),
            (rest == set(), "every allowed element is also forbidden"),
            (
                bool(unit) and bool(required - unit),
                f"{_list(required - unit)} required but not in the formula {self.formula}",
            ),
            (
                bool(strange),
                f"formula {self.formula} holds {_list(strange)}, which may not occur",
            ),
        ]

    def _number_clashes(self) -> list[tuple[bool, str]]:
        unit, needed = self.formula_unit, len(self.required)
        _, most_sites = self.n_sites or (1, 10**6)
        fewest, most = self.n_elements or (1, 10**6)
        choice = 10**6 if self.allowed is None else len(set(self.allowed) - set(self.forbidden))
        size = sum(unit.values())
        return [
            (needed > most, f"{needed} elements required, but n_elements is at most {most}"),
            (needed > most_sites, f"{needed} elements required, but n_sites is at most {most_sites}"),
            (fewest > most_sites, f"n_elements of at least {fewest}, but n_sites is at most {most_sites}"),
            (fewest > choice, f"n_elements of at least {fewest}, but only {choice} may occur"),
            (
                bool(unit) and not fewest <= len(unit) <= most,
                f"formula {self.formula} has {len(unit)} elements, outside n_elements {fewest}..{most}",
            ),
            (
                bool(unit) and not self.units(most_sites),
                f"no multiple of the {size} sites of {self.formula} is within n_sites",
            ),
        ]


class Constraints(CompositionConstraints):
    """What every sample must hold; without any field, nothing."""

    density: Range | None = Field(None, description="g/cm3, such as 3.5..4.5")

    def request(self) -> dict[str, str]:
        """What is asked for, as columns beside a sample; empty if nothing is."""
        columns = super().request()
        if self.density is not None:
            low, high = self.density
            columns["requested_density"] = f"{low:g}..{high:g}"
        return columns

    def exact(self) -> dict[str, Any]:
        """As of the composition; of a narrow range of densities the middle."""
        values = super().exact()
        if self.density is not None and self.density[1] <= NARROW * self.density[0]:
            values["density"] = sum(self.density) / 2
        return values


def _list(symbols: set[str]) -> str:
    return ", ".join(sorted(symbols))
