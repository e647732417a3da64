"""What is in a policy folder, read without loading the policy: for ``materium-rl policies``."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from materium_rl.config import read_yaml
from materium_rl.errors import ConfigError, MateriumError, PolicyError
from materium_rl.policies.card import CARD, loss_in_card, model_card
from materium_rl.resources import (
    ASSETS,
    TOKENIZER_VERSION,
    TRAINING_INDEX,
    bundled_policies,
    file_sha256,
    manifest,
    policy_path,
)
from materium_rl.runs import RunFolder

COLUMNS = ("name", "parameters", "elements", "max sites", "tokenizer", "validation", "index", "")
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "dropout",
    "vocab_size",
)
"""Keys of ``config.json`` that ``show`` prints."""
POLICY_PARTS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Files of a policy, without card and index; a checkpoint holds others too."""
ORIGIN = ("data", "validation_data", "initial_policy", "policy", "seed")
"""Keys of a run's config that say where its policy comes from."""
_RUN_LEVELS = 3  # run/checkpoints/step_000010/policy


@dataclass(frozen=True)
class PolicyFolder:
    """A policy on disk.

    Args:
        name: As it was asked for.
        path: Folder of the weights.
        config: Content of ``config.json``.
        parameters: Number of weights in ``model.safetensors``.
    """

    name: str
    path: Path
    config: dict[str, Any]
    parameters: int

    @property
    def settings(self) -> dict[str, Any]:
        """Token settings."""
        settings: dict[str, Any] = self.config["token_settings"]
        return settings

    @property
    def readable(self) -> bool:
        """Whether this program can load it: the tokenizer version is its own."""
        return bool(self.settings["version"] == TOKENIZER_VERSION)

    @property
    def elements(self) -> list[str]:
        """Elements that it writes."""
        return list(dict.fromkeys(token.split("|")[0] for token in self.settings["species"]))


def read_policy(name: str | Path) -> PolicyFolder:
    """Read config and header of the weights of a bundled name, folder, run folder or hub id.

    Raises:
        ConfigError: Nothing of that name.
        PolicyError: It is damaged, or no policy of this program.
    """
    path = policy_path(name)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        needed = {"species", "grid", "length_step", "angle_step", "max_sites", "version"}
        complete = needed <= config["token_settings"].keys() and set(SHAPE) <= config.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise PolicyError(
            f"{path / 'config.json'} is damaged, or of another program: expected the shape of the model and "
            "token_settings, as materium-rl pretrain writes them"
        )
    return PolicyFolder(str(name), path, config, _count_weights(path / "model.safetensors"))


