"""The content of ``comparison.json``: its schema, and how it is read and checked.

``ComparisonRecord.model_json_schema()`` is the schema; it also lies in
``schemas/comparison.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from materium_rl.errors import ConfigError
from materium_rl.evaluation.evaluate.record import DefinitionRecord, Estimate, read_record
from materium_rl.runs import COMPARISON

SCHEMA = Path(__file__).parent.parent / "schemas" / "comparison.schema.json"


class Record(BaseModel):
    """Part of a JSON file. Keys that a later version adds are kept and not shown."""

    model_config = ConfigDict(extra="allow", frozen=True)


class PolicyRecord(Record):
    """One policy of a comparison; the first is the baseline."""

    name: str = Field(description="short, distinct name")
    policy: str = Field(description="as it was named on the command line")
    samples: str = Field(description="file beside this one with one row per structure requested")
    requested: int = Field(ge=1, description="structures requested: the denominator of every share")
    seconds: dict[str, float] = Field(description="wall time by step of the work")
    figures: dict[str, Estimate] = Field(description="by the key of their definition")
    judges: dict[str, dict[str, Estimate]] = Field(
        {}, description="reward, evaluator, relaxed -> stable, metastable, sun and so on by that judge"
    )


class Change(Record):
    """How one figure differs from that of the baseline, with paired 95 % intervals."""

    difference: Estimate = Field(description="after minus before; of unit % a share")
    ratio: Estimate = Field(description="after over before")


class Changes(Record):
    """How one policy differs from another."""

    runs: tuple[int, int] = Field(description="training runs before and after")
    figures: dict[str, Change] = Field(description="by the key of their definition")
    judges: dict[str, dict[str, Change]] = Field({}, description="the same by each judge of stability")
    gain: dict[str, Estimate] = Field(
        description="shares of the gain in S.U.N. by what it is made of; empty without a certain gain"
    )


class CurveRecord(Record):
    """Distinct things against samples drawn."""

    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Rarefaction(Record):
    """Rarefaction curves, all at the same numbers of samples."""

    sizes: tuple[int, ...] = Field(description="numbers of samples")
    policies: dict[str, dict[str, CurveRecord]] = Field(
        description="name -> what S.U.N. samples are told apart by -> curve"
    )


class JudgesRecord(Record):
    """Who judges stability."""

    reward_potentials: tuple[str, ...] = Field(description="what the reward uses, or is assumed to use")
    evaluator: str | None
    label: str = Field(description="of the second judge: independent, or optimised proxy")
    reason: str = Field(description="why it is a proxy; empty if it is none")
    titles: dict[str, str] = Field(description="reward, evaluator, relaxed -> who that is")


class ControlRecord(PolicyRecord):
    """What the baseline reaches without fine-tuning."""

    kind: str = Field(description="hotter, or best-of-n")
    temperature: float
    of: str | None = Field(description="name of the recipe that it stands against; null for all")
    reward_calls: float
    equal_reward_calls: float = Field(description="as many as the recipe used, and its samples")
    against: dict[str, Changes] = Field(description="name of each recipe -> what it has over the control")


class CostRecord(Record):
    """What a policy has cost, and its gain over the baseline for that."""

    reward_calls: float
    hours: float
    processors: int
    processor_hours: float
    per_1000_reward_calls: dict[str, Estimate]
    per_processor_hour: dict[str, Estimate]


class FoundRecord(Record):
    """Distinct things among all samples that were stable and of a new formula, mean over the runs."""

    reward_calls: tuple[int, ...]
    formula: tuple[float, ...]
    prototype: tuple[float, ...]
    framework: tuple[float, ...]


class PointRecord(Record):
    """A checkpoint; step 0 is the baseline."""

    step: int
    policy: str
    figures: dict[str, Estimate]


class TrajectoryRecord(Record):
    """A run over its checkpoints."""

    name: str
    policy: str
    n: int = Field(description="structures requested from each checkpoint")
    points: tuple[PointRecord, ...]


class ComparisonRecord(Record):
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
    differences: dict[str, Changes] = Field(
        {}, description="name of each policy and control after the baseline -> how it differs from that"
    )
    panel: JudgesRecord | None = None
    rarefaction: Rarefaction | None = None
    controls: tuple[ControlRecord, ...] = ()
    cost: dict[str, CostRecord] = Field({}, description="by name, of fine-tuned policies and controls")
    found: dict[str, FoundRecord] = Field(
        {}, description="by name: what was found with the reward calls, as the run itself scored it"
    )
    trajectory: tuple[TrajectoryRecord, ...] = ()


def read_comparison(folder: Path) -> ComparisonRecord:
    """Read and check the JSON file of a comparison.

    Raises:
        ConfigError: The folder holds no comparison, or one of another layout.
    """
    path = folder / COMPARISON
    try:
        return read_record(ComparisonRecord, path, repeat="comparison")
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} holds no {COMPARISON}; expected a folder that materium-rl compare has finished"
        ) from None


def schema() -> str:
    """The text of ``SCHEMA``."""
    return json.dumps(ComparisonRecord.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
