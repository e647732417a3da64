"""What is rewarded, and who computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from materium_rl.config.section import Section

UNIQUENESS = 'uniqueness(by=["structure", "framework"], exponent=[2.0, 0.25], window=640)'
"""Default gate against collapse: credit falls with how often a structure and its framework were just seen."""


class RewardConfig(Section):
    """What is rewarded, and who computes it; the keywords of ``rewards.scoring.Scorer``."""

    expression: str = "novelty+bandgap"
    gates: tuple[str, ...] = Field(
        ("validity", "stability(half_score=0.06)", "novelty", UNIQUENESS),
        description="rewards that multiply the aggregate of the terms; empty switches them off",
    )
    aggregation: Literal["sum", "geometric", "minimum", "normalized"] = Field(
        "geometric",
        description="of the terms; a sum would pay for one of them alone; normalized adds them in units of "
        "their spread within a group",
    )
    plugins: tuple[Path, ...] = Field((), description="Python files that define rewards")
    workers: int = Field(0, ge=0, description="Ray workers; 0 scores in this process")
    timeout: float = Field(120.0, gt=0, description="seconds for one chunk of structures")
    worker_memory: float = Field(
        8.0, gt=0, description="GB that a worker may take beyond its loaded models (Linux)"
    )
    max_failed: float = Field(0.5, ge=0, le=1, description="share of failed measurements that stops the run")
    ray_address: str | None = Field(None, description="cluster to join instead of starting Ray here")
    cache: Path | None = Field(None, description="folder that keeps measurements for later runs")
    cache_limit: float = Field(1.0, gt=0, description="GB at which the oldest measurements make room")

    @model_validator(mode="after")
    def _cluster_has_work(self) -> Self:
        if self.ray_address and not self.workers:
            raise ValueError("ray_address needs workers of at least 1; 0 scores in this process")
        return self
