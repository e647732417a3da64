"""What a measurement depends on beside the structure, as one digest.

The reward's name and options, the files and Python packages that an option names, its declared version,
the source code of its package or file, and the source, bundled data and library versions of this package.
An edited plugin, an updated library or a changed model file gives another digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import materium_rl
from materium_rl.rewards import registry
from materium_rl.rewards.base import Reward

_DISTRIBUTION = "materium-rl"
_SOURCES = ("*.py", "*.json")
"""Of a package; ``assets/MANIFEST.json`` stands for all bundled data with their checksums."""
_SEPARATORS = re.compile(r"[\s:=,;]+")
_FACTORY = re.compile(r"[\w.]+:\w+")
"""An import path, as in ``stability(calculator="package.module:factory")``."""


def of_reward(reward: Reward) -> bytes | None:
    """Digest of everything that the values of a reward depend on; None if its source is not known."""
    source = source_digest(type(reward).__module__)
    if source is None:
        return None
    options = reward.model_dump_json(fallback=repr)
    named = list(_named(reward.model_dump()))
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
    root = module_name.partition(".")[0]
    try:
        spec = find_spec(root)
        if spec is not None and not spec.origin:  # a namespace package: its parts belong to several owners
            spec = find_spec(module_name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return None
    file = Path(spec.origin)
    patterns = _SOURCES if spec.submodule_search_locations else (file.name,)
    files = sorted({path for pattern in patterns for path in file.parent.rglob(pattern)})
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(file.parent)} {content}\n".encode())
    return digest.hexdigest()


def _named(value: object) -> Iterator[object]:
    """What texts among the options, or words in them, stand for: files and importable packages."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _named(item)
    elif isinstance(value, str | Path):
        text = str(value)
        for word in dict.fromkeys([text, *_SEPARATORS.split(text)]):
            yield from _entries(word)
        if _FACTORY.fullmatch(text):
            yield _installed_digest(text.partition(":")[0])


def _entries(word: str) -> Iterator[list[Any]]:
    """Size and time of a file; of a folder those of its entries; nothing for any other word."""
    try:
        path = Path(word).expanduser()
        entries = sorted(path.iterdir()) if word and path.is_dir() else [path]
        for entry in entries if word else []:
            status = entry.stat()
            yield [entry.name, status.st_size, status.st_mtime_ns]
    except (OSError, ValueError, RuntimeError):  # most words name no file
        return
