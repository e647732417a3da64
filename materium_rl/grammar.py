"""Which tokens may follow: one state machine, used by the model, the sampler and the tests.

A sequence is ``[SOS] [ATOMS] (species x y z)+ [LATTICE] a b c alpha beta gamma [EOS] [PAD]*``.
The states are ``START, ATOMS``, then for each site ``species-or-lattice, x, y, z``, then one state
per lattice number, ``END`` and ``DONE``. The number of sites is part of the state, so limits on it
are exact. The last angle also depends on the two before it: only values that close a cell of
positive volume are allowed. Hence every completion decodes to a structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

MIN_VOLUME_FACTOR = 0.05
"""Smallest sqrt(1 - cos² α - cos² β - cos² γ + 2 cos α cos β cos γ) of a cell that may be written."""


class TokenClass(IntEnum):
    """Classes of tokens, in the order of their id ranges."""

    PAD = 0
    SOS = 1
    ATOMS = 2
    LATTICE = 3
    EOS = 4
    SPECIES = 5
    COORDINATE = 6
    LENGTH = 7
    ANGLE = 8


@dataclass(frozen=True)
class TokenLayout:
    """Sizes of the id ranges and the numbers that their tokens stand for.

    Args:
        n_species: Number of species tokens.
        grid: Points of the periodic coordinate grid.
        length_min: Smallest length token in Å.
        length_step: Step of the length tokens in Å.
        n_lengths: Number of length tokens.
        angle_min: Smallest angle token in degrees.
        angle_step: Step of the angle tokens in degrees.
        n_angles: Number of angle tokens.
        max_sites: Largest number of sites.
    """

    n_species: int
    grid: int
    length_min: float
    length_step: float
    n_lengths: int
    angle_min: float
    angle_step: float
    n_angles: int
    max_sites: int

    @property
    def species_start(self) -> int:
        """Id of the first species token."""
        return int(TokenClass.SPECIES)

    @property
    def coordinate_start(self) -> int:
        """Id of coordinate 0."""
        return self.species_start + self.n_species

    @property
    def length_start(self) -> int:
        """Id of the smallest length."""
        return self.coordinate_start + self.grid

    @property
    def angle_start(self) -> int:
        """Id of the smallest angle."""
        return self.length_start + self.n_lengths

    @property
    def vocab_size(self) -> int:
        """Number of token ids V."""
        return self.angle_start + self.n_angles

    @property
    def max_completion_length(self) -> int:
        """Tokens after the prompt ``[SOS] [ATOMS]`` at the largest number of sites."""
        return 4 * self.max_sites + 8

    def token_classes(self) -> Tensor:
        """Class of every token id, shape (V,)."""
        classes = torch.arange(self.vocab_size)
        classes[self.species_start : self.coordinate_start] = TokenClass.SPECIES
        classes[self.coordinate_start : self.length_start] = TokenClass.COORDINATE
        classes[self.length_start : self.angle_start] = TokenClass.LENGTH
        classes[self.angle_start :] = TokenClass.ANGLE
        return classes


class Group(IntEnum):
    """What is written next; each group draws from one contiguous range of token ids."""

    FORCED = 0
    SITE = 1
    COORDINATE = 2
    LENGTH = 3
    ANGLE = 4


class Slot(IntEnum):
    """Finer than ``Group``: the place in the sequence that is written next."""

    START = 0
    ATOMS = 1
    SITE = 2
    X = 3
    Y = 4
    Z = 5
    A = 6
    B = 7
    C = 8
    ALPHA = 9
    BETA = 10
    GAMMA = 11
    END = 12
    DONE = 13


class Grammar:
    """The state machine of one token layout.

    A grammar state is a triple ``(state, first angle, second angle)``; the two angles are token
    offsets and count only in the state before the last angle.
    """

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        self.n_states = 2 + 4 * (layout.max_sites + 1) + 8
        self.site_zero = 2
        self.first_length = self.site_zero + 4 * (layout.max_sites + 1)
        self.last_angle = self.first_length + 5
        self.end = self.first_length + 6
        self.done = self.first_length + 7
        self.next_state, allowed_classes = self._tables()
        self.token_class = layout.token_classes()
        self.allowed = allowed_classes[:, self.token_class]
        self.slot = self._slots()
        groups = [Group.FORCED] * 2 + [Group.SITE] + [Group.COORDINATE] * 3 + [Group.LENGTH] * 3
        self.group = torch.tensor(groups + [Group.ANGLE] * 3 + [Group.FORCED] * 2)[self.slot]
        self.forced_token = self.allowed.long().argmax(dim=1)
        angles = layout.angle_min + layout.angle_step * torch.arange(layout.n_angles, dtype=torch.float64)
        self.cosines = torch.cos(torch.deg2rad(angles))

    def _tables(self) -> tuple[Tensor, Tensor]:
        next_state = torch.full((self.n_states, len(TokenClass)), self.done, dtype=torch.long)
        allowed = torch.zeros((self.n_states, len(TokenClass)), dtype=torch.bool)

        def edge(state: int, token_class: TokenClass, target: int) -> None:
            next_state[state, token_class] = target
            allowed[state, token_class] = True

        edge(0, TokenClass.SOS, 1)
        edge(1, TokenClass.ATOMS, self.site_zero)
        for n in range(self.layout.max_sites + 1):
            here = self.site_zero + 4 * n
            if n > 0:
                edge(here, TokenClass.LATTICE, self.first_length)
            if n < self.layout.max_sites:
                edge(here, TokenClass.SPECIES, here + 1)
                for axis in range(3):
                    edge(here + 1 + axis, TokenClass.COORDINATE, here + 2 + axis)
        for number in range(6):
            token_class = TokenClass.LENGTH if number < 3 else TokenClass.ANGLE
            edge(self.first_length + number, token_class, self.first_length + number + 1)
        edge(self.end, TokenClass.EOS, self.done)
        edge(self.done, TokenClass.PAD, self.done)
        return next_state, allowed

    def _slots(self) -> Tensor:
        sites = torch.tensor([Slot.SITE, Slot.X, Slot.Y, Slot.Z]).repeat(self.layout.max_sites + 1)
        lattice = torch.arange(Slot.A, Slot.DONE + 1)
        return torch.cat([torch.tensor([Slot.START, Slot.ATOMS]), sites, lattice])

    def token_range(self, group: Group) -> tuple[int, int]:
        """First id and one past the last id that a group draws from."""
        layout = self.layout
        return {
            Group.SITE: (int(TokenClass.LATTICE), layout.coordinate_start),
            Group.COORDINATE: (layout.coordinate_start, layout.length_start),
            Group.LENGTH: (layout.length_start, layout.angle_start),
            Group.ANGLE: (layout.angle_start, layout.vocab_size),
        }[group]

    def group_mask(self, states: Tensor, group: Group) -> Tensor:
        """``mask`` restricted to the range of a group: (R, 3), all of that group -> bool (R, range)."""
        low, high = self.token_range(group)
        allowed = self.allowed[states[:, 0], low:high]
        if group is Group.ANGLE:
            last = states[:, 0] == self.last_angle
            allowed[last] = self._closing_angles(states[last, 1], states[last, 2])
        return allowed

    def to(self, device: torch.device) -> Grammar:
        """Move the tables to ``device``."""
        for name in ("next_state", "token_class", "allowed", "slot", "group", "forced_token", "cosines"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def start(self, batch: int, device: torch.device | None = None) -> Tensor:
        """State before the first token, shape (batch, 3)."""
        return torch.zeros((batch, 3), dtype=torch.long, device=device)

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        """Read one token per row: (B, 3) and (B,) -> (B, 3)."""
        following = self.next_state[state[:, 0], self.token_class[tokens]]
        offset = tokens - self.layout.angle_start
        first = torch.where(state[:, 0] == self.last_angle - 2, offset, state[:, 1])
        second = torch.where(state[:, 0] == self.last_angle - 1, offset, state[:, 2])
        return torch.stack([following, first, second], dim=1)

    def scan(self, tokens: Tensor) -> Tensor:
        """States after each token of whole sequences: (B, T) -> (B, T, 3)."""
        state = self.start(tokens.shape[0], tokens.device)
        states = []
        for column in tokens.unbind(dim=1):
            state = self.advance(state, column)
            states.append(state)
        return torch.stack(states, dim=1)

    def mask(self, states: Tensor) -> Tensor:
        """Tokens that may follow: (..., 3) -> bool (..., V)."""
        allowed = self.allowed[states[..., 0]]
        last = states[..., 0] == self.last_angle
        if bool(last.any()):
            rows = states[last]
            shape = (rows.shape[0], self.layout.vocab_size)
            closing = torch.zeros(shape, dtype=torch.bool, device=rows.device)
            closing[:, self.layout.angle_start :] = self._closing_angles(rows[:, 1], rows[:, 2])
            allowed[last] = closing
        return allowed

    def _closing_angles(self, first: Tensor, second: Tensor) -> Tensor:
        """Last angles that give a cell of positive volume: (R,), (R,) -> bool (R, n_angles)."""
        a, b = self.cosines[first][:, None], self.cosines[second][:, None]
        c = self.cosines[None, :]
        squared = 1 - a**2 - b**2 - c**2 + 2 * a * b * c
        return squared >= MIN_VOLUME_FACTOR**2

    def accepts(self, tokens: Tensor) -> bool:
        """Whether one whole sequence (T,) from ``[SOS]`` to ``[EOS]`` follows the grammar."""
        state = self.start(1, tokens.device)
        for token in tokens.reshape(-1, 1).unbind(0):
            if not bool(self.mask(state)[0, token]):
                return False
            state = self.advance(state, token)
        return int(state[0, 0]) == self.done
