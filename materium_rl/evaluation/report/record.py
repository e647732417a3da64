"""What ``comparison.json`` holds, as models: read and checked by the report, described by a JSON schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from materium_rl.errors import ConfigError
from materium_rl.evaluation.metrics import Definition, Figure, Unit
from materium_rl.runs import COMPARISON

SCHEMAS = Path(__file__).parent / "schemas"
"""One JSON schema for each file that the report reads, named as the file."""


class Record(BaseModel):
    """Part of a JSON file. Keys that a later version adds are kept and not shown."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Estimate(Record):
    """One figure with its 95 % interval."""

    value: float | None = Field(description="null where it has no meaning; of unit % a share, 0 to 1")
    low: float | None = Field(None, description="null where the figure has no interval")
    high: float | None = None

    def figure(self) -> Figure:
        """The same with NaN for null."""
        return Figure(*(math.nan if v is None else v for v in (self.value, self.low, self.high)))


class DefinitionRecord(Record):
    """What a figure is and how it is counted."""

    key: str
    title: str
    unit: Unit
    text: str
    needs: tuple[str, ...] = Field((), description="rewards that must have been measured")

    def definition(self) -> Definition:
        """The same as the tables take it."""
        return Definition(self.key, self.title, self.unit, self.text, self.needs)


class PolicyRecord(Record):
    """One policy of a comparison; the first is the baseline."""

    name: str = Field(description="short, distinct name")
    policy: str = Field(description="as it was named on the command line")
    samples: str = Field(description="file beside this one with one row per structure requested")
    requested: int = Field(ge=1, description="structures requested: the denominator of every share")
    seconds: dict[str, float] = Field(description="wall time by step of the work")
    figures: dict[str, Estimate] = Field(description="by the key of their definition")


class Comparison(Record):
    """A finished comparison of two or more policies."""

    label: str = Field(description="who judges, such as 'optimised proxy'")
    verdicts: dict[str, str] = Field(description="name of each policy after the baseline -> one line")
    settings: dict[str, Any] = Field(description="how it was sampled and scored, limits with their units")
    config: dict[str, Any] = Field(description="the resolved configuration of the command")
    policies: tuple[PolicyRecord, ...] = Field(min_length=1)
    definitions: tuple[DefinitionRecord, ...]
    ratios: dict[str, float | None] | None = Field(
        None, description="of two policies: the second over the first, null where the first is 0"
    )

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Name of each policy -> its figures by key."""
        return {p.name: {key: e.figure() for key, e in p.figures.items()} for p in self.policies}


def read_comparison(folder: Path) -> Comparison:
    """Read and check the JSON file of a comparison.

    Raises:
        ConfigError: The folder holds no comparison, or one of another layout.
    """
    path = folder / COMPARISON
    try:
        return Comparison.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} holds no {COMPARISON}; expected a folder that materium-rl compare has finished"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path} is damaged or of another version: {place}: {first['msg']} "
            f"({error.error_count()} faults); repeat the comparison"
        ) from error


def schemas() -> dict[str, str]:
    """Name of each file in ``SCHEMAS`` -> its text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Comparison.model_json_schema()}
    return {COMPARISON: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"}
