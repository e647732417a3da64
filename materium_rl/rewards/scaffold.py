"""A first plugin: a reward that works, with a test, to be changed by its author."""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path
from string import Template

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry

TEMPLATES = files("materium_rl.rewards") / "templates"


def write_reward(name: str, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.py`` and ``test_NAME.py``.

    Args:
        name: Name of the reward: lower-case letters, digits and underscores.
        folder: Where; made if it is missing.

    Returns:
        The two files.

    Raises:
        ConfigError: A wrong or taken name, or a file that is there already.
    """
    _check_name(name)
    plugin, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (plugin, test):
        if path.exists():
            raise ConfigError(f"{path} is there already; choose another name or --folder")
    words = {"name": name, "class_name": "".join(word.capitalize() for word in name.split("_"))}
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in ((plugin, "reward.txt"), (test, "test.txt")):
        text = Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)
        path.write_text(text, encoding="utf-8")
    return plugin, test


def _check_name(name: str) -> None:
    if not name.isidentifier() or name != name.lower() or not name[0].isalpha() or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a reward: expected lower-case letters, digits and underscores, "
            "beginning with a letter, and no keyword of Python, as in shear_modulus"
        )
    try:
        registry.find(name)
    except ConfigError:
        return
    except RewardError as error:
        raise ConfigError(f"the name {name!r} is taken: {error}") from error
    raise ConfigError(f"the name {name!r} is taken by {registry.source(name)}; choose another")
