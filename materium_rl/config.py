"""The typed config tree: load, override, save.

Precedence: defaults < config files in the order given < named options < ``--set a.b=c``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from materium_rl.conditions import CONDITIONS, Values, check_values
from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.prompts import PromptsConfig

CONFIGS = Path(__file__).parent / "configs"


class Section(BaseModel):
    """Base of every part of the tree: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Section)


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


UNIQUENESS = 'uniqueness(by=["structure", "framework"], exponent=[1.0, 0.25], window=640)'
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


class PPOConfig(Section):
    """What PPO has and GRPO has not: a critic; see ``rl.ppo``."""

    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="1 takes the advantages from the rewards alone, 0 from the values alone"
    )
    value_clip_range: float = Field(0.2, gt=0, description="how far one step may move a value")
    value_learning_rate: float = Field(1e-3, gt=0, description="of the value head; constant")
    value_batches: int = Field(4, ge=1, description="batches, the newest ones, that the critic learns from")


LOSS_TYPES = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
PPO_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


ALGORITHMS = Literal["grpo", "ppo", "best-of-n", "sft-accept", "temperature", "shuffled-reward"]


class RLConfig(Section):
    """The update; names and meanings as in TRL."""

    algorithm: ALGORITHMS = Field(
        "grpo", description="grpo and ppo, or a control at equal reward calls, see docs/finetuning.md"
    )
    steps: int = Field(160, ge=1, description="batches of completions")
    batch_size: int = Field(128, ge=2, description="completions per step")
    group_size: int = Field(
        128, ge=2, description="GRPO: completions that share one baseline, and one prompt if there are any"
    )
    learning_rate: float = Field(5e-4, gt=0, description="at the start; falls evenly to 0 at the last step")
    num_iterations: int = Field(1, ge=1, description="passes over each batch of completions")
    minibatches: int = Field(1, ge=1, description="updates per pass")
    kl_coef: float = Field(0.05, ge=0, description="weight of the KL divergence from the reference policy")
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="where the KL divergence is counted, once; in the reward of each token: PPO only"
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description="KL divergence, nats per token, that kl_coef is steered to; null keeps it constant",
    )
    kl_horizon: int = Field(2560, ge=1, description="completions in which kl_coef adapts")
    clip_range: float = Field(0.2, gt=0)
    clip_range_high: float | None = Field(
        None,
        gt=0,
        description="upper bound where it is another; of cispo that of the ratio itself, such as 5",
    )
    loss_type: LOSS_TYPES = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="of the ratio; sequence with loss_type grpo is GSPO"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "batch", description="GRPO: the spread that advantages are in units of"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0)
    average_decay: float = Field(
        0.97,
        ge=0,
        lt=1,
        description="decay of the weight average that a run ends with; 0 keeps the last weights",
    )
    reward_power: float = Field(
        0.5,
        gt=0,
        le=1,
        description="advantages are those of reward to this power; below 1 it tames a long tail",
    )
    ppo: PPOConfig = PPOConfig()
    accept_share: float = Field(
        0.25, gt=0, le=1, description="sft-accept: share of a group, its best, whose likelihood is raised"
    )
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.7, 0.85, 1.0, 1.15, 1.3),
        min_length=1,
        description="temperature: tried in turn, in units of temperature; that of the best mean reward stays",
    )

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per batch of completions."""
        return self.num_iterations * self.minibatches

    @property
    def baseline_size(self) -> int:
        """Completions that are compared with one another: a group; with a critic the whole batch."""
        return self.batch_size if self.algorithm == "ppo" else self.group_size

    @property
    def prompt_size(self) -> int:
        """Completions of one prompt: a group; with a critic each has its own."""
        return 1 if self.algorithm == "ppo" else self.group_size

    @model_validator(mode="after")
    def _parts_fill_the_batch(self) -> Self:
        for name, size in (("group_size", self.baseline_size), ("minibatches", self.minibatches)):
            if self.batch_size % size:
                raise ValueError(f"batch_size {self.batch_size} must be a multiple of {name} {size}")
        return self

    @model_validator(mode="after")
    def _loss_has_what_it_needs(self) -> Self:
        if self.loss_type == "cispo" and (self.clip_range_high or 0) < 1:
            raise ValueError(
                "loss_type cispo needs clip_range_high of at least 1, the bound of the ratio, such as 5"
            )
        level = {"luspo": "sequence", "vespo": "token"}.get(self.loss_type, self.importance_sampling_level)
        if level != self.importance_sampling_level:
            raise ValueError(f"loss_type {self.loss_type} needs importance_sampling_level {level}")
        return self

    @model_validator(mode="after")
    def _algorithm_can_do_it(self) -> Self:
        if self.algorithm == "ppo":
            if self.loss_type not in PPO_LOSS_TYPES or self.importance_sampling_level != "token":
                raise ValueError(
                    f"algorithm ppo clips the ratio of each token: loss_type must be one of "
                    f"{', '.join(PPO_LOSS_TYPES)}, and importance_sampling_level token"
                )
        elif self.kl_in == "reward":
            raise ValueError(
                "kl_in reward needs algorithm ppo, which rewards single tokens; use kl_in loss, or ppo"
            )
        return self

    @model_validator(mode="after")
    def _target_has_a_weight(self) -> Self:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target needs a kl_coef above 0 to start from")
        return self


class GuardsConfig(Section):
    """Descriptors of the samples that fine-tuning may not drift away from; see ``rl.guards``."""

    descriptors: tuple[str, ...] = ("n_sites", "n_elements", "rare_earth", "anion")
    floors: tuple[str, ...] = Field(("anion",), description="those among them that may rise but not fall")
    strength: float = Field(3.0, ge=0, description="weight of the restoring term")


class ReplayConfig(Section):
    """Crystals of earlier steps that each update imitates; see ``rl.replay``."""

    coef: float = Field(0.1, ge=0, description="weight of their negative log-likelihood per token")
    batch_size: int = Field(32, ge=0, description="crystals per update; 0 switches replay off")
    capacity: int = Field(512, ge=1, description="crystals that are held")
    per_framework: int = Field(4, ge=1, description="crystals of one framework that are held")


PROMPT_GROUP = 16
"""Size of the groups of a run with prompts that does not name one: eight prompts in a batch."""


class SentinelLimits(Section):
    """How far a signal may go; see ``rl.signals`` and docs/finetuning.md for what was measured."""

    unique: float = Field(0.55, ge=0, description="distinct crystals may fall to so many times the reference")
    prototype_unique: float = Field(0.4, ge=0, description="distinct prototypes: the same")
    top5: float = Field(0.25, ge=0, description="share of the five commonest prototypes may rise by so much")
    rare_earth: float = Field(0.25, ge=0, description="share with rare earths may rise by so much")
    anion: float = Field(
        0.6, ge=0, description="share with an anion former may fall to so many times the reference"
    )
    element_divergence: float = Field(0.4, gt=0, description="of the elements from the reference, bits")
    mean_sites: float = Field(
        1.4, gt=1, description="mean number of sites may change by this factor, up or down"
    )
    mean_elements: float = Field(1.3, gt=1, description="mean number of elements: the same")
    hull_tail: float = Field(0.1, ge=0, description="share more than 0.1 eV/atom below the hull")
    second_opinion: float = Field(
        0.5, ge=0, description="score by a second model, over that by the reward's own, of the best samples"
    )
    dominant_term: float = Field(0.95, gt=0, le=1, description="share of one term in the spread of the terms")
    zero_spread: float = Field(0.5, ge=0, le=1, description="share of groups that all earn the same")
    kl: float = Field(1.0, gt=0, description="median KL divergence from the reference policy, nats per token")
    clip_fraction: float = Field(0.3, gt=0, le=1, description="share of tokens whose ratio was clipped")


Response = Literal["ignore", "warn", "raise_kl", "roll_back", "stop"]


class SentinelResponses(Section):
    """What is done when a signal is past its limit."""

    unique: Response = "stop"
    prototype_unique: Response = "stop"
    top5: Response = "stop"
    rare_earth: Response = "warn"
    anion: Response = "warn"
    element_divergence: Response = "warn"
    mean_sites: Response = "warn"
    mean_elements: Response = "warn"
    hull_tail: Response = "warn"
    second_opinion: Response = "warn"
    dominant_term: Response = "warn"
    zero_spread: Response = "warn"
    kl: Response = "warn"
    clip_fraction: Response = "warn"


class SentinelConfig(Section):
    """Watches a run for collapse and for a reward that is being gamed; see ``rl.sentinel``."""

    response: Response | None = Field(None, description="of every signal, in place of those in responses")
    responses: SentinelResponses = SentinelResponses()
    limits: SentinelLimits = SentinelLimits()
    window: int = Field(5, ge=1, description="steps whose samples are judged together")
    patience: int = Field(3, ge=1, description="steps in a row past a limit before anything is done")
    kl_factor: float = Field(2.0, gt=1, description="raise_kl and roll_back multiply the KL weight by this")
    max_rollbacks: int = Field(2, ge=0, description="a run that must be rolled back once more is stopped")
    opinions: int = Field(
        8, ge=0, description="best samples of a step that a second model judges; 0: no second opinion"
    )

    def response_to(self, signal: str) -> Response:
        """What is done when a signal is past its limit."""
        response: Response = self.response or getattr(self.responses, signal)
        return response


class UntilConfig(Section):
    """When a stage ends: by a score, by a plateau, and at the latest after some steps."""

    steps: int | None = Field(None, ge=1, description="most steps of the stage; null: to the end of the run")
    of: str = Field("reward", description="what score and plateau look at: reward, or a reward's name")
    score: float | None = Field(None, ge=0, le=1, description="ends when its mean reaches this")
    plateau: int | None = Field(None, ge=1, description="ends after so many steps without a gain")
    min_gain: float = Field(0.01, gt=0, description="what counts as a gain of the mean")
    window: int = Field(5, ge=1, description="steps of the mean")


STAGED = ("reward", "rl", "guards", "replay", "sentinel")
OF_THE_RUN = ("algorithm", "steps", "batch_size", "num_iterations", "minibatches")
"""Of ``rl``: what a stage cannot change."""


class StageConfig(Section):
    """One stage of a run: what is other than in the rest of the config, and when it ends."""

    name: str = Field(min_length=1)
    until: UntilConfig = UntilConfig()
    reward: dict[str, Any] = {}
    rl: dict[str, Any] = {}
    guards: dict[str, Any] = {}
    replay: dict[str, Any] = {}
    sentinel: dict[str, Any] = {}

    @field_validator("rl")
    @classmethod
    def _leaves_the_run_alone(cls, rl: dict[str, Any]) -> dict[str, Any]:
        for name in OF_THE_RUN:
            if name in rl:
                hint = "; set until.steps" if name == "steps" else ""
                raise ValueError(f"rl.{name} is of the whole run, a stage cannot change it{hint}")
        return rl


class FinetuneConfig(Section):
    """Everything that ``materium-rl finetune`` needs."""

    policy: str = Field("nano", description="bundled name, policy folder or run folder")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(10, ge=1, description="steps between checkpoints that are kept")
    keep_checkpoints: int = Field(2, ge=1, description="of these, how many stay")
    resume_every: int = Field(
        1, ge=1, description="steps between checkpoints of which only the newest stays, to resume from"
    )
    reward: RewardConfig = RewardConfig()
    prompts: PromptsConfig = PromptsConfig()
    rl: RLConfig = RLConfig()
    guards: GuardsConfig = GuardsConfig()
    replay: ReplayConfig = ReplayConfig()
    sentinel: SentinelConfig = SentinelConfig()
    stages: tuple[StageConfig, ...] = Field(
        (), description="parts of the run, each with a reward of its own; see rl.stages"
    )

    def at_stage(self, index: int) -> FinetuneConfig:
        """The config of a stage, without stages; of a run without stages this one."""
        if not self.stages:
            return self
        tree = self.model_dump(exclude={"stages"})
        _merge(tree, self.stages[index].model_dump(include=set(STAGED)))
        return FinetuneConfig.model_validate(tree)

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        for index, name in enumerate(names):
            try:
                self.at_stage(index)
            except ValidationError as error:
                raise ValueError(f"stage {name!r}: {_explain(FinetuneConfig, error)}") from None
        return self

    @model_validator(mode="after")
    def _kl_can_be_raised(self) -> Self:
        signals = SentinelResponses.model_fields
        raising = [s for s in signals if self.sentinel.response_to(s) in ("raise_kl", "roll_back")]
        if raising and self.rl.kl_coef == 0:
            raise ValueError(
                f"the sentinel raises the KL weight (responses.{raising[0]}), so rl.kl_coef must be above 0"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _several_prompts_in_a_batch(cls, tree: Any) -> Any:
        """Without a group size of its own a run with prompts has smaller groups."""
        if not isinstance(tree, Mapping) or not isinstance(tree.get("prompts"), Mapping):
            return tree
        rl = tree.get("rl", {})
        if not isinstance(rl, Mapping) or "group_size" in rl or not _asks(tree["prompts"]):
            return tree
        return {**tree, "rl": {**rl, "group_size": min(PROMPT_GROUP, rl.get("batch_size", PROMPT_GROUP))}}


def _asks(prompts: Mapping[str, Any]) -> bool:
    """Whether a section of prompts, not yet checked, asks for anything."""
    limits = prompts.get("constraints") or {}
    values = limits.values() if isinstance(limits, Mapping) else [limits]
    return bool(prompts.get("conditions")) or any(value is not None for value in values)


class GenerateConfig(Section):
    """Everything that ``materium-rl generate`` needs."""

    policy: str = "nano"
    n: int = Field(100, ge=1, description="structures requested")
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    constraints: Constraints = Constraints()
    conditions: dict[str, Values] = Field(
        {}, description="values that the samples are asked for; of several, n samples of each combination"
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="above 1 the conditions count for more, and samples vary less; 1 takes no extra time",
    )
    prompts: PromptsConfig | None = Field(
        None,
        description="what each sample is asked for, drawn; null: what a run was trained with, unless "
        "conditions or constraints are given",
    )
    out: Path = Path("generated")

    @field_validator("conditions")
    @classmethod
    def _known_conditions(cls, values: dict[str, Values]) -> dict[str, Values]:
        check_values(values)
        return values

    @model_validator(mode="after")
    def _asked_once(self) -> Self:
        if self.prompts is not None and self.prompts.enabled and self.asks:
            raise ValueError("prompts are drawn, conditions and constraints are for all: give one of them")
        return self

    @property
    def asks(self) -> bool:
        """Whether all samples are asked for something."""
        return bool(self.conditions) or bool(self.constraints.request())


class EvaluatorConfig(Section):
    """Who judges stability beside the reward's own potential; see ``evaluation.judges``."""

    potential: str = Field(
        "auto", description="a potential of docs/potentials.md; auto: the first at hand that the reward lacks"
    )
    scale: Literal["mp2020", "uncorrected"] | None = Field(
        None, description="its energies, where its name does not tell"
    )
    relax: int = Field(0, ge=0, description="most relaxation steps of what is valid and unique; 0: none")
    relaxer: str | None = Field(
        None, description="potential that relaxes, such as chgnet, which is fast; without it the evaluator"
    )
    relax_within: float | None = Field(
        None, ge=0, description="relax only what is at most so far above the hull before, eV/atom"
    )

    @model_validator(mode="after")
    def _relaxes_something(self) -> Self:
        if not self.relax and (self.relaxer is not None or self.relax_within is not None):
            raise ValueError("relaxer and relax_within need relax=N (--relax N), the most steps")
        return self


