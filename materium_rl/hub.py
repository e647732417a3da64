"""Policy folders on the Hugging Face Hub: download one, upload one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from materium_rl.errors import PolicyError

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Options of transformers' ``from_pretrained`` that say how a repository is downloaded."""
DOWNLOADED = ("*.json", "*.safetensors", "*.npz", "README.md")
"""What is fetched; never a pickle, which could run code."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ``owner/name``."""
    return _ID.fullmatch(text) is not None


def download_policy(repository: str, **options: Any) -> Path:
    """Fetch a repository into the Hugging Face cache, or find it there; returns the folder.

    Args:
        repository: ``owner/name``.
        **options: Those of ``HUB_OPTIONS``.

    Raises:
        PolicyError: There is no such repository, it cannot be reached, or it may not be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(DOWNLOADED), **options))
    except (HTTPError, OSError, ValueError) as error:
        raise PolicyError(
            f"no policy {repository!r}: no folder of that name here, and from the Hugging Face Hub it cannot "
            f"be had: {_reason(error)}"
        ) from error


def upload_policy(files: Mapping[str, Path | bytes], repository: str, *, private: bool = False) -> str:
    """Put files into a repository, which is created if need be, in one commit.

    Args:
        files: Name in the repository -> file or content.
        repository: ``owner/name``.
        private: Make a new repository private.

    Returns:
        Address of the repository.

    Raises:
        PolicyError: The hub refused, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    if not is_hub_id(repository):
        raise PolicyError(f"{repository!r} is no repository of the Hugging Face Hub: expected owner/name")
    operations = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Upload policy")
    except (HTTPError, OSError, ValueError) as error:
        raise PolicyError(
            f"cannot push to {repository!r} on the Hugging Face Hub: {_reason(error)}"
        ) from error
    return str(address)


def _reason(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError) and constants.is_offline_mode():
        return "the hub is switched off (HF_HUB_OFFLINE), and the cache does not hold it"
    if isinstance(error, GatedRepoError):
        return "the repository is gated; ask for access on its page, then run: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no repository of that name that you may use (a private one needs: hf auth login)"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{constants.ENDPOINT} cannot be reached, and the cache does not hold it"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
