"""Which tokens may follow: one set of rules, used by the model, the sampler and the tests.

A sequence is ``[SOS] [ATOMS] species+ [LATTICE] a b c alpha beta gamma (x y z)+ [EOS] [PAD]*`` with one
coordinate triple for each species, in the same order: composition, then cell, then positions. What
stands before a token decides which may be written next, so that every completion decodes to a structure:

- species follow in the order of the sites, ``max_sites`` at most;
- lengths keep an atom and its own image apart; the last angle closes a cell of positive volume
  (``geometry.py``);
- z keeps the site apart from every site before it: at least ``min_distance`` times the sum of the two
  covalent radii, over all periodic images. Should x and y leave no such z, every z is allowed;
- y leaves such a z, as far as a look at ``Y_LINES`` lines can tell.

Constraints on the composition (``composition.py``) narrow the species further, one on the density the
cell: each length and angle leaves others with which the cell comes to a volume in the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from materium_rl.composition import CompositionRules, composition_rules
from materium_rl.constraints import Constraints
from materium_rl.geometry import Geometry
from materium_rl.token_layout import CELL_NUMBERS, PROMPT_LENGTH, TokenClass, TokenLayout


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


def lattice_index(ids: Tensor) -> Tensor:
    """Index of ``[LATTICE]`` in each of (R, T) sequences, T where it is not written yet: (R,)."""
    is_lattice = ids == TokenClass.LATTICE
    return torch.where(is_lattice.any(dim=1), is_lattice.long().argmax(dim=1), ids.shape[1])


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
        self.geometry = Geometry(layout)

    def to(self, device: torch.device) -> Grammar:
        """Move the tables to ``device``."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        self.geometry.to(device)
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
        lattice = lattice_index(ids)[:, None]
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
            rules: Constraints on these R rows.

        Returns:
            bool (R, size of the group's range).
        """
        if group is Group.SITE:
            return self._sites(ids, positions, rules)
        volumes = None if group is Group.COORDINATE or rules is None else rules.volumes(ids)
        if group is Group.LENGTH:
            if volumes is None:
                return self.geometry.long_enough(ids)
            return self.geometry.fitting_lengths(ids, positions, lattice_index(ids), volumes)
        lattice = lattice_index(ids)
        low, high = self.token_range(group)
        allowed = torch.ones((len(ids), high - low), dtype=torch.bool, device=ids.device)
        if group is Group.ANGLE:
            last = (positions == lattice + CELL_NUMBERS - 1).nonzero()[:, 0]
            before = ids[last].gather(1, positions[last, None] - torch.tensor([[1, 0]], device=ids.device))
            allowed[last] = self.geometry.closing_angles(before - self.layout.angle_start)
            if volumes is not None:
                fits = allowed & self.geometry.fitting_angles(ids, positions, lattice, volumes)
                allowed = torch.where(fits.any(dim=1, keepdim=True), fits, allowed)
        else:
            axis = (positions - lattice - CELL_NUMBERS) % 3
            for follows, free in ((1, self.geometry.free_y), (2, self.geometry.free_z)):
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