class EvaluateConfig(Section):
    """Everything that ``materium-rl evaluate`` needs."""

    source: str = Field(description="structure files, a folder or archive of them, a policy or a run")
    n: int | None = Field(
        None, ge=1, description="structures sampled from a policy (1024), or the first so many of files"
    )
    requested: int | None = Field(
        None, ge=1, description="structures that were asked for, where files hold fewer"
    )
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    reference: str | None = Field(
        None, description="known structures: files, an .npz index, or a policy for its training structures"
    )
    targets: tuple[str, ...] = Field(
        (), description="properties with the range that is wanted, such as band_gap=1..2"
    )
    out: Path = Path("evaluation")
    evaluator: EvaluatorConfig = EvaluatorConfig()
    reward: RewardConfig = RewardConfig()


class ControlsConfig(Section):
    """What the baseline reaches without fine-tuning."""

    enabled: bool = Field(False, description="sample a hotter baseline, and its best at equal reward calls")
    temperature: float = Field(1.2, gt=0, description="of the hotter baseline, in units of temperature")
    max_calls: int | None = Field(
        None, ge=1, description="most reward calls of best-of-n; unset: as many as the run and n samples"
    )

    @model_validator(mode="after")
    def _limit_has_something_to_limit(self) -> Self:
        if self.max_calls is not None and not self.enabled:
            raise ValueError("max_calls limits a control: add --controls, or leave it out")
        return self


