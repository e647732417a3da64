"""Find rewards by name: entry points, plugin files and ``file.py:Class``.

Built-in rewards are found through the same entry point group as those of other packages.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards.base import Reward
from materium_rl.rewards.expression import FIRST_OPTION
from materium_rl.rewards.external_function import refuse_reserved, reward_from_function

GROUP = "materium_rl.rewards"

_FROM_FILES: dict[str, type[Reward]] = {}
_MODULES: dict[Path, ModuleType] = {}
_DIGESTS: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class RewardInfo:
    """One line of the catalogue.

    Args:
        source: Distribution and version, or plugin file.
        error: Why it cannot be used; empty for a working reward.
    """

    name: str
    unit: str = ""
    scope: str = ""
    requires: tuple[str, ...] = ()
    source: str = ""
    error: str = ""


def available() -> list[RewardInfo]:
    """List every reward known by name; a broken one, and a broken distribution (as ?), with its error."""
    found = []
    for name in sorted({*_by_name(), *_FROM_FILES}):
        try:
            reward = find(name)
        except RewardError as error:
            found.append(RewardInfo(name, source=_sources(name), error=str(error)))
        else:
            found.append(RewardInfo(name, reward.unit, reward.scope, reward.requires, _sources(name)))
    found += [
        RewardInfo("?", source=name, error=error) for name, error in _installed(tuple(sys.path))[1].items()
    ]
    return found


def find(name: str) -> type[Reward]:
    """Return the reward class called ``name`` (or at ``file.py:Class`` / ``file.py:function``).

    Raises:
        ConfigError: No such reward, file or attribute.
        RewardError: The reward exists but its module or distribution is broken, or two
            distributions claim the name.
    """
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(Path(path), attribute)
    points = _by_name().get(name, [])
    if len(points) + (name in _FROM_FILES) > 1:
        raise RewardError(
            f"reward {name!r} is claimed more than once ({_sources(name)}); "
            "uninstall or rename one, or use file.py:Class"
        )
    if name in _FROM_FILES:
        return _FROM_FILES[name]
    if points:
        return _load(points[0])
    broken = "".join(f"; {error}" for error in _installed(tuple(sys.path))[1].values())
    raise ConfigError(unknown("reward", name, [*_by_name(), *_FROM_FILES]) + broken)


def create(name: str, options: dict[str, Any]) -> Reward:
    """Build a reward with its options.

    Raises:
        ConfigError: An unknown option or a wrong value.
    """
    reward = find(name)
    options = named(reward, options)
    try:
        return reward(**options)
    except ValidationError as error:
        problems = "; ".join(_problem(reward, item) for item in error.errors())
        raise ConfigError(f"reward {name!r}: {problems}") from None


def source(name: str) -> str:
    """Where a reward comes from: distribution and version, or file."""
    return name.rpartition(":")[0] if ".py:" in name else _sources(name)


def options_of(reward: type[Reward]) -> dict[str, FieldInfo]:
    """The fields of a reward by the names under which they are written as options, in their order."""
    return {field.alias or name: field for name, field in reward.model_fields.items()}


def named(reward: type[Reward], options: dict[str, Any]) -> dict[str, Any]:
    """Options of which the one without a name has got that of the first option.

    Raises:
        ConfigError: There is none, or it is given by name as well.
    """
    if FIRST_OPTION not in options:
        return options
    given = options[FIRST_OPTION]
    names = list(options_of(reward))
    if not names:
        raise ConfigError(f"reward {reward.name!r} has no options, found {given!r}")
    if names[0] in options:
        raise ConfigError(f"reward {reward.name!r}: option {names[0]!r} is given twice")
    return {names[0]: given, **{key: value for key, value in options.items() if key != FIRST_OPTION}}


def load_plugin(path: str | Path) -> list[str]:
    """Register every reward class defined in a file.

    Returns:
        The names registered.

    Raises:
        ConfigError: The file does not exist.
        RewardError: It cannot be imported, defines no reward, or takes a name already in use.
    """
    module = _module(Path(path))
    classes = {
        value.name: value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Reward)
        and value.__module__ == module.__name__
        and isinstance(getattr(value, "name", None), str)
    }
    if not classes:
        raise RewardError(
            f"plugin {path} defines no reward: expected a subclass of materium_rl.rewards.base.Reward "
            "with a name; a plain function is used as file.py:function"
        )
    for name, value in classes.items():
        taken = name in _by_name() or _FROM_FILES.get(name, value) is not value
        if taken:
            raise RewardError(f"plugin {path}: reward {name!r} is already provided by {_sources(name)}")
    for name, value in classes.items():
        _FROM_FILES[name] = _checked(value, f"plugin {path}")
    return list(classes)


def plugin_digest(module_name: str) -> str | None:
    """SHA-256 of a plugin file as it was when it was imported; None for other modules."""
    return _DIGESTS.get(module_name)


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Say that ``name`` is unknown, with close matches and the full list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known)) or 'none'}"


def _by_name() -> dict[str, list[EntryPoint]]:
    """Entry points by reward name; the same one seen through two paths counts once."""
    grouped: dict[str, dict[tuple[str, str], EntryPoint]] = defaultdict(dict)
    for point in _installed(tuple(sys.path))[0]:
        grouped[point.name].setdefault((_distribution(point), point.value), point)
    return {name: list(points.values()) for name, points in grouped.items()}


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[list[EntryPoint], dict[str, str]]:
    """Entry points of the distributions on an import path, and what is wrong where they cannot be read.

    Read once, as it takes tens of milliseconds: what is installed later is found by the next process. Of
    several copies of a distribution the first on the path counts, as it does for an import.
    """
    points: list[EntryPoint] = []
    unreadable: dict[str, str] = {}
    seen: set[str] = set()
    for distribution in distributions(path=list(path)):
        try:
            found = distribution.entry_points.select(group=GROUP)
            name = distribution.name if found else ""
        except Exception as error:  # noqa: BLE001 (whatever a damaged file makes the parser raise)
            folder = str(getattr(distribution, "_path", distribution))
            unreadable[Path(folder).name] = (
                f"the distribution in {folder} has an entry_points.txt that cannot be read: "
                f"{type(error).__name__}: {error}; reinstall it"
            )
            continue
        if found and name not in seen:
            seen.add(name)
            points += found
    return points, unreadable


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _sources(name: str) -> str:
    sources = [_distribution(point) for point in _by_name().get(name, [])]
    if name in _FROM_FILES:
        sources.append(str(sys.modules[_FROM_FILES[name].__module__].__file__))
    return ", ".join(sources)


def _load(point: EntryPoint) -> type[Reward]:
    where = f"reward {point.name!r} of {_distribution(point)} ({point.value})"
    try:
        value = point.load()
    except (Exception, SystemExit) as error:
        raise RewardError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    reward = _checked(value, where)
    if reward.name != point.name:
        raise RewardError(f"{where}: the class calls itself {reward.name!r}; the two names must be equal")
    return reward


def _from_file(path: Path, attribute: str) -> type[Reward]:
    module = _module(path)
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if _is_candidate(value, module)]
        raise ConfigError(unknown(f"reward in {path}:", attribute, known))
    value = getattr(module, attribute)
    if inspect.isfunction(value):
        return _wrapped(value)
    return _checked(value, f"{path}:{attribute}")


@cache
def _wrapped(function: Any) -> type[Reward]:
    return reward_from_function(function)


def _is_candidate(value: object, module: ModuleType) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


def _checked(value: object, where: str) -> type[Reward]:
    if not (inspect.isclass(value) and issubclass(value, Reward)):
        raise RewardError(f"{where} is not a subclass of materium_rl.rewards.base.Reward: {value!r}")
    missing = [name for name in ("measure", "shaping") if getattr(value, name) is getattr(Reward, name)]
    if not isinstance(getattr(value, "name", None), str):
        missing.insert(0, "name")
    if missing:
        raise RewardError(f"{where} lacks {', '.join(missing)}")
    refuse_reserved(options_of(value), where)
    return value


def _module(path: Path) -> ModuleType:
    """Import a file once per process, under a name made from its full path."""
    path = path.expanduser().resolve()
    if path in _MODULES:
        return _MODULES[path]
    if not path.is_file():
        raise ConfigError(f"reward file {path} does not exist")
    name = f"materium_rl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"reward file {path} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sys.modules[name] = module  # before it runs: dataclasses and pydantic look the module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RewardError(
            f"reward file {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    _MODULES[path], _DIGESTS[name] = module, digest
    return module


def _problem(reward: type[Reward], item: Any) -> str:
    option = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return unknown("option", option, list(options_of(reward)))
    if item["type"] == "missing":
        return f"option {option!r} is required"
    if not item["loc"]:  # the options contradict each other, or more are needed
        return str(item["msg"]).removeprefix("Value error, ")
    return f"option {option!r} = {item['input']!r}: {item['msg']}"
