"""Prompts of a policy: drawn, and as the tensors that the policy takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from pydantic import ValidationError
from pymatgen.core import Composition
from torch import Tensor

from materium_rl.composition import CompositionRules
from materium_rl.conditions import NUMBERS, Conditions, crystal_system
from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError
from materium_rl.policies.conditioning import ConditionBatch
from materium_rl.policies.loading import Policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.prompts import Prompt, PromptsConfig
from materium_rl.resources import training_index
from materium_rl.rewards.reference_arrays import Composed, read_composed

TRIES = 100
"""Draws until one can be met; for example two elements cannot be written with one site."""


class Asked(TypedDict):
    """Keywords of ``sample`` and ``token_scores``."""

    rules: CompositionRules | None
    conditions: ConditionBatch | None


@dataclass(frozen=True)
class PromptTensors:
    """What B sequences are asked for; None where nothing is.

    Args:
        rules: Constraints on their compositions.
        conditions: Conditions.
    """

    rules: CompositionRules | None = None
    conditions: ConditionBatch | None = None

    def at(self, rows: Tensor | slice) -> PromptTensors:
        """Of some of the sequences."""
        return PromptTensors(self.rules and self.rules.at(rows), self.conditions and self.conditions.at(rows))

    @property
    def keywords(self) -> Asked:
        """For ``sample`` and ``token_scores``."""
        return {"rules": self.rules, "conditions": self.conditions}


UNPROMPTED = PromptTensors()


def prompt_tensors(model: CrystalForCausalLM, prompts: Sequence[Prompt]) -> PromptTensors:
    """Tensors of the prompts of B sequences, on the device of the policy.

    Raises:
        ConfigError: The policy has not learnt a condition, or cannot meet a constraint.
    """
    rules = conditions = None
    constraints = {c.model_dump_json(): c for c in (p.constraints for p in prompts)}
    if any(c.request() for c in constraints.values()):
        order = {text: i for i, text in enumerate(constraints)}
        row = torch.tensor([order[p.constraints.model_dump_json()] for p in prompts], device=model.device)
        rules = model.grammar.rules(list(constraints.values()), row=row)
    told = [p.told(model.config.condition_statistics or {}) for p in prompts]
    if any(c.given() for c in told):
        conditions = model.encode_conditions(told)
    return PromptTensors(rules, conditions)


class PromptSource:
    """Draws prompts that a policy can meet.

    Args:
        config: What to ask for.
        policy: The policy.
        name: Its name or folder, beside which its training structures are found.

    Raises:
        ConfigError: The policy has not learnt a condition, cannot meet any constraint, or has no training
            values to draw from.
    """

    def __init__(self, config: PromptsConfig, policy: Policy, name: str) -> None:
        self.config, self.model, self.name = config, policy.model, name
        self._statistics = policy.model.config.condition_statistics or {}
        if config.enabled:
            self.draw(1, seed=0, stream=0)

    def draw(self, n: int, *, seed: int, stream: int) -> list[Prompt]:
        """The n prompts of (seed, stream)."""
        rng = np.random.default_rng((seed, 4, stream))
        return [self._possible(rng) for _ in range(n)]

    def draw_repeated(self, n: int, *, seed: int, stream: int, repeats: int) -> list[Prompt]:
        """Prompts of n sequences, ``repeats`` neighbours sharing one; empty if nothing is asked for."""
        if not self.config.enabled:
            return []
        drawn = self.draw(-(-n // repeats), seed=seed, stream=stream)
        return [prompt for prompt in drawn for _ in range(repeats)][:n]

    def _possible(self, rng: np.random.Generator) -> Prompt:
        """The first prompt that can be met."""
        problem = ""
        for _ in range(TRIES):
            try:
                prompt = self._drawn(rng)
                prompt_tensors(self.model, [prompt])
            except ValidationError as error:
                problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            except ConfigError as error:
                problem = str(error)
            else:
                return prompt
        raise ConfigError(f"prompts: none of {TRIES} draws can be met by {self.name}; the last: {problem}")

    def _drawn(self, rng: np.random.Generator) -> Prompt:
        """One draw; what is drawn from the training structures comes from one of them."""
        wanted: dict[str, Any] = self.config.constraints.given()
        asked = [*self.config.conditions.items(), *wanted.items()]
        rows = any(values == "training" and name not in NUMBERS for name, values in asked)
        example = _values_of(self._training[int(rng.integers(len(self._training)))]) if rows else {}
        places: dict[str, int] = {}  # what is both condition and constraint is one draw
        for name, values in asked:
            if values != "training" and name not in places:
                places[name] = int(rng.integers(len(values)))

        def choice(name: str, values: Any) -> Any:
            if values != "training":
                return values[places[name]]
            return self._number(name, rng) if name in NUMBERS else example[name]

        conditions = {name: choice(name, values) for name, values in self.config.conditions.items()}
        limits = {name: choice(name, values) for name, values in wanted.items()}
        if "chemical_system" in limits:
            limits["allowed"] = limits["required"] = limits.pop("chemical_system")
        return Prompt(Conditions(**conditions), Constraints(**limits))

    def _number(self, name: str, rng: np.random.Generator) -> float:
        """A number as the training values are distributed.

        By their quantiles; a policy that does not keep them is asked for those of a normal distribution of
        the same mean and spread, of the logarithm where that is what the policy sees.
        """
        if name not in self._statistics:
            self.model.encode_conditions([Conditions(**{name: 1.0})])  # says what the policy knows
        known = self._statistics[name]
        if quantiles := known.get("quantiles"):
            value = float(np.interp(rng.random(), np.linspace(0, 1, len(quantiles)), quantiles))
        else:
            value = float(rng.normal(known["mean"], known["std"]))
            value = float(np.exp(value)) if NUMBERS[name].logarithmic else value
        return float(np.clip(value, known["low"], known["high"]))

    @cached_property
    def _training(self) -> list[Composed]:
        """Training structures that the policy can write."""
        layout = self.model.config.layout()
        elements = set(layout.species_element)
        rows = [row for row in read_composed(_index(self.name)) if row.n_sites <= layout.max_sites]
        writable = {f for f in {row.formula for row in rows} if elements >= set(Composition(f).as_dict())}
        if not (usable := [row for row in rows if row.formula in writable]):
            raise ConfigError(f"prompts: {self.name} can write none of its training structures; give values")
        return usable


def _values_of(row: Composed) -> dict[str, Any]:
    """What may be asked for of a training structure, by name of condition or constraint."""
    elements = tuple(sorted(Composition(row.formula).as_dict()))
    return {
        "formula": row.formula,
        "chemical_system": elements,
        "n_sites": row.n_sites,
        "n_elements": len(elements),
        "space_group": row.space_group,
        "crystal_system": crystal_system(row.space_group),
    }


def _index(policy: str) -> Path:
    """Index of the training structures of a policy."""
    try:
        return training_index(policy)
    except ConfigError as error:
        raise ConfigError(
            f"prompts: {error}; or give values in place of training, such as n_sites: [4, 8]"
        ) from None
