"""What each sample is asked for when prompts are drawn: conditions to follow, constraints to meet.

A light module: the settings and one drawn prompt. ``prompting.py`` draws them for a policy.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from materium_rl.conditions import ChemicalSystem, Conditions, Values, check_values, condition_text
from materium_rl.constraints import Bounds, Constraints, Range

Training = Literal["training"]
"""As often as among the training structures of the policy."""


def _several(value: Any) -> Any:
    """``"4..8, 12"`` -> ``["4..8", "12"]``, ``8`` -> ``[8]``; lists as they are."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, Sequence) else [value]


_Listed = (BeforeValidator(_several), Field(min_length=1))
Ranges = Training | Annotated[tuple[Bounds, ...], *_Listed] | None
Systems = Training | Annotated[tuple[ChemicalSystem, ...], *_Listed] | None
Formulas = Training | Annotated[tuple[str, ...], *_Listed] | None
Densities = Annotated[tuple[Range, ...], *_Listed] | None


class PromptConstraints(BaseModel):
    """What the grammar makes every sample of a prompt meet; of several values each is as likely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_sites: Ranges = Field(None, description="training, or numbers and ranges such as [4, 8, 12..16]")
    n_elements: Ranges = Field(None, description="training, or numbers and ranges such as [2, 3]")
    chemical_system: Systems = Field(
        None, description="training, or systems such as [Li-Fe-O, Na-Cl]: exactly these elements"
    )
    formula: Formulas = Field(None, description="training, or formulas such as [LiFeO2, NaCl]")
    density: Densities = Field(None, description="ranges in g/cm3 such as [2..3, 4..6]")

    def given(self) -> dict[str, Any]:
        """What is drawn, by name."""
        values = {name: getattr(self, name) for name in PromptConstraints.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    @field_validator("formula")
    @classmethod
    def _can_be_read(cls, formulas: Any) -> Any:
        for formula in () if formulas == "training" else formulas or ():
            _ = Constraints(formula=formula).formula_unit
        return formulas


class PromptsConfig(BaseModel):
    """What samples are asked for; without any field they are not asked for anything.

    Several things that are drawn from the training structures are those of one structure. What is both
    condition and constraint is one draw: of two lists the entries belong together in their order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    conditions: dict[str, Training | Values] = Field(
        {},
        description="what the policy is asked for, by name: training, or values, each as likely",
    )
    constraints: PromptConstraints = PromptConstraints()

    @field_validator("conditions")
    @classmethod
    def _known_conditions(cls, conditions: dict[str, Any]) -> dict[str, Any]:
        check_values({name: () if values == "training" else values for name, values in conditions.items()})
        return conditions

    @model_validator(mode="after")
    def _drawn_together(self) -> Self:
        for name, values in self.constraints.given().items():
            other = self.conditions.get(name, values)
            if "training" in (values, other) and values != other:
                raise ValueError(f"{name} is training in one of conditions and constraints, so in both")
            if len(values) != len(other):
                raise ValueError(f"{name}: conditions and constraints must list as many values")
        return self

    @property
    def enabled(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.conditions) or bool(self.constraints.given())

    @property
    def text(self) -> str:
        """``, asked for band_gap, n_sites``; empty if for nothing."""
        names = dict.fromkeys([*self.conditions, *self.constraints.given()])
        return f", asked for {', '.join(names)}" if names else ""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the values that every prompt has, see ``Prompt.targets``."""
        exact = [
            name
            for name in ("n_sites", "n_elements")
            if (wanted := getattr(self.constraints, name)) is not None
            and (wanted == "training" or all(low == high for low, high in wanted))
        ]
        return tuple(dict.fromkeys([*self.conditions, *exact]))


@dataclass(frozen=True)
class Prompt:
    """What one sample is asked for.

    Args:
        conditions: Met often, if the policy has learnt to.
        constraints: Met by construction.
    """

    conditions: Conditions = field(default_factory=Conditions)
    constraints: Constraints = field(default_factory=Constraints)

    def targets(self) -> dict[str, Any]:
        """Values that a reward may take for its target, by name."""
        exact = {
            name: bounds[0]
            for name in ("n_sites", "n_elements")
            if (bounds := getattr(self.constraints, name)) is not None and bounds[0] == bounds[1]
        }
        return exact | self.conditions.given()

    def told(self, known: Collection[str]) -> Conditions:
        """What a policy that knows some conditions is told: also what the constraints settle.

        Without it the grammar would cut the policy short: asked for SrTiO3 it writes Sr2 of Sr2Ti2O6, and
        five sites leave one O.
        """
        settled = {name: value for name, value in self.constraints.exact().items() if name in known}
        return Conditions(**(settled | self.conditions.given()))

    def columns(self) -> dict[str, Any]:
        """What is asked for, as columns beside a sample: ``condition_NAME`` and ``requested_NAME``."""
        asked = {f"condition_{k}": condition_text(v) for k, v in self.conditions.given().items()}
        return asked | self.constraints.request()

    def as_data(self) -> dict[str, Any]:
        """As plain data; see ``from_data``."""
        return {
            "conditions": self.conditions.model_dump(exclude_none=True),
            "constraints": self.constraints.model_dump(exclude_defaults=True),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """The prompt of ``as_data``."""
        return cls(Conditions(**data["conditions"]), Constraints(**data["constraints"]))
