"""Properties that a sample is asked for: what they are called, their units, how values are written.

A condition is a wish that the policy has learnt to follow, met often; a constraint (``constraints.py``)
is met by construction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from materium_rl.constraints import formula_unit, known_elements
from materium_rl.errors import did_you_mean

CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]
CRYSTAL_SYSTEMS: tuple[CrystalSystem, ...] = get_args(CrystalSystem)
_FIRST_GROUPS = (1, 3, 16, 75, 143, 168, 195)
LAST_SPACE_GROUP = 230


@dataclass(frozen=True, slots=True)
class Number:
    """A condition that is a number.

    Args:
        unit: Its unit.
        columns: Names of data columns that hold it.
        reward: Reward that measures it in a structure.
        logarithmic: Whether its logarithm is what the policy sees; then it is above 0.
    """

    unit: str
    columns: tuple[str, ...]
    reward: str
    logarithmic: bool = False


NUMBERS: dict[str, Number] = {
    "density": Number("g/cm3", ("density",), "density", logarithmic=True),
    "band_gap": Number("eV", ("band_gap",), "bandgap"),
    "formation_energy": Number(
        "eV/atom", ("formation_energy_per_atom", "formation_energy"), "formation_energy"
    ),
    "e_above_hull": Number("eV/atom", ("e_above_hull",), "stability"),
    "hhi": Number("1", ("hhi",), "hhi", logarithmic=True),
    "magnetic_density": Number("mu_B/Å3", ("magnetic_density",), "magnetic_density"),
    "bulk_modulus": Number("GPa", ("bulk_modulus",), "bulk_modulus", logarithmic=True),
}
CONDITIONS = ("formula", "chemical_system", "n_sites", "space_group", "crystal_system", *NUMBERS)
"""Names of all conditions."""
SYMMETRY_COLUMNS = ("space_group", "space_group_number")


def crystal_system(space_group: int) -> CrystalSystem:
    """Crystal system of a space-group number."""
    return CRYSTAL_SYSTEMS[sum(space_group >= first for first in _FIRST_GROUPS) - 1]


def _formula(text: str) -> str:
    """The reduced formula as pymatgen writes it, so that equal ones are equal texts."""
    from pymatgen.core import Composition

    return str(Composition(formula_unit(text)).reduced_formula)


def _system(value: Any) -> Any:
    """``"Li-Fe-O"`` -> ``("Fe", "Li", "O")``; other values as they are."""
    return re.split(r"\s*-\s*", value.strip()) if isinstance(value, str) else value


def _sorted_elements(symbols: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(known_elements(symbols)))


ChemicalSystem = Annotated[tuple[str, ...], BeforeValidator(_system), AfterValidator(_sorted_elements)]
"""Element symbols in alphabetical order, also read from ``"Li-Fe-O"``."""
Positive = Annotated[float, Field(gt=0)]


class Conditions(BaseModel):
    """Values that one sample is asked for; what is None is left to the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    formula: Annotated[str, AfterValidator(_formula)] | None = None
    chemical_system: ChemicalSystem | None = None
    n_sites: Annotated[int, Field(ge=1)] | None = None
    space_group: Annotated[int, Field(ge=1, le=LAST_SPACE_GROUP)] | None = None
    crystal_system: CrystalSystem | None = None
    density: Positive | None = None
    band_gap: Annotated[float, Field(ge=0)] | None = None
    formation_energy: float | None = None
    e_above_hull: Annotated[float, Field(ge=0)] | None = None
    hhi: Positive | None = None
    magnetic_density: Annotated[float, Field(ge=0)] | None = None
    bulk_modulus: Positive | None = None

    def given(self) -> dict[str, Any]:
        """The values asked for, by name."""
        return {name: value for name in CONDITIONS if (value := getattr(self, name)) is not None}


def condition_text(value: Any) -> Any:
    """A value as it is written in tables: ``Fe-Li-O`` for a chemical system, others as they are."""
    return "-".join(value) if isinstance(value, tuple) else value


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, Sequence) else [value]


Values = Annotated[tuple[Any, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One value or several of a condition, also read from ``"1,2,3"``."""


def check_values(values: Mapping[str, Sequence[Any]]) -> None:
    """Check the names and the values of conditions, one by one.

    Raises:
        ValueError: Names the first wrong one.
    """
    for name, wanted in values.items():
        if name not in CONDITIONS:
            hint = did_you_mean(name, CONDITIONS)
            raise ValueError(f"unknown condition {name!r}{hint}; known: {', '.join(CONDITIONS)}")
        for value in wanted:
            try:
                Conditions(**{name: value})
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"condition {name}={value}: {message}") from None


def combinations(values: Mapping[str, Sequence[Any]]) -> list[Conditions]:
    """Every combination of the values of each condition, the last condition running fastest."""
    return [Conditions(**dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]
