"""Bundled assets by name, each with its source, licence and checksum; policies by name or folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from materium_rl.errors import AssetError, ConfigError, PolicyError
from materium_rl.hub import HUB_OPTIONS, download_policy, is_hub_id

ASSETS = Path(__file__).parent / "assets"
POLICY_FILES = ("config.json", "model.safetensors")
TRAINING_INDEX = "training.npz"
"""In a policy folder: the index of the structures that the policy was trained on."""
TOKENIZER_VERSION = 2
"""Version of the token layout; a policy of another one is refused."""


class AssetRecord(TypedDict):
    """One entry of ``assets/MANIFEST.json``."""

    source: str
    licence: str
    sha256: str
    bytes: int
    command: str


@cache
def manifest() -> dict[str, AssetRecord]:
    """Read ``assets/MANIFEST.json``: path relative to ``assets`` -> record.

    Raises:
        AssetError: If the file is missing or is not JSON.
    """
    path = ASSETS / "MANIFEST.json"
    try:
        records: dict[str, AssetRecord] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AssetError(
            f"no asset list at {path}; the installation is incomplete, reinstall the package"
        ) from None
    except json.JSONDecodeError as error:
        raise AssetError(f"{path} is not valid JSON ({error}); reinstall the package") from None
    return records


def asset_path(name: str) -> Path:
    """Return the path of one bundled file, verified against its checksum once per process.

    Args:
        name: Path relative to the asset folder, as listed in the manifest (``"hull.npz"``).

    Raises:
        AssetError: If the asset is not listed, is missing or was altered.
    """
    return _verified(ASSETS, name)


@cache
def _verified(folder: Path, name: str) -> Path:
    record = manifest().get(name)
    if record is None:
        listed = ", ".join(sorted(manifest())) or "none"
        raise AssetError(f"no asset named {name!r} in {folder / 'MANIFEST.json'}; listed: {listed}")
    path = folder / name
    if not path.is_file():
        raise AssetError(f"asset {name!r} is missing at {path}; rebuild it with: {record['command']}")
    found = file_sha256(path)
    if found != record["sha256"]:
        raise AssetError(
            f"asset {name!r} at {path} has sha256 {found[:12]}..., expected {record['sha256'][:12]}...; "
            f"rebuild it with: {record['command']}"
        )
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bundled_policies() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(path.name for path in (ASSETS / "policies").glob("*") if is_policy(path))


def is_policy(folder: Path) -> bool:
    """Whether a folder holds the weights and the configuration of a policy."""
    return all((folder / name).is_file() for name in POLICY_FILES)


def policy_path(name_or_folder: str | Path, **hub: Any) -> Path:
    """Find a policy: a bundled name, a policy folder, a checkpoint, a run folder, or a hub id.

    A folder on disk is written with a separator or must not share its name with a bundled policy
    (``./nano`` is always the folder). Of a pretraining run the best policy is taken, of a
    fine-tuning run the averaged weights (``policy``) of the latest checkpoint. ``owner/name`` is
    downloaded from the Hugging Face Hub when there is no such folder.

    Args:
        name_or_folder: What to find.
        **hub: Download options, see ``hub.HUB_OPTIONS``.

    Raises:
        ConfigError: If nothing of that name exists, or the folder holds no policy.
        PolicyError: If a hub repository cannot be had, or holds no policy.
        AssetError: If a bundled policy is damaged.
    """
    text = str(name_or_folder)
    names = bundled_policies()
    if text in names:
        return _bundled_policy(text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        for candidate in _policy_candidates(folder):
            if is_policy(candidate):
                return candidate
        raise ConfigError(
            f"no policy in {folder}: expected {' and '.join(POLICY_FILES)} there, or a run folder "
            f"with checkpoints/latest"
        )
    if is_hub_id(text):
        downloaded = download_policy(text, **hub)
        if is_policy(downloaded):
            return downloaded
        raise PolicyError(
            f"the repository {text} on the Hugging Face Hub holds no policy: expected "
            f"{' and '.join(POLICY_FILES)}"
        )
    close = get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"no policy {text!r}: not a folder, and not bundled; {hint}"
        f"bundled policies: {', '.join(names) or 'none'}"
    )


def pretrained_folder(name: object, marker: str, options: Mapping[str, Any]) -> Any:
    """What transformers' ``from_pretrained`` shall read when it is asked for ``name``.

    Args:
        name: As in ``policy_path``; None and folders that hold the marker are given back as they are.
        marker: File that makes a folder readable, such as ``config.json``.
        options: Keywords of ``from_pretrained``.

    Raises:
        ConfigError: As ``policy_path``.
        PolicyError: As ``policy_path``.
    """
    if not isinstance(name, str | Path) or options.get("subfolder"):
        return name
    if str(name) not in bundled_policies() and (Path(name).expanduser() / marker).is_file():
        return str(Path(name).expanduser())
    return str(policy_path(name, **{key: options[key] for key in HUB_OPTIONS if key in options}))


def training_index(name_or_file: str | Path) -> Path:
    """Path of an index of training structures: the file itself, or that of a policy.

    Args:
        name_or_file: An ``.npz`` file, or a policy as in ``policy_path``.

    Raises:
        ConfigError: No such file or policy, or the policy has no index.
        PolicyError: As ``policy_path``.
    """
    file = Path(name_or_file).expanduser()
    if file.suffix == ".npz":
        if not file.is_file():
            raise ConfigError(f"no index of structures at {file}; expected an .npz file or a policy")
        return file
    path = policy_path(name_or_file) / TRAINING_INDEX
    if not path.is_file():
        raise ConfigError(
            f"the policy {name_or_file} has no index of its training structures ({path}); make it with: "
            f"materium-rl policies index {name_or_file} --data FILE"
        )
    return path


def _bundled_policy(name: str) -> Path:
    prefix = f"policies/{name}/"
    for listed in manifest():
        if listed.startswith(prefix):
            asset_path(listed)
    return ASSETS / "policies" / name


def _policy_candidates(folder: Path) -> Iterator[Path]:
    yield folder
    yield folder / "policy"
    latest = folder / "checkpoints" / "latest"
    if latest.is_file():
        checkpoint = folder / "checkpoints" / latest.read_text(encoding="utf-8").strip()
        yield checkpoint / "policy"
        yield checkpoint
