"""The content of ``evaluation.json``: its schema, and how figures become plain numbers.

``EvaluationRecord.model_json_schema()`` is the schema; it also lies in
``schemas/evaluation.schema.json``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from materium_rl.errors import ConfigError

SCHEMA_VERSION = 1
ModelT = TypeVar("ModelT", bound=BaseModel)


def read_record(model: type[ModelT], path: Path, *, repeat: str) -> ModelT:
    """Read and check a JSON file.

    Args:
        model: What it holds.
        path: The file.
        repeat: What makes a new one, for the message.

    Raises:
        ConfigError: It is damaged, or of another layout; says where.
        OSError: It cannot be read.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path} is damaged or of another version: {place}: {first['msg']} "
            f"({error.error_count()} faults); repeat the {repeat}"
        ) from error


class Part(BaseModel):
    """Base of every part: frozen, nothing beyond the schema."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Part):
    """A figure; shares are 0 to 1."""

    value: float | None = Field(description="null where it has no meaning, such as a share of nothing")
    low: float | None = Field(None, description="lower end of the 95 % interval, where there is one")
    high: float | None = None


class DefinitionRecord(Part):
    """What a figure is."""

    key: str
    title: str
    unit: str = Field(description="%: stored as a share; mean, count, bits")
    text: str
    needs: list[str] = []


class SourceRecord(Part):
    """What was evaluated."""

    name: str
    kind: Literal["policy", "files"]
    requested: int = Field(description="the denominator of every share that names no other")
    given: int = Field(description="structures sampled or found in the files, readable or not")
    origin: dict[str, Any] = Field(description="path, or policy with checksum, seed and temperature")


class PanelRecord(Part):
    """Who judges stability."""

    reward_potentials: list[str] = Field(description="what the reward uses, or is assumed to use")
    evaluator: str | None
    label: Literal["independent", "optimised proxy"]
    reason: str = Field(description="why it is a proxy; empty if it is none")
    relax_steps: int
    band_gap: str


class JudgeRecord(Part):
    """What one judge says."""

    title: str
    version: str = Field(description="of the potential")
    label: Literal["independent", "optimised proxy"]
    measured: int
    failed: int = Field(description="valid, but without an energy")
    left: int = Field(description="valid, but not relaxed: beyond relax_within")
    figures: dict[str, Estimate] = Field(
        description="stable, metastable, sun, msun, sun_structure, msun_structure; of the requested"
    )


class AgreementRecord(Part):
    """Two judges on the same structures."""

    first: str
    second: str
    unit: str
    n: int
    median_difference: Estimate
    mean_absolute_difference: Estimate
    agree: dict[str, Estimate]
    confirmed: dict[str, Estimate]


class RelaxationRecord(Part):
    """What was relaxed, how it ended, and what it cost."""

    relaxed: int = Field(description="distinct valid structures; each counts for its duplicates")
    converged: int
    broke_off: int = Field(description="became unphysical")
    failed: int
    not_relaxed: int = Field(description="distinct valid structures beyond relax_within")
    rmsd_quantiles: list[float] = Field(description="5, 25, 50, 75, 95 % of the distance moved, Å")
    seconds: float


class DistanceRecord(Part):
    """A distance of the samples from the reference."""

    value: float
    low: float
    high: float
    chance: float = Field(description="median of as many structures drawn from the reference")
    chance_high: float
    unit: str


class CoverageRecord(Part):
    """How much of the reference the samples meet."""

    met: int
    known: int
    share: float | None


class NoveltyRecord(Part):
    """Structures that are new at one level, or stand on one tier, against one reference."""

    reference: str
    stage: Literal["as_written", "relaxed"]
    level: str = Field(description="of the ladder, or tier of the novelty reward, or rare_earth_swap")
    count: int
    told: int = Field(description="structures with a verdict")
    requested: int


class HistogramRecord(Part):
    """How a property is distributed among the valid samples."""

    unit: str
    edges: list[float]
    counts: list[int]
    reference: list[int] = Field(description="counts in the reference; empty where it has no such values")
    measured: int
    mean: float
    quantiles: list[float] = Field(description="5, 25, 50, 75, 95 %")


class TargetRecord(Part):
    """How many structures are as wanted."""

    property: str
    wanted: str
    hits: Estimate = Field(description="of the requested")
    hits_of_metastable: Estimate = Field(description="by the last judge")
    sun_hits: Estimate = Field(description="meta-S.U.N. by the last judge and a hit, of the requested")


class ReferenceRecord(Part):
    """What distances and coverage are measured against."""

    title: str
    structures: int
    left_out: list[str]


class EvaluationRecord(Part):
    """Everything but the structures."""

    schema_version: int = SCHEMA_VERSION
    headline: str
    label: Literal["independent", "optimised proxy"]
    source: SourceRecord
    panel: PanelRecord
    figures: dict[str, Estimate] = Field(description="as in compare; stability by the reward's own potential")
    judges: dict[str, JudgeRecord] = Field(description="reward, evaluator, relaxed; the last one counts")
    agreement: dict[str, AgreementRecord] = Field(description="potentials, band_gap")
    relaxation: RelaxationRecord | None
    novelty: list[NoveltyRecord] = Field(description="levels of the novelty ladder")
    tiers: list[NoveltyRecord]
    reference: ReferenceRecord
    distances: dict[str, DistanceRecord]
    coverage: dict[str, CoverageRecord]
    properties: dict[str, HistogramRecord]
    targets: list[TargetRecord]
    not_read: dict[str, str] = Field(description="where from -> why it is no structure")
    definitions: list[DefinitionRecord]
    settings: dict[str, Any]
    seconds: dict[str, float]


def plain(value: Any) -> Any:
    """Dataclasses as mappings, numbers that are not finite as None; for the records above."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
