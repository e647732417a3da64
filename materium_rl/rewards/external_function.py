"""A plain function of a list of structures as a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import create_model

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Result, Reward
from materium_rl.rewards.expression import RESERVED_OPTIONS
from materium_rl.rewards.shaping import Identity, Shaping

if TYPE_CHECKING:
    from pymatgen.core import Structure


class FunctionReward(Reward):
    """Calls ``function(structures, **options)``; made by :func:`reward_from_function`."""

    function: ClassVar[Callable[..., Any]]
    curve: ClassVar[Shaping] = Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Return what the function returned; plain numbers are accepted by the scorer as values."""
        options = {name: getattr(self, name) for name in type(self).model_fields}
        results: list[Result] = type(self).function(list(structures), **options)
        return results

    def shaping(self) -> Shaping:
        """The function's ``shaping`` attribute; without one its values must already be scores."""
        return type(self).curve


def reward_from_function(function: Callable[..., Any]) -> type[FunctionReward]:
    """Make a reward class of a function.

    Args:
        function: ``function(structures, *, option=default, ...) -> list`` with one number,
            ``Measurement``, ``Invalid`` or ``Failure`` per structure. Its keyword-only parameters
            become the reward's options. Attributes ``shaping`` (a curve), ``unit``,
            ``citation``, ``version`` and ``cacheable`` on the function are taken over.

    Raises:
        RewardError: If the signature is a different one.
    """
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    if len(positional) != 1 or len(positional) + len(options) != len(parameters):
        raise RewardError(
            f"{function.__name__}{inspect.signature(function)} cannot be a reward: expected one argument, "
            "the list of structures, and keyword-only options, as in hardness(structures, *, target=30.0)"
        )
    refuse_reserved([p.name for p in options], f"{function.__name__} cannot be a reward: it")
    fields: dict[str, Any] = {
        p.name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for p in options
    }
    made = create_model(function.__name__, __base__=FunctionReward, __module__=function.__module__, **fields)
    try:  # only now, and for the options alone: the structures' type may be a name for type checkers
        made.model_rebuild()
    except NameError as error:
        raise RewardError(f"{function.__name__} cannot be a reward: an option's type: {error}") from error
    made.name = function.__name__
    made.function = staticmethod(function)
    made.curve = getattr(function, "shaping", Identity())
    made.unit = getattr(function, "unit", "")
    made.citation = getattr(function, "citation", "")
    made.version = getattr(function, "version", "")
    made.cacheable = getattr(function, "cacheable", True)
    made.__doc__ = function.__doc__
    return made


def refuse_reserved(options: Iterable[str], where: str) -> None:
    """Refuse option names that every term of an expression has.

    Raises:
        RewardError: Names the option and its owner.
    """
    for name in RESERVED_OPTIONS:
        if name in options:
            raise RewardError(
                f"{where} has an option {name!r}, but {' and '.join(RESERVED_OPTIONS)} belong to every term "
                "of an expression; rename it"
            )
