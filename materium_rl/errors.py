"""Exceptions that a user may see.

Every message says what happened, where, what was expected, and what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MateriumError(Exception):
    """Base of every error that materium_rl raises on purpose (exit code 1)."""


class ConfigError(MateriumError):
    """A wrong option, config key, preset, reward expression or path (exit code 2)."""


class StructureFileError(MateriumError):
    """A structure file that cannot be read or holds something else than expected (exit code 2)."""


class TokenizationError(MateriumError):
    """A structure that the tokenizer cannot write; names the value and the limit."""


class PolicyError(MateriumError):
    """A policy folder that is incomplete, damaged or of another tokenizer version (exit code 2)."""


class RewardError(MateriumError):
    """A reward that cannot be found, built or run."""


class AssetError(MateriumError):
    """A bundled asset that is missing or whose checksum differs."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the known name nearest to an unknown one, empty if none is near."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
