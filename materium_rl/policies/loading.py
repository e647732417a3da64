"""Policy folders: config, weights and tokenizer in one place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from materium_rl.config import ModelConfig
from materium_rl.errors import ConfigError, PolicyError
from materium_rl.policies.card import CARD, model_card
from materium_rl.policies.conditioning import Statistics
from materium_rl.policies.modeling import CrystalConfig, CrystalForCausalLM, crystal_config
from materium_rl.resources import TRAINING_INDEX, policy_path
from materium_rl.tokenizer import CrystalCodec, CrystalTokenizer, TokenizerSettings, load_tokenizer


@dataclass(frozen=True)
class Policy:
    """A model with its codec and the folder that it came from."""

    model: CrystalForCausalLM
    codec: CrystalCodec
    folder: Path


def build_model(
    settings: TokenizerSettings, shape: ModelConfig, conditions: Statistics | None = None
) -> CrystalForCausalLM:
    """A new policy with random weights (from torch's global generator).

    Args:
        settings: Token settings.
        shape: Shape of the transformer.
        conditions: Statistics of the conditions that it shall learn (``labels.statistics``).

    Raises:
        ConfigError: The attention asked for is not installed.
    """
    config = crystal_config(
        settings,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        dropout=shape.dropout,
        attention_dropout=shape.dropout,
        condition_statistics=conditions,
    )
    config._attn_implementation = shape.attention
    try:
        return CrystalForCausalLM(config)
    except ImportError as error:
        raise ConfigError(
            f"model.attention={shape.attention} is not installed; install the flash extra "
            "(needs CUDA), or use sdpa"
        ) from error


def save_policy(
    model: CrystalForCausalLM,
    settings: TokenizerSettings,
    folder: Path,
    *,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a policy folder: config, safetensors, tokenizer, model card.

    A model that was loaded from a folder with an index of its training structures takes that along.

    Args:
        model: Policy.
        settings: Its token settings.
        folder: Where to.
        facts: Further rows of the card: how the policy was made and what it reaches.
    """
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    CrystalTokenizer(settings).save_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    card = model_card(model.config.to_dict(), parameters, facts or {})
    (folder / CARD).write_text(card, encoding="utf-8")
    source = model.config.name_or_path
    if source and (Path(source) / TRAINING_INDEX).is_file():
        shutil.copyfile(Path(source) / TRAINING_INDEX, folder / TRAINING_INDEX)


def load_policy(name_or_folder: str | Path, *, device: str | torch.device = "cpu") -> Policy:
    """Load a policy by bundled name, policy folder, run folder or hub id, for inference (fp32, eval).

    Raises:
        ConfigError: Nothing of that name.
        PolicyError: The folder is incomplete, its tokenizer does not fit the weights or is of another
            version, or the hub does not give it.
    """
    folder = policy_path(name_or_folder)
    transformers_logging.disable_progress_bar()
    try:
        settings = load_tokenizer(folder).token_settings
        config = CrystalConfig.from_pretrained(folder)
        model, report = CrystalForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except PolicyError as error:
        raise PolicyError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from error
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PolicyError(
            f"cannot load the policy in {folder}: {reason}; expected a complete folder made by materium-rl "
            "pretrain or finetune"
        ) from error
    for fault, names in (("lacks", report["missing_keys"]), ("has", report["unexpected_keys"])):
        if names:
            raise PolicyError(
                f"{folder / 'model.safetensors'} {fault} {len(names)} weights "
                f"({', '.join(sorted(names)[:3])}) that do not fit; expected those of the model in "
                "config.json: use both files of the same policy"
            )
    if TokenizerSettings.model_validate(config.token_settings) != settings:
        raise PolicyError(
            f"{folder}: tokenizer_config.json and config.json were made for different token settings; "
            "use both files of the same policy"
        )
    return Policy(model.to(device).eval(), CrystalCodec(settings), folder)