def _count_weights(path: Path) -> int:
    """Number of weights by the header of a safetensors file; its end must be there."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < path.stat().st_size else {}
        tensors = [entry for key, entry in header.items() if key != "__metadata__"]
        end = max(entry["data_offsets"][1] for entry in tensors)
        shapes = [entry["shape"] for entry in tensors]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"{path} is no safetensors file; copy or download the policy again") from error
    if 8 + length + end != path.stat().st_size:
        raise PolicyError(
            f"{path} has {path.stat().st_size:,} bytes, expected {8 + length + end:,}: it was cut off; copy "
            "or download the policy again"
        )
    return sum(math.prod(shape) for shape in shapes)


def table(folders: Sequence[Path] = ()) -> list[tuple[str, ...]]:
    """Rows of ``policies list``, the header first: bundled policies, then those in the folders.

    A policy that is damaged or of another tokenizer version stays in the list, with the reason.

    Raises:
        ConfigError: A folder holds no policy, and none of its subfolders does.
    """
    names = [*bundled_policies(), *(name for folder in folders for name in _found_in(folder))]
    return [COLUMNS, *map(_row, names)]


def _found_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"no folder at {folder}; give one that holds policies or runs")
    places = [folder, *sorted(place for place in folder.iterdir() if place.is_dir())]
    # as a path, so that a folder called like a bundled policy is the folder
    found = [place for place in places if _holds_policy(place)]
    if not found:
        raise ConfigError(f"no policy in {folder} or its subfolders: expected policy folders or run folders")
    return [str(place) for place in (found[:1] if found[0] == folder else found)]


def _holds_policy(folder: Path) -> bool:
    try:
        policy_path(folder.resolve())
    except MateriumError:
        return False
    return True


def _row(name: str) -> tuple[str, ...]:
    try:
        policy = read_policy(name if name in bundled_policies() else Path(name).resolve())
        loss, indexed = validation_loss(policy), indexed_structures(policy)
    except MateriumError as error:
        return (name, "-", "-", "-", "-", "-", "-", str(error))
    note = (
        "" if policy.readable else f"not for this program, which reads tokenizer version {TOKENIZER_VERSION}"
    )
    return (
        name,
        f"{policy.parameters:,}",
        str(len(policy.elements)),
        str(policy.settings["max_sites"]),
        str(policy.settings["version"]),
        "-" if loss is None else f"{loss:.2f}",
        "-" if indexed is None else f"{indexed:,}",
        note,
    )


def validation_loss(policy: PolicyFolder) -> float | None:
    """Validation loss in nats per structure, by the card, or by the run whose best policy this is."""
    card = policy.path / CARD
    loss = loss_in_card(card.read_text(encoding="utf-8")) if card.is_file() else None
    run = _run_of(policy.path)
    if loss is None and run is not None and policy.path.absolute() == run / "policy":
        found = [row.get("validation/nats_per_structure") for row in RunFolder(run).read_metrics()]
        loss = min((value for value in found if value is not None), default=None)
    return loss


def indexed_structures(policy: PolicyFolder) -> int | None:
    """Number of training structures in the policy's index; None where it has none.

    Raises:
        PolicyError: The index is damaged.
    """
    import zipfile

    import numpy as np

    path = policy.path / TRAINING_INDEX
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return len(archive["n_sites"])
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise PolicyError(
            f"{path} is no index of training structures; make it again with: materium-rl policies index "
            f"{policy.name} --data FILE --overwrite"
        ) from error


def card_of(policy: PolicyFolder) -> str:
    """The model card; of a folder without one, the card that its config gives."""
    card = policy.path / CARD
    if card.is_file():
        return card.read_text(encoding="utf-8")
    return model_card(policy.config, policy.parameters, {})


def describe(policy: PolicyFolder) -> dict[str, Any]:
    """What ``policies show`` prints: plain values, ready for YAML."""
    indexed = indexed_structures(policy)
    settings = {key: value for key, value in policy.settings.items() if key != "species"}
    return {
        "name": policy.name,
        "folder": str(policy.path),
        "readable": "yes"
        if policy.readable
        else f"no: tokenizer version {settings['version']}, this program reads {TOKENIZER_VERSION}",
        "parameters": policy.parameters,
        "weights_sha256": file_sha256(policy.path / "model.safetensors"),
        "model": {key: policy.config[key] for key in SHAPE},
        "tokens": {**settings, "species": " ".join(policy.settings["species"])},
        "validation_nats_per_structure": validation_loss(policy),
        "training_structures_in_index": indexed,
        "files": {file.name: file.stat().st_size for file in _files(policy.path)},
        "provenance": _provenance(policy.path) or "unknown",
    }


def _files(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _run_of(folder: Path) -> Path | None:
    for place in _upwards(folder):
        if (place / "config.yaml").is_file() and (place / "environment.json").is_file():
            return place
    return None


def _upwards(folder: Path) -> Iterator[Path]:
    place = folder.absolute()
    yield place
    yield from list(place.parents)[:_RUN_LEVELS]


def _provenance(folder: Path) -> dict[str, Any]:
    """Where the weights come from: the manifest of the bundled assets, or the run around them."""
    if folder.parent == ASSETS / "policies":
        record = manifest()[f"policies/{folder.name}/model.safetensors"]
        return {key: record[key] for key in ("source", "licence", "command")}
    run = _run_of(folder)
    if run is None:
        return {}
    config = read_yaml(run / "config.yaml")
    origin: dict[str, Any] = {"run": str(run)}
    origin |= {key: config[key] for key in ORIGIN if config.get(key) is not None}
    if "reward" in config:
        origin["reward"] = config["reward"]["expression"]
    last = max((row["step"] for row in RunFolder(run).read_metrics()), default=0)
    return {**origin, "steps_of_the_run": last}