class CompareConfig(Section):
    """Everything that ``materium-rl compare`` needs."""

    policies: tuple[str, ...] = Field(
        min_length=2,
        description="the first one is the baseline; a,b,c are runs of one recipe with several seeds",
    )
    n: int = Field(1024, ge=1, description="structures requested from each policy")
    seed: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    batch_size: int = Field(128, ge=1)
    out: Path = Path("comparison")
    reward: RewardConfig = RewardConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    prompts: PromptsConfig | None = Field(
        None, description="what every policy is asked for; null: what the runs were trained with"
    )
    controls: ControlsConfig = ControlsConfig()
    trajectory: bool = Field(
        False, description="sample n/4 structures from every checkpoint of each run as well"
    )


def preset(name: str) -> Path:
    """Return the path of a bundled preset, such as ``pretrain_nano``.

    Raises:
        ConfigError: If there is no such preset.
    """
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"no preset {name!r}{did_you_mean(name, names)}; presets: {', '.join(names)}")
    return CONFIGS / f"{name}.yaml"


def load_config(
    cls: type[ConfigT],
    files: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> ConfigT:
    """Build a config from all its sources.

    Args:
        cls: Root of the tree.
        files: YAML files or names of bundled presets, later ones win.
        overrides: Dotted key -> value of the named options; ``None`` means not given.
        sets: ``"a.b=c"`` texts; c is read as YAML 1.2.

    Raises:
        ConfigError: If a file cannot be read, a key is unknown or a value is wrong.
    """
    tree: dict[str, Any] = {}
    for file in files:
        _merge(tree, read_yaml(config_file(file)))
    for key, value in (overrides or {}).items():
        if value is not None:
            _assign(tree, key, value)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text!r}: expected key=value, for example --set seed=1")
        _assign(tree, key.strip(), _parse_yaml(value, f"--set {text!r}"))
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error)) from None


