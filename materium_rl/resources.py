"""Bundled assets by name, each with its source, licence and checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TypedDict

from materium_rl.errors import AssetError, ConfigError

ASSETS = Path(__file__).parent / "assets"
POLICY_FILES = ("config.json", "model.safetensors")


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


def policy_path(name_or_folder: str | Path) -> Path:
    """Find a policy: a bundled name, a policy folder, a checkpoint, or a run folder.

    A folder on disk is written with a separator or must not share its name with a bundled policy
    (``./nano`` is always the folder). Of a pretraining run the best policy is taken, of a
    fine-tuning run the averaged weights (``policy``) of the latest checkpoint.

    Raises:
        ConfigError: If nothing of that name exists, or the folder holds no policy.
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
    close = get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"no policy {text!r}: not a folder, and not bundled; {hint}"
        f"bundled policies: {', '.join(names) or 'none'}"
    )


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
