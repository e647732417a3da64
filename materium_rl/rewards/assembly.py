"""The rewards that an expression and its gates name, each built once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Reward
from materium_rl.rewards.expression import TARGET, Term, parse

SOME_TARGET = 1
"""Stands in for a target that each sample has its own of: what is measured does not depend on it."""


def assemble(
    terms: Sequence[Term], gates: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...], dict[str, Reward], dict[str, Term]]:
    """Build every reward once: weights by name, gate names, rewards by name (gates first), terms."""
    rewards: dict[str, Reward] = {}
    built: dict[str, Term] = {}
    weights: dict[str, float] = {}
    for term in terms:
        reward, term = _create(term)
        if reward.name in rewards:
            raise ConfigError(f"two rewards of the expression are called {reward.name!r}; rename one")
        rewards[reward.name], built[reward.name], weights[reward.name] = reward, term, term.weight
    if sum(weights.values()) <= 0:
        raise ConfigError("every term of the reward expression has weight 0; one must have more")
    names: list[str] = []
    for text in [] if list(gates) == ["none"] else gates:
        gate, *more = parse(text)
        if more or gate.weight != 1:
            raise ConfigError(f"a gate is one reward without a weight, found {text!r}")
        reward, term = _create(gate)
        if reward.name in names:
            raise ConfigError(f"gate {reward.name!r} is given twice")
        if reward.name not in rewards or _is_bare(built[reward.name]):
            rewards[reward.name], built[reward.name] = reward, term
        elif _differs(reward, gate, rewards[reward.name], built[reward.name]):
            raise ConfigError(
                f"{reward.name!r} is both a gate and a term, with different options; give them to one only"
            )
        names.append(reward.name)
    order = [*names, *(name for name in rewards if name not in names)]
    return weights, tuple(names), {name: rewards[name] for name in order}, built


def _differs(reward: Reward, gate: Term, other: Reward, term: Term) -> bool:
    """Whether a gate asks for something else than the term of the same reward; a bare name does not."""
    if _is_bare(gate):
        return False
    asked = (reward.model_dump(), gate.curve, gate.risk, gate.prompted)
    return asked != (other.model_dump(), term.curve, term.risk, term.prompted)


def _is_bare(term: Term) -> bool:
    """Whether a term is a name only; as gate and term, it stands for whatever the other one asks for."""
    return not term.options and term.curve is None and not term.risk


def _create(term: Term) -> tuple[Reward, Term]:
    """Build a term's reward; a file is named by its full path, as workers may run elsewhere."""
    path, separator, attribute = term.name.rpartition(":")
    if separator:
        term = replace(term, name=f"{Path(path).expanduser().resolve()}:{attribute}")
    if term.prompted and not registry.find(term.name).prompted_by:
        usable = [info.name for info in registry.available() if not info.error]
        able = [name for name in usable if registry.find(name).prompted_by]
        raise ConfigError(
            f"{term.name}(target=prompt): no prompt says what this reward wants; it can be the target of "
            f"{', '.join(able)}"
        )
    asked = measured(term)
    return registry.create(asked.name, asked.options), term


def measured(term: Term) -> Term:
    """The term as it is measured, whatever its samples are asked for."""
    return replace(term, options={**term.options, TARGET: SOME_TARGET}) if term.prompted else term
