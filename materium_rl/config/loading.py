"""Load, override and save a config.

Precedence: defaults < config files in the order given < named options < ``--set a.b=c``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from materium_rl.config.section import Section
from materium_rl.errors import ConfigError, did_you_mean

CONFIGS = Path(__file__).parent.parent / "configs"

ConfigT = TypeVar("ConfigT", bound=Section)


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
        merge(tree, read_yaml(config_file(file)))
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
        raise ConfigError(explain(cls, error)) from None


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


def merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put one tree into another; what both have is that of the other."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"cannot set {dotted!r}: {section!r} is a value, not a section")
    tree[last] = value


def explain(cls: type[Section], error: ValidationError) -> str:
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
