"""Which tokens may follow: one set of rules, used by the model, the sampler and the tests.

A sequence is ``[SOS] [ATOMS] species+ [LATTICE] a b c alpha beta gamma (x y z)+ [EOS] [PAD]*`` with one
coordinate triple for each species, in the same order: composition, then cell, then positions. What
stands before a token decides which may be written next, so that every completion decodes to a structure:

- species follow in the order of the sites, ``max_sites`` at most;
- lengths keep an atom and its own image apart; the last angle closes a cell of positive volume;
- z keeps the site apart from every site before it: at least ``min_distance`` times the sum of the two
  covalent radii, over all periodic images. Should x and y leave no such z, every z is allowed;
- y leaves such a z, as far as a look at ``Y_LINES`` lines can tell.

Constraints on the composition (``composition.py``) narrow the species further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from materium_rl.composition import CompositionRules, composition_rules
from materium_rl.constraints import Constraints

MIN_VOLUME_FACTOR = 0.05
"""Smallest sqrt(1 - cos² α - cos² β - cos² γ + 2 cos α cos β cos γ) of a cell that may be written."""
PROMPT_LENGTH = 2
"""``[SOS] [ATOMS]``."""
CELL_NUMBERS = 6
Y_LINES = 48
"""Values of y at which free places are looked for; divides a grid that is a multiple of 48."""
Z_BIN = 8
"""Grid points of z that are looked at together then."""
ROWS_AT_ONCE = 64
"""Sequences whose lines are looked at together: about 100 MB."""
# Cell translations within the a-b plane; the images along c are on the circle of z.
_PLANE_SHIFTS = tuple(product((-1.0, 0.0, 1.0), repeat=2))


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
    """Sizes of the id ranges, the numbers that their tokens stand for, and what species allow.

    Args:
        species_rank: Place of each species token in the site order; equal where any order goes.
        species_element: Symbol of the element of each species token.
        radii: Covalent radius of each species token in Å.
        grid: Points of the periodic coordinate grid.
        length_min: Smallest length token in Å.
        length_step: Step of the length tokens in Å.
        n_lengths: Number of length tokens.
        angle_min: Smallest angle token in degrees.
        angle_step: Step of the angle tokens in degrees.
        n_angles: Number of angle tokens.
        max_sites: Largest number of sites.
        min_distance: Least distance of two sites over the sum of their covalent radii; 0 for no limit.
    """

    species_rank: tuple[int, ...]
    species_element: tuple[str, ...]
    radii: tuple[float, ...]
    grid: int
    length_min: float
    length_step: float
    n_lengths: int
    angle_min: float
    angle_step: float
    n_angles: int
    max_sites: int
    min_distance: float

    @property
    def n_species(self) -> int:
        """Number of species tokens."""
        return len(self.species_rank)

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
        return 4 * self.max_sites + 2 + CELL_NUMBERS


class Group(IntEnum):
    """What is written next; each group draws from one contiguous range of token ids."""

    FORCED = 0
    SITE = 1
    LENGTH = 2
    ANGLE = 3
    COORDINATE = 4


class Slot(IntEnum):
    """Finer than ``Group``: the place in the sequence that is written next."""

    ATOMS = 0
    SITE = 1
    A = 2
    B = 3
    C = 4
    ALPHA = 5
    BETA = 6
    GAMMA = 7
    X = 8
    Y = 9
    Z = 10
    END = 11
    DONE = 12


_FORCED = {Slot.ATOMS: TokenClass.ATOMS, Slot.END: TokenClass.EOS, Slot.DONE: TokenClass.PAD}


class Places(NamedTuple):
    """What is written after each token.

    Args:
        slot: ``Slot`` values, (B, T).
        site: Index of the site that the slot belongs to, (B, T); 0 for slots of the cell.
    """

    slot: Tensor
    site: Tensor


class Grammar:
    """The rules of one token layout."""

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        groups = [Group.FORCED, Group.SITE] + [Group.LENGTH] * 3 + [Group.ANGLE] * 3
        self.group = torch.tensor([*groups, *[Group.COORDINATE] * 3, Group.FORCED, Group.FORCED])
        self.forced_token = torch.tensor([int(_FORCED.get(slot, TokenClass.PAD)) for slot in Slot])
        self.rank = torch.full((layout.vocab_size,), -1)
        self.rank[layout.species_start : layout.coordinate_start] = torch.tensor(layout.species_rank)
        self.radius = torch.zeros(layout.vocab_size, dtype=torch.float64)
        self.radius[layout.species_start : layout.coordinate_start] = torch.tensor(
            layout.radii, dtype=torch.float64
        )
        angles = layout.angle_min + layout.angle_step * torch.arange(layout.n_angles, dtype=torch.float64)
        self.cosines = torch.cos(torch.deg2rad(angles))
        self.lengths = layout.length_min + layout.length_step * torch.arange(
            layout.n_lengths, dtype=torch.float64
        )
        self.plane_shifts = torch.tensor(_PLANE_SHIFTS, dtype=torch.float64)

    def to(self, device: torch.device) -> Grammar:
        """Move the tables to ``device``."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def rules(
        self, constraints: Constraints | Sequence[Constraints], *, row: Tensor | None = None
    ) -> CompositionRules:
        """What ``mask`` takes as ``rules``; see ``composition.composition_rules``."""
        return composition_rules(constraints, self.layout, row=row, device=self.group.device)

    def token_range(self, group: Group) -> tuple[int, int]:
        """First id and one past the last id that a group draws from."""
        layout = self.layout
        return {
            Group.SITE: (int(TokenClass.LATTICE), layout.coordinate_start),
            Group.COORDINATE: (layout.coordinate_start, layout.length_start),
            Group.LENGTH: (layout.length_start, layout.angle_start),
            Group.ANGLE: (layout.angle_start, layout.vocab_size),
        }[group]

    def places(self, ids: Tensor, first: int = 0) -> Places:
        """What follows the tokens ``first`` and later of sequences that start at ``[SOS]``.

        Args:
            ids: Token ids (B, T).
            first: Index of the first token whose successor is asked for.
        """
        position = torch.arange(first, ids.shape[1], device=ids.device)[None]
        is_lattice = ids == TokenClass.LATTICE
        lattice = torch.where(is_lattice.any(dim=1), is_lattice.long().argmax(dim=1), ids.shape[1])[:, None]
        after = position - lattice
        sites_end = CELL_NUMBERS + 3 * (lattice - PROMPT_LENGTH)
        coordinate = (after - CELL_NUMBERS).clamp(min=0)
        slot = torch.where(after < CELL_NUMBERS, Slot.A + after, Slot.X + coordinate % 3)
        slot = torch.where(after == sites_end, int(Slot.END), slot)
        slot = torch.where(after > sites_end, int(Slot.DONE), slot)
        slot = torch.where(after < 0, int(Slot.SITE), slot)
        slot = torch.where(position == 0, int(Slot.ATOMS), slot)
        site = torch.where(after < 0, position - (PROMPT_LENGTH - 1), coordinate // 3)
        return Places(slot, site.clamp(min=0, max=self.layout.max_sites - 1))

    def group_mask(
        self, ids: Tensor, positions: Tensor, group: Group, rules: CompositionRules | None = None
    ) -> Tensor:
        """Tokens of a group that may follow.

        Args:
            ids: One sequence per row, (R, T).
            positions: Index in each row of the token that is followed, (R,); all followed by ``group``.
            group: The group; not FORCED.
            rules: Constraints on the composition of these R rows.

        Returns:
            bool (R, size of the group's range).
        """
        if group is Group.SITE:
            return self._sites(ids, positions, rules)
        if group is Group.LENGTH:
            apart = 2 * self.layout.min_distance * self.radius[ids].max(dim=1).values
            return self.lengths[None] >= apart[:, None]
        lattice = (ids == TokenClass.LATTICE).long().argmax(dim=1)
        low, high = self.token_range(group)
        allowed = torch.ones((len(ids), high - low), dtype=torch.bool, device=ids.device)
        if group is Group.ANGLE:
            last = (positions == lattice + CELL_NUMBERS - 1).nonzero()[:, 0]
            before = ids[last].gather(1, positions[last, None] - torch.tensor([[1, 0]], device=ids.device))
            allowed[last] = self._closing_angles(before - self.layout.angle_start)
        else:
            axis = (positions - lattice - CELL_NUMBERS) % 3
            for follows, free in ((1, self._free_y), (2, self._free_z)):
                rows = (axis == follows).nonzero()[:, 0]
                if len(rows):
                    allowed[rows] = free(ids[rows], positions[rows], lattice[rows])
        return allowed

    def mask(self, ids: Tensor, first: int = 0, rules: CompositionRules | None = None) -> Tensor:
        """Tokens that may follow each of the tokens ``first`` and later: (B, T) -> bool (B, T - first, V)."""
        slots = self.places(ids, first).slot
        shape = (*slots.shape, self.layout.vocab_size)
        allowed = torch.zeros(shape, dtype=torch.bool, device=ids.device)
        groups = self.group[slots]
        rows, columns = (groups == Group.FORCED).nonzero(as_tuple=True)
        allowed[rows, columns, self.forced_token[slots[rows, columns]]] = True
        for group in Group:
            rows, columns = (groups == group).nonzero(as_tuple=True)
            if group is Group.FORCED or len(rows) == 0:
                continue
            low, high = self.token_range(group)
            allowed[rows, columns, low:high] = self.group_mask(
                ids[rows], columns + first, group, rules and rules.at(rows)
            )
        return allowed

    def accepts(self, ids: Tensor, rules: CompositionRules | None = None) -> bool:
        """Whether one whole sequence (T,) from ``[SOS]`` to ``[EOS]`` follows the grammar."""
        whole = ids[None]
        slots = self.places(whole).slot[0]
        if int(ids[0]) != TokenClass.SOS or int(slots[-1]) != Slot.DONE:
            return False
        for group, token in zip(self.group[slots[:-1]].tolist(), ids[1:].tolist(), strict=True):
            low, high = (0, TokenClass.SPECIES) if group == Group.FORCED else self.token_range(Group(group))
            if not low <= token < high:  # geometry cannot be read from tokens of another kind
                return False
        mask = self.mask(whole[:, :-1], rules=rules)
        return bool(mask.gather(2, whole[:, 1:, None]).all())

    def _sites(self, ids: Tensor, positions: Tensor, rules: CompositionRules | None) -> Tensor:
        """Species that do not come before the last one, and ``[LATTICE]`` once there is one."""
        low, high = self.token_range(Group.SITE)
        last = self.rank[ids.gather(1, positions[:, None])]
        allowed = self.rank[None, low:high] >= last
        n_sites = positions - (PROMPT_LENGTH - 1)
        allowed[n_sites >= self.layout.max_sites] = False
        allowed[:, 0] = n_sites > 0
        allowed[:, TokenClass.EOS - low] = False
        if rules is not None:
            species, ends = rules.following(ids, positions)
            allowed[:, self.layout.species_start - low :] &= species
            allowed[:, 0] &= ends
        return allowed

    def _closing_angles(self, before: Tensor) -> Tensor:
        """Last angles that give a cell of positive volume: offsets (R, 2) -> bool (R, n_angles)."""
        a, b = self.cosines[before[:, :1]], self.cosines[before[:, 1:]]
        c = self.cosines[None, :]
        squared = 1 - a**2 - b**2 - c**2 + 2 * a * b * c
        return squared >= MIN_VOLUME_FACTOR**2

    def _free_z(self, ids: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
        """Grid points of z at which a site keeps its distance from all before it: -> bool (R, grid)."""
        grid = self.layout.grid
        xy = ids.gather(1, positions[:, None] - torch.tensor([[1, 0]], device=ids.device))
        lines = (xy - self.layout.coordinate_start).double()[:, None] / grid
        free = ~self._closed(ids, positions, lattice, lines, slack=None, bins=grid)[:, 0]
        return free | ~free.any(dim=1, keepdim=True)

    def _free_y(self, ids: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
        """Grid points of y that leave the site a place on the line along z: -> bool (R, grid).

        Looked at on ``Y_LINES`` lines, each for the points next to it: the distance that has to be kept
        is shortened by how far those are, so that no y is closed off that has a free z.
        """
        grid, rows = self.layout.grid, len(ids)
        x = (ids.gather(1, positions[:, None]) - self.layout.coordinate_start).double() / grid
        y = torch.arange(Y_LINES, dtype=torch.float64, device=ids.device) / Y_LINES
        lines = torch.stack([x.expand(rows, Y_LINES), y.expand(rows, Y_LINES)], dim=2)
        b = self.lengths[ids.gather(1, lattice[:, None] + 2) - self.layout.length_start]
        bins = grid // Z_BIN
        free = torch.cat(
            [
                ~self._closed(*part, slack=part_b / (2 * Y_LINES), bins=bins).all(dim=2)
                for *part, part_b in zip(
                    *(value.split(ROWS_AT_ONCE) for value in (ids, positions, lattice, lines, b)), strict=True
                )
            ]
        )
        nearest = torch.round(torch.arange(grid, device=ids.device) * (Y_LINES / grid)).long() % Y_LINES
        free = free[:, nearest]
        return free | ~free.any(dim=1, keepdim=True)

    def _closed(
        self,
        ids: Tensor,
        positions: Tensor,
        lattice: Tensor,
        lines: Tensor,
        *,
        slack: Tensor | None,
        bins: int,
    ) -> Tensor:
        """Parts of lines along z that are too near to an earlier site.

        For each earlier site and each translation in the a-b plane that is an interval on the circle of z.

        Args:
            ids: Sequences (R, T).
            positions: Index of the last token before x's successor or y's, (R,).
            lattice: Index of ``[LATTICE]``, (R,).
            lines: x and y of K lines, (R, K, 2).
            slack: Å that the least distance is shortened by, (R, 1).
            bins: Parts of a line, dividing the grid.

        Returns:
            Whether the whole of each part is closed, bool (R, K, bins).
        """
        rows, k, grid = len(ids), lines.shape[1], self.layout.grid
        site = (positions - lattice - CELL_NUMBERS) // 3
        most = max(int(site.max()), 1) if rows else 1
        columns = (lattice + CELL_NUMBERS + 1)[:, None] + torch.arange(3 * most, device=ids.device)[None]
        earlier = torch.arange(most, device=ids.device)[None] < site[:, None]
        others = ids.gather(1, columns.clamp(max=ids.shape[1] - 1)).view(rows, most, 3)
        others = (others - self.layout.coordinate_start).double() / grid
        own = self.radius[ids.gather(1, PROMPT_LENGTH + site[:, None])]
        species = ids[:, PROMPT_LENGTH : PROMPT_LENGTH + most]
        apart = self.layout.min_distance * (self.radius[species] + own)
        if slack is not None:
            apart = (apart - slack).clamp(min=0)
        cell = ids.gather(1, lattice[:, None] + torch.arange(1, 1 + CELL_NUMBERS, device=ids.device))
        a, b, c = (self.lengths[cell[:, i] - self.layout.length_start][:, None, None, None] for i in range(3))
        alpha, beta, gamma = (
            self.cosines[cell[:, i] - self.layout.angle_start][:, None, None, None] for i in range(3, 6)
        )
        offset = lines[:, :, None] - others[:, None, :, :2]
        u = (offset - offset.round())[:, :, :, None] + self.plane_shifts  # (R, K, J, 9, 2), parts of a and b
        ua, ub = u[..., 0] * a, u[..., 1] * b
        along = ua * beta + ub * alpha  # component along c, Å
        half = apart[:, None, :, None] ** 2 - (ua**2 + ub**2 + 2 * ua * ub * gamma) + along**2
        row, line, other, shift = ((half > 0) & earlier[:, None, :, None]).nonzero(as_tuple=True)
        length = c[row, 0, 0, 0]
        reach = half[row, line, other, shift].sqrt() / length
        centre = others[row, other, 2] - along[row, line, other, shift] / length
        low = torch.floor((centre - reach) * grid).long() + 1  # grid points within the interval: low..high-1
        high = torch.ceil((centre + reach) * grid).long()
        size = grid // bins
        low, high = -(-low // size), high // size
        width = (high - low).clamp(min=0, max=bins)
        low = low % bins
        steps = torch.zeros((rows * k, 2 * bins + 1), dtype=torch.int32, device=ids.device)
        one = torch.ones_like(row, dtype=torch.int32)
        steps.index_put_((row * k + line, low), one, accumulate=True)
        steps.index_put_((row * k + line, low + width), -one, accumulate=True)
        covered = steps.cumsum(dim=1)[:, : 2 * bins] > 0
        return (covered[:, :bins] | covered[:, bins:]).view(rows, k, bins)
