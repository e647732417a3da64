"""How the policy sees what a sample is asked for: vectors added to the input and the output of every token.

What is asked for is also compared with what has been written so far: the atoms, elements and sites that
are still missing, and the volume that the rest of the cell must have for the density. So the policy need
not learn to count or to multiply. Without any condition the vector is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pymatgen.core import Element
from torch import Tensor, nn

from materium_rl.conditions import CONDITIONS, CRYSTAL_SYSTEMS, LAST_SPACE_GROUP, NUMBERS, Conditions
from materium_rl.constraints import formula_unit
from materium_rl.errors import ConfigError
from materium_rl.grammar import Places, Slot, lattice_index
from materium_rl.token_layout import TokenLayout

Statistics = dict[str, dict[str, Any]]
"""What is known of the training values of each condition; a number has ``mean`` and ``std`` (of the
logarithm where the policy sees that), ``low`` and ``high``, and ``quantiles`` from 0 to 1 at equal steps."""

ATOMIC_MASS = 1.66053907
"""Å3 g/cm3 per atomic mass unit (CODATA 2018)."""
WAVES = 8
GAIN = 10.0
"""Token vectors are about 0.1 in each direction, last hidden states about 1."""


@dataclass(frozen=True, eq=False)
class ConditionBatch:
    """Conditions of B sequences, for F condition names, N of them numbers, and E elements.

    Args:
        given: Which are asked for, bool (B, F).
        numbers: Numbers in standard units, fp32 (B, N); 0 where not given.
        log_density: Logarithm of the density in g/cm3, (B,).
        unit: Atoms of each element in the formula unit, (B, E).
        system: Elements of the chemical system, bool (B, E).
        n_sites: Number of sites, (B,).
        space_group: Number of the space group, (B,).
        crystal_system: Index of the crystal system, (B,).
    """

    given: Tensor
    numbers: Tensor
    log_density: Tensor
    unit: Tensor
    system: Tensor
    n_sites: Tensor
    space_group: Tensor
    crystal_system: Tensor

    def at(self, rows: Tensor | slice) -> ConditionBatch:
        """The conditions of some of the sequences: indices, a mask or a slice."""
        return ConditionBatch(**{name: value[rows] for name, value in vars(self).items()})

    def keep(self, kept: Tensor) -> ConditionBatch:
        """Only those conditions for which ``kept``, bool (B, F), holds."""
        return replace(self, given=self.given & kept)

    def to(self, device: torch.device | str) -> ConditionBatch:
        """Move all tensors."""
        return ConditionBatch(**{name: value.to(device) for name, value in vars(self).items()})


def condition_names(statistics: Collection[str]) -> list[str]:
    """Names of the conditions that a policy knows, in the order of its weights (files may change theirs)."""
    return [name for name in CONDITIONS if name in statistics]


def encode_conditions(
    conditions: Sequence[Conditions], layout: TokenLayout, statistics: Statistics
) -> ConditionBatch:
    """Tensors of the conditions of B sequences.

    Args:
        conditions: One for each sequence.
        layout: Token layout of the policy.
        statistics: Of the training values, one entry for each condition that the policy has learnt.

    Raises:
        ConfigError: The policy has not learnt a condition, or cannot write an element; says which.
    """
    names = condition_names(statistics)
    for request in dict.fromkeys(conditions):
        _check_learnt(request, names, layout)
    symbols = list(dict.fromkeys(layout.species_element))
    units = [formula_unit(c.formula) if c.formula else {} for c in conditions]
    standard = [_standard(name, statistics[name], conditions) for name in names if name in NUMBERS]
    systems = [CRYSTAL_SYSTEMS.index(c.crystal_system) if c.crystal_system else 0 for c in conditions]
    return ConditionBatch(
        given=torch.tensor([[getattr(c, name) is not None for name in names] for c in conditions]),
        numbers=torch.tensor(standard).reshape(len(standard), len(conditions)).T,
        log_density=torch.tensor([math.log(c.density or 1.0) for c in conditions]),
        unit=torch.tensor([[unit.get(symbol, 0) for symbol in symbols] for unit in units]),
        system=torch.tensor(
            [[symbol in (c.chemical_system or ()) for symbol in symbols] for c in conditions]
        ),
        n_sites=torch.tensor([c.n_sites or 0 for c in conditions]),
        space_group=torch.tensor([c.space_group or 0 for c in conditions]),
        crystal_system=torch.tensor(systems),
    )


def _standard(name: str, known: dict[str, Any], conditions: Sequence[Conditions]) -> list[float]:
    values = [getattr(c, name) for c in conditions]
    scaled = [None if v is None else math.log(v) if NUMBERS[name].logarithmic else v for v in values]
    return [0.0 if v is None else (v - known["mean"]) / known["std"] for v in scaled]


def _check_learnt(request: Conditions, names: list[str], layout: TokenLayout) -> None:
    given = request.given()
    if strange := [name for name in given if name not in names]:
        raise ConfigError(
            f"this policy has not learnt the condition {', '.join(strange)}; it knows: "
            f"{', '.join(names) or 'none (nano-conditional does; or pretrain with conditions.names)'}"
        )
    wanted = {*(request.chemical_system or ()), *(formula_unit(request.formula) if request.formula else ())}
    if unknown := sorted(wanted - set(layout.species_element)):
        raise ConfigError(f"this policy cannot write {', '.join(unknown)}, which a condition asks for")
    if request.n_sites and request.n_sites > layout.max_sites:
        raise ConfigError(f"n_sites={request.n_sites}, but this policy writes {layout.max_sites} at most")


def _fourier(values: Tensor, longest: float) -> Tensor:
    """The values and sines and cosines of them at halving wavelengths: (..., 1 + 2 * WAVES)."""
    phase = values[..., None] * (2 * math.pi / longest) * 2.0 ** torch.arange(WAVES, device=values.device)
    return torch.cat([values[..., None], phase.sin(), phase.cos()], dim=-1)


class Conditioner(nn.Module):
    """Turns conditions and what is written into vectors added to the inputs.

    Args:
        layout: Token layout of the policy.
        names: Conditions that the policy learns, in the order of ``condition_names``.
        hidden: Width of the policy.
    """

    def __init__(self, layout: TokenLayout, names: list[str], hidden: int) -> None:
        super().__init__()
        self.layout, self.names = layout, names
        self.numeric = [name for name in names if name in NUMBERS]
        self.n_elements = len(dict.fromkeys(layout.species_element))
        both = 2 * hidden  # half of it for the input, half for the output
        self.given = nn.Linear(len(self.names), both)
        self.numbers = nn.Linear(len(self.numeric) * (1 + 2 * WAVES), both, bias=False)
        self.elements = nn.Linear(5 * self.n_elements, both, bias=False)
        self.sites = nn.Embedding(layout.max_sites + 1, both)
        self.missing_sites = nn.Embedding(layout.max_sites + 1, both)
        self.space_group = nn.Embedding(LAST_SPACE_GROUP + 1, both)
        self.crystal_system = nn.Embedding(len(CRYSTAL_SYSTEMS), both)
        self.volume = nn.Linear(1 + 2 * WAVES, both, bias=False)
        self.slot = nn.Embedding(len(Slot), hidden)
        self.mixed = nn.Linear(both, hidden)
        self.outer = nn.Linear(hidden, both, bias=False)
        self._tables: tuple[Tensor, Tensor] | None = None

    def start_silent(self) -> None:
        """Let the conditions do nothing, as at the start of a training.

        The vectors of the values are added as they are, so from zero they learn as fast as a token's own; the
        network behind them adds what depends on several values and on the place.
        """
        for module in (self.given, self.numbers, self.elements, self.volume, self.outer):
            nn.init.zeros_(module.weight)
        for table in (self.sites, self.missing_sites, self.space_group, self.crystal_system):
            nn.init.zeros_(table.weight)
        nn.init.zeros_(self.given.bias)

    def forward(self, batch: ConditionBatch, ids: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Vectors for the last L tokens of sequences.

        Args:
            batch: Conditions of the B sequences.
            ids: Sequences from ``[SOS]``, (B, T).
            places: What follows each of the last L tokens, (B, L).

        Returns:
            To add to the inputs and to the last hidden states, (B, L, hidden) each; zero for sequences
            without a condition.
        """
        counts = self._counts(ids, places.slot.shape[1])
        choosing = places.slot == Slot.SITE
        x = self._constant(batch)[:, None] + self._composition(batch, counts, choosing)
        x = x + self._cell(batch, counts, ids, places)
        x = x + self.outer(nn.functional.silu(self.mixed(x) + self.slot(places.slot)))
        asked = batch.given.any(dim=1)[:, None, None]
        before, after = (x * asked.to(x.dtype)).chunk(2, dim=2)
        return before, after * GAIN

    def _elements(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Element of each token, (V,), ``n_elements`` for others; mass of each element in amu, (E,)."""
        if self._tables is None or self._tables[0].device != device:
            layout = self.layout
            symbols = list(dict.fromkeys(layout.species_element))
            with torch.inference_mode(mode=False):  # kept, so it must not be an inference tensor
                element = torch.full((layout.vocab_size,), self.n_elements)
                own = torch.tensor([symbols.index(symbol) for symbol in layout.species_element])
                element[layout.species_start : layout.coordinate_start] = own
                masses = torch.tensor([float(Element(symbol).atomic_mass) for symbol in symbols])
                self._tables = element.to(device), masses.to(device)
        return self._tables

    def _is_given(self, batch: ConditionBatch, name: str) -> Tensor:
        """Whether a condition is given, (B, 1) in the type of the weights; 0 if it was not learnt."""
        if name not in self.names:
            return torch.zeros_like(batch.log_density)[:, None]
        return batch.given[:, self.names.index(name), None].to(self.given.weight.dtype)

    def _constant(self, batch: ConditionBatch) -> Tensor:
        """What does not depend on the position: (B, hidden)."""
        dtype = self.given.weight.dtype
        shown = batch.given[:, [self.names.index(name) for name in self.numeric], None].to(dtype)
        features = _fourier(batch.numbers, 8.0).to(dtype) * shown
        x: Tensor = self.given(batch.given.to(dtype)) + self.numbers(features.flatten(1))
        x = x + self.sites(batch.n_sites) * self._is_given(batch, "n_sites")
        x = x + self.space_group(batch.space_group) * self._is_given(batch, "space_group")
        x += self.crystal_system(batch.crystal_system) * self._is_given(batch, "crystal_system")
        return x

    def _composition(self, batch: ConditionBatch, counts: Tensor, choosing: Tensor) -> Tensor:
        """Formula, chemical system and sites, and what is missing of them: (B, L, hidden)."""
        dtype = self.given.weight.dtype
        unit = (batch.unit * self._is_given(batch, "formula")).float()[:, None]  # (B, 1, E)
        system = batch.system[:, None] & (self._is_given(batch, "chemical_system") > 0)[:, None]
        units = (counts / unit.clamp(min=1) * (unit > 0)).amax(dim=2, keepdim=True).ceil().clamp(min=1)
        missing = (units * unit - counts).clamp(min=0) * choosing[..., None]
        unused = system & (counts == 0) & choosing[..., None]
        share = unit / unit.sum(dim=2, keepdim=True).clamp(min=1)
        parts = [share.expand_as(counts), system.expand_as(counts), missing > 0, missing / 4, unused]
        x: Tensor = self.elements(torch.cat([part.to(dtype) for part in parts], dim=2))
        left = batch.n_sites[:, None] - counts.sum(dim=2).long()
        shown = self._is_given(batch, "n_sites") * choosing
        x += self.missing_sites(left.clamp(min=0, max=self.layout.max_sites)) * shown[..., None]
        return x

    def _cell(self, batch: ConditionBatch, counts: Tensor, ids: Tensor, places: Places) -> Tensor:
        """Factor by which what is written of the cell must still grow for the density: (B, L, hidden)."""
        _, masses = self._elements(counts.device)
        mass = (counts * masses).sum(dim=2).clamp(min=1.0)
        volume = (ATOMIC_MASS * mass).log() - batch.log_density[:, None]
        step = places.slot - int(Slot.A)
        in_cell = (step >= 0) & (places.slot <= Slot.GAMMA)
        columns = lattice_index(ids)[:, None] + torch.arange(1, 4, device=ids.device)
        lengths = ids.gather(1, columns.clamp(max=ids.shape[1] - 1)) - self.layout.length_start
        lengths = (self.layout.length_min + self.layout.length_step * lengths).clamp(min=0.1).log()
        written = torch.arange(3, device=ids.device) < step[..., None]
        left = volume - (lengths[:, None] * written).sum(dim=2)
        shown = self._is_given(batch, "density") * in_cell
        x: Tensor = self.volume(_fourier(left, 8.0).to(shown.dtype)) * shown[..., None]
        return x

    def _counts(self, ids: Tensor, last: int) -> Tensor:
        """Atoms of each element written up to each of the last L tokens: fp32 (B, L, E)."""
        element, _ = self._elements(ids.device)
        ones = nn.functional.one_hot(element[ids], self.n_elements + 1)[..., :-1].to(torch.float32)
        begin = ids.shape[1] - last
        before = ones[:, :begin].sum(dim=1, keepdim=True)
        return before + ones[:, begin:].cumsum(dim=1)
