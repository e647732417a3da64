"""The typed config tree: a section for each part of a command, loaded from YAML, overridden by options."""

from materium_rl.config.evaluating import CompareConfig, ControlsConfig, EvaluateConfig, EvaluatorConfig
from materium_rl.config.finetuning import (
    OF_THE_RUN,
    PROMPT_GROUP,
    STAGED,
    FinetuneConfig,
    StageConfig,
    UntilConfig,
)
from materium_rl.config.generating import GenerateConfig
from materium_rl.config.loading import (
    CONFIGS,
    config_file,
    dump_config,
    load_config,
    preset,
    read_yaml,
    save_config,
)
from materium_rl.config.pretraining import (
    ConditionsConfig,
    ModelConfig,
    PretrainConfig,
    TokenizerConfig,
    TrainingConfig,
)
from materium_rl.config.reward import UNIQUENESS, RewardConfig
from materium_rl.config.rl import (
    ALGORITHMS,
    LOSS_TYPES,
    PPO_LOSS_TYPES,
    GuardsConfig,
    PPOConfig,
    ReplayConfig,
    RLConfig,
)
from materium_rl.config.section import Section
from materium_rl.config.sentinel import Response, SentinelConfig, SentinelLimits, SentinelResponses

__all__ = [
    "ALGORITHMS",
    "CONFIGS",
    "LOSS_TYPES",
    "OF_THE_RUN",
    "PPO_LOSS_TYPES",
    "PROMPT_GROUP",
    "STAGED",
    "UNIQUENESS",
    "CompareConfig",
    "ConditionsConfig",
    "ControlsConfig",
    "EvaluateConfig",
    "EvaluatorConfig",
    "FinetuneConfig",
    "GenerateConfig",
    "GuardsConfig",
    "ModelConfig",
    "PPOConfig",
    "PretrainConfig",
    "RLConfig",
    "ReplayConfig",
    "Response",
    "RewardConfig",
    "Section",
    "SentinelConfig",
    "SentinelLimits",
    "SentinelResponses",
    "StageConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "UntilConfig",
    "config_file",
    "dump_config",
    "load_config",
    "preset",
    "read_yaml",
    "save_config",
]
