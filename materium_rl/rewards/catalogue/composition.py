"""The ``composition`` reward: how far a composition meets constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from materium_rl.conditions import ChemicalSystem
from materium_rl.constraints import CompositionConstraints, Elements
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.elements import element_amounts
from materium_rl.rewards.shaping import Identity, Interval
from materium_rl.rewards.symmetry import Symmetry, symmetries

if TYPE_CHECKING:
    from pymatgen.core import Structure


class CompositionMatch(Reward, CompositionConstraints):
    """Mean over the given constraints of how far each is met, in [0, 1]; 1 if and only if all are.

    - ``allowed``, ``forbidden``: share of the atoms that may occur.
    - ``required``: share of the wanted elements that do occur.
    - ``chemical_system``: elements in common over elements in either.
    - ``formula``: atoms in common, as shares of all, whatever the number of formula units.
    - ``n_elements``, ``n_sites``: 1 / (1 + d), d away from the range; sites of the primitive cell.

    The names are those of ``materium-rl generate``, where the same constraints hold by construction: use
    this reward for a policy that is to learn them.
    """

    name: ClassVar[str] = "composition"
    requires: ClassVar[tuple[str, ...]] = ("symmetry",)

    required: Elements = Field((), description="each of them must occur", examples=["O"])
    chemical_system: ChemicalSystem | None = Field(
        default=None, description="exactly these elements, such as Li-Fe-O"
    )
    strict: bool = Field(default=False, description="score 1 where all are met, else 0")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.request() and self.chemical_system is None:
            names = ", ".join((*CompositionConstraints.model_fields, "chemical_system"))
            raise ValueError(f"no constraint given; expected one or more of {names}")
        if self.chemical_system is not None:
            self._check_system(self.chemical_system)
        return self

    def _check_system(self, system: tuple[str, ...]) -> None:
        fields = {name: getattr(self, name) for name in CompositionConstraints.model_fields}
        fields["required"] = (*self.required, *system)
        fields["allowed"] = self.allowed or system
        try:
            CompositionConstraints(**fields)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"chemical_system {'-'.join(system)}: {message}") from None

    def shaping(self) -> Identity | Interval:
        """The value, or all or nothing."""
        return Interval(low=1.0, high=1.0) if self.strict else Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """How far N structures meet the constraints; oxidation states are ignored."""
        if self.n_sites is None:
            return [self._result(element_amounts(structure), None) for structure in structures]
        return [
            self._result(element_amounts(structure), symmetry)
            for structure, symmetry in zip(structures, symmetries(structures), strict=True)
        ]

    def _result(
        self, amounts: dict[str, int] | Invalid | Failure, symmetry: Symmetry | Invalid | Failure | None
    ) -> Result:
        for item in (amounts, symmetry):
            if isinstance(item, Invalid | Failure):
                return item
        assert isinstance(amounts, dict)
        met = self._met(amounts)
        if self.n_sites is not None and isinstance(symmetry, Symmetry):
            met["n_sites"] = _closeness(symmetry.n_sites_primitive, self.n_sites)
        unmet = ", ".join(name for name, share in met.items() if share < 1.0)
        return Measurement(sum(met.values()) / len(met), details={"unmet": unmet})

    def _met(self, amounts: dict[str, int]) -> dict[str, float]:
        """How far each given constraint on the elements is met; exactly 1 where it is."""
        total, present = sum(amounts.values()), set(amounts)
        met = {}
        if self.allowed is not None:
            met["allowed"] = sum(amounts[e] for e in present & set(self.allowed)) / total
        if self.forbidden:
            met["forbidden"] = sum(amounts[e] for e in present - set(self.forbidden)) / total
        if self.required:
            met["required"] = len(present & set(self.required)) / len(self.required)
        if self.chemical_system is not None:
            wanted = set(self.chemical_system)
            met["chemical_system"] = len(present & wanted) / len(present | wanted)
        if self.n_elements is not None:
            met["n_elements"] = _closeness(len(present), self.n_elements)
        if self.formula is not None:
            unit, size = self.formula_unit, sum(self.formula_unit.values())
            shared = sum(min(amounts.get(e, 0) * size, n * total) for e, n in unit.items())
            met["formula"] = shared / (size * total)
        return met


def _closeness(count: int, bounds: tuple[int, int]) -> float:
    low, high = bounds
    return 1.0 / (1.0 + max(0, low - count, count - high))