def config_file(name_or_path: str | Path) -> Path:
    """Return an existing config file, or the bundled preset of that name."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise ConfigError(f"no config file at {path}; give a YAML file or the name of a preset")
    return preset(str(name_or_path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (so 1e-5 is a number and No is a text)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from None
    tree = _parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(tree).__name__}")
    return tree


def dump_config(config: Section) -> str:
    """Write a config as YAML, every field resolved."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


def save_config(config: Section, path: Path) -> None:
    """Save a config so that ``load_config(type(config), [path])`` returns an equal one."""
    from materium_rl.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: malformed YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise ConfigError(f"{where}: malformed YAML: {' '.join(str(error).split())}") from None


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"cannot set {dotted!r}: {section!r} is a value, not a section")
    tree[last] = value


def _explain(cls: type[Section], error: ValidationError) -> str:
    """Turn pydantic's report into one line per fault."""
    faults = []
    for fault in error.errors():
        location = [str(part) for part in fault["loc"]]
        key = ".".join(location)
        if fault["type"] == "extra_forbidden":
            faults.append(f"unknown key {key!r}{did_you_mean(location[-1], _keys_at(cls, location[:-1]))}")
        elif fault["type"] == "missing":
            faults.append(
                f"{key!r} is required; give it as an option, in a config file or by --set {key}=..."
            )
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(fault["input"], dict | BaseModel) else f" (found {fault['input']!r})"
            faults.append(f"{key or 'config'}: {message}{shown}")
    return "\n".join(faults)


def _keys_at(cls: type[BaseModel], location: Iterable[str]) -> list[str]:
    """Names of the fields of the section at a location."""
    for part in location:
        if part.isdigit():  # a place in a list, whose sections are all alike
            continue
        annotation = cls.model_fields[part].annotation
        sections = [c for c in (annotation, *get_args(annotation)) if _is_section(c)]
        if not sections:
            return []
        cls = sections[0]
    return list(cls.model_fields)


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
