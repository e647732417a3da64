"""Policies for speed measurements: the lengths of the training structures, whatever the weights.

Random weights write about as many sites as the grammar allows. Here the number of sites of every row is
given, and the grammar holds the policy to it; as a grammar sees tokens and not rows, the first species of
a row carries its number of sites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pymatgen.core import Element
from torch import Tensor

from materium_rl.config import PretrainConfig, load_config
from materium_rl.errors import ConfigError, PolicyError
from materium_rl.grammar import Grammar, Group
from materium_rl.policies.loading import build_model, load_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.token_layout import PROMPT_LENGTH, TokenLayout
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


class LengthGrammar(Grammar):
    """The grammar with a given number of sites in each row.

    Args:
        layout: Token layout with 20 species or more.
    """

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__(layout)
        self.wanted = torch.zeros(0, dtype=torch.long)
        earliest = torch.argsort(torch.tensor(layout.species_rank), stable=True)[: layout.max_sites]
        self.first_species = layout.species_start + earliest
        self.sites_of = torch.zeros(layout.vocab_size, dtype=torch.long)
        self.sites_of[self.first_species] = torch.arange(1, layout.max_sites + 1)

    def _sites(self, ids: Tensor, positions: Tensor, *constraints: Any) -> Tensor:
        allowed = super()._sites(ids, positions, *constraints)
        low, _ = self.token_range(Group.SITE)
        if int(positions[0]) == PROMPT_LENGTH - 1:  # every row of the batch is here
            allowed[:] = False
            allowed[torch.arange(len(ids)), self.first_species[self.wanted - 1] - low] = True
            return allowed
        complete = positions - (PROMPT_LENGTH - 1) >= self.sites_of[ids[:, PROMPT_LENGTH]]
        allowed[:, 0] = complete
        allowed[complete, 1:] = False
        return allowed


def hold_to_lengths(model: CrystalForCausalLM) -> LengthGrammar:
    """Give a policy a ``LengthGrammar``; its ``wanted`` is to be set before each batch."""
    grammar = LengthGrammar(model.config.layout())
    model._grammar = grammar
    return grammar


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
