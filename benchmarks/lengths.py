"""Policies for speed measurements, and the lengths of the training structures, whatever the weights.

Random weights write about as many sites as the grammar allows, so the number of sites of every row is given
as a constraint.
"""

from __future__ import annotations

import numpy as np
import torch
from pymatgen.core import Element
from torch import Tensor

from materium_rl.composition import CompositionRules
from materium_rl.config import PretrainConfig, load_config
from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError, PolicyError
from materium_rl.policies.loading import build_model, load_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.tokenizer import TokenizerSettings

SITES = (
    *(9, 331, 367, 2442, 828, 1441, 361, 1394, 598, 1111),
    *(268, 1704, 330, 925, 218, 1122, 160, 905, 151, 1325),
)
"""Training structures of ``nano`` with 1, 2, ..., 20 sites in the primitive cell; 10.3 in the mean."""


def sites_like_training(n: int) -> Tensor:
    """Numbers of sites of n structures, (n,): the quantiles of ``SITES`` in a fixed random order."""
    cumulative = np.cumsum(SITES) / sum(SITES)
    quantiles = np.searchsorted(cumulative, (np.arange(n) + 0.5) / n) + 1
    return torch.from_numpy(np.random.default_rng(0).permutation(quantiles))


def rules_for(model: CrystalForCausalLM, sites: Tensor) -> CompositionRules:
    """Rules that hold each row to its number of sites (N,)."""
    constraints = [Constraints(n_sites=(n, n)) for n in range(1, len(SITES) + 1)]
    return model.grammar.rules(constraints, row=sites - 1)


def preset_config(name: str) -> PretrainConfig:
    """The preset ``pretrain_<name>``."""
    return load_config(PretrainConfig, [f"pretrain_{name}"], {"data": "unused"})


def random_policy(name: str) -> CrystalForCausalLM:
    """A policy of a preset's size with random weights."""
    torch.manual_seed(0)
    species = tuple(Element.from_Z(z).symbol for z in range(1, 95) if z not in (85, 86, 87))
    return build_model(TokenizerSettings(species=species), preset_config(name).model)


def preset_policy(name: str) -> tuple[CrystalForCausalLM, str]:
    """A policy of a preset's size, ready for inference, and where its weights are from."""
    try:
        return load_policy(name).model, "bundled weights"
    except (ConfigError, PolicyError):  # none of that name, or one of another version
        return random_policy(name).eval(), "random weights"
