"""What a measurement depends on beside the structure, as one digest.

The reward's name and options, the files that an option names, its declared version, the source code of its
package or file, and the source, bundled data and library versions of this package. An edited plugin, an
updated library or a changed model file gives another digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import materium_rl
from materium_rl.rewards import registry
from materium_rl.rewards.base import Reward

_DISTRIBUTION = "materium-rl"
_SOURCES = ("*.py", "*.json")
"""Of a package; ``assets/MANIFEST.json`` stands for all bundled data with their checksums."""


def of_reward(reward: Reward) -> bytes | None:
    """Digest of everything that the values of a reward depend on; None if its source is not known."""
    source = source_digest(type(reward).__module__)
    if source is None:
        return None
    options = reward.model_dump_json(fallback=repr)
    named = list(_named_files(reward.model_dump()))
    return _digest([reward.name, type(reward).__qualname__, options, named, reward.version, source])


def of_work(name: str, function: Callable[..., Any]) -> bytes | None:
    """The same of shared work."""
    source = source_digest(function.__module__)
    return None if source is None else _digest([name, function.__qualname__, source])


def _digest(parts: list[Any]) -> bytes:
    text = json.dumps([*parts, environment()])
    return hashlib.sha256(text.encode()).digest()


@cache
def environment() -> str:
    """Source of this package, and versions of the libraries that it names."""
    names = {re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requires(_DISTRIBUTION) or ()}
    versions = {name: found for name in sorted(names) if (found := _version(name))}
    return json.dumps([source_digest(materium_rl.__name__), versions])


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def source_digest(module_name: str) -> str | None:
    """Digest of the sources of a module's whole package, or of the one file that it is."""
    return registry.plugin_digest(module_name) or _installed_digest(module_name)


@cache
def _installed_digest(module_name: str) -> str | None:
    package, module = sys.modules[module_name.partition(".")[0]], sys.modules[module_name]
    if getattr(package, "__file__", None) and hasattr(package, "__path__"):
        folder = Path(str(package.__file__)).parent
        files = sorted({path for pattern in _SOURCES for path in folder.rglob(pattern)})
    elif getattr(module, "__file__", None):
        folder, files = Path(str(module.__file__)).parent, [Path(str(module.__file__))]
    else:
        return None
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _named_files(value: object) -> Iterator[list[Any]]:
    """Size and time of each file that the options name; of a folder those of its entries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _named_files(item)
    if isinstance(value, str | Path) and str(value):
        try:
            path = Path(value).expanduser()
            entries = sorted(path.iterdir()) if path.is_dir() else [path]
            for entry in entries:
                status = entry.stat()
                yield [entry.name, status.st_size, status.st_mtime_ns]
        except (OSError, ValueError, RuntimeError):  # most texts name no file
            return
