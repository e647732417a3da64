"""The config of ``materium-rl pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from materium_rl.conditions import CONDITIONS, check_values
from materium_rl.config.section import Section


class TokenizerConfig(Section):
    """How a crystal is written as tokens; the fields of ``tokenizer.TokenizerSettings``."""

    oxidation: bool = Field(False, description="write the oxidation state into the species token")
    site_order: Literal["electronegativity", "heavy_first", "light_first", "xyz", "random"] = (
        "electronegativity"
    )
    grid: int = Field(960, ge=24, multiple_of=24, description="points of the periodic coordinate grid")
    length_step: float = Field(0.01, gt=0, description="step of the cell lengths, Å")
    length_range: tuple[float, float] = Field((1.5, 50.0), description="Å")
    angle_step: float = Field(0.1, gt=0, description="step of the cell angles, degrees")
    angle_range: tuple[float, float] = Field(
        (59.0, 121.0), description="degrees; Niggli cells stay in 60..120"
    )
    max_sites: int = Field(20, ge=1, description="largest number of sites of the primitive cell")
    canonical: bool = Field(True, description="choose one of the equivalent axes and origins")
    min_distance: float = Field(
        0.65, ge=0, description="least distance that may be written, over the sum of the covalent radii"
    )


class ModelConfig(Section):
    """Shape of the transformer."""

    hidden_size: int = Field(256, ge=8)
    layers: int = Field(6, ge=1)
    heads: int = Field(8, ge=1)
    intermediate_size: int = Field(688, ge=8, description="width of the gated feed-forward layer")
    dropout: float = Field(0.15, ge=0, lt=1)
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the number of heads "
                f"({self.heads}): rotary embeddings need an even width per head"
            )
        return self


class TrainingConfig(Section):
    """Next-token training."""

    batch_size: int = Field(64, ge=1, description="structures per optimizer step in each process")
    epochs: int = Field(18, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0, description="peak, after warm-up; falls as a cosine")
    warmup_steps: int = Field(200, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="0 switches the moving average off")
    eval_every: int = Field(250, ge=1, description="optimizer steps between validations")
    patience: int = Field(8, ge=1, description="validations without a better loss before stopping")
    augment: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of structures in another equivalent setting at first; falls evenly to 0",
    )
    bf16: bool = Field(True, description="bf16 autocast")


class ConditionsConfig(Section):
    """What a policy learns to be asked for."""

    names: tuple[str, ...] = Field(
        (),
        description="conditions to learn; values that the data lack are computed",
    )
    dropout: float = Field(0.5, ge=0, le=1, description="share of structures shown without any condition")
    labels: Path | None = Field(None, description="run on the same data whose computed values are used again")

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_values(dict.fromkeys(names, ()))
        return tuple(name for name in CONDITIONS if name in names)


class PretrainConfig(Section):
    """Everything that ``materium-rl pretrain`` needs."""

    data: Path = Field(description="structures to train on: CSV, parquet, extxyz, a folder or a zip")
    validation_data: Path | None = Field(None, description="without it a part of data is held out")
    initial_policy: str | None = Field(None, description="policy whose weights the training starts from")
    seed: int = Field(0, ge=0)
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    conditions: ConditionsConfig = ConditionsConfig()

    @model_validator(mode="after")
    def _attention_has_its_type(self) -> Self:
        if self.model.attention == "flash_attention_2" and not self.training.bf16:
            raise ValueError(
                "model.attention=flash_attention_2 has no fp32: leave training.bf16 on, or use sdpa"
            )
        return self
