"""What may follow what: exact for every sequence, and geometry against pymatgen's distances."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure
from real_structures import aflow_structures

from materium_rl.grammar import Grammar, Group, Slot
from materium_rl.rewards.catalogue.validity import Validity
from materium_rl.structures import covalent_radii, minimum_distance_ratio
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of


@cache
def codec() -> CrystalCodec:
    return CrystalCodec(TokenizerSettings(species=species_of(aflow_structures()), length_range=(1.0, 60.0)))


LIMIT = TokenizerSettings(species=("Na",)).min_distance


def written() -> list[torch.Tensor]:
    apart = [s for s in aflow_structures() if minimum_distance_ratio(s) > LIMIT]
    return [torch.tensor(codec().encode(s)) for s in apart[::4]]


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(codec().layout)


def test_accepts_what_the_tokenizer_writes_and_nothing_cut_or_swapped(grammar: Grammar) -> None:
    for ids in written():
        assert grammar.accepts(ids)
        assert not grammar.accepts(ids[:-1])
        assert not grammar.accepts(ids[1:])
        groups = grammar.group[grammar.places(ids[None]).slot[0]]
        for i in range(1, len(ids) - 1):
            if groups[i - 1] != groups[i]:
                swapped = ids.clone()
                swapped[i], swapped[i + 1] = ids[i + 1], ids[i]
                assert not grammar.accepts(swapped), i


def test_places_follow_the_sequence(grammar: Grammar) -> None:
    ids = next(ids for ids in written() if len(ids) == 10 + 4 * 2)
    places = grammar.places(ids[None])
    cell = [Slot.A, Slot.B, Slot.C, Slot.ALPHA, Slot.BETA, Slot.GAMMA]
    sites = [Slot.X, Slot.Y, Slot.Z] * 2
    assert places.slot[0].tolist() == [Slot.ATOMS, *[Slot.SITE] * 3, *cell, *sites, Slot.END, Slot.DONE]
    assert places.site[0].tolist()[1:4] == [0, 1, 2]
    assert places.site[0].tolist()[10:16] == [0, 0, 0, 1, 1, 1]
    later = grammar.places(ids[None], 7)
    assert torch.equal(later.slot, places.slot[:, 7:])


def test_the_same_mask_in_one_piece_and_token_by_token(grammar: Grammar) -> None:
    ids = torch.nn.utils.rnn.pad_sequence(written()[:6], batch_first=True)
    whole = grammar.mask(ids)
    for t in range(ids.shape[1]):
        assert torch.equal(grammar.mask(ids[:, : t + 1], t)[:, 0], whole[:, t]), t


def test_species_keep_their_order_and_their_limit(grammar: Grammar) -> None:
    layout = grammar.layout
    rank = np.array(layout.species_rank)
    middle = int(np.argsort(rank)[len(rank) // 2])
    ids = torch.tensor([[1, 2, layout.species_start + middle]])
    allowed = grammar.mask(ids, 2)[0, 0]
    species = allowed[layout.species_start : layout.coordinate_start].numpy()
    assert np.array_equal(species, rank >= rank[middle])
    assert bool(allowed[TokenClass.LATTICE])
    assert not bool(grammar.mask(ids, 1)[0, 0, TokenClass.LATTICE])
    full = torch.tensor([[1, 2, *[layout.species_start + middle] * layout.max_sites]])
    assert grammar.mask(full, full.shape[1] - 1)[0, 0].nonzero()[:, 0].tolist() == [TokenClass.LATTICE]


def test_last_angle_closes_the_cell(grammar: Grammar) -> None:
    ids = next(ids for ids in written() if len(ids) == 14).clone()
    layout = grammar.layout
    ids[7:9] = layout.angle_start + round((119.9 - layout.angle_min) / layout.angle_step)
    allowed = grammar.mask(ids[None], 8)[0, 0, layout.angle_start :]
    angles = layout.angle_min + layout.angle_step * np.arange(layout.n_angles)
    volumes = [np.nan_to_num(Lattice.from_parameters(1, 1, 1, 119.9, 119.9, float(a)).volume) for a in angles]
    closing = allowed.numpy()
    assert closing.any()
    assert (np.array(volumes)[closing] > 0.04).all()
    assert angles[closing].max() < 120.2


def test_free_z_are_those_at_a_distance(grammar: Grammar) -> None:
    """Every z of the last site of real crystals, against pymatgen's periodic distances."""
    checked = closed = 0
    rng = np.random.default_rng(0)
    for ids in written():
        structure = codec().decode(ids.tolist())
        if len(structure) < 2:
            continue
        moved = ids.clone()
        moved[-4:-2] = grammar.layout.coordinate_start + torch.tensor(rng.integers(0, 960, 2))
        allowed = grammar.group_mask(moved[None], torch.tensor([len(ids) - 3]), Group.COORDINATE)[0].numpy()
        structure = codec().decode(moved.tolist())
        chosen = rng.integers(0, 960, 12)
        points = np.column_stack([np.tile(structure.frac_coords[-1][:2], (12, 1)), chosen / 960])
        others = structure.frac_coords[:-1]
        distance = structure.lattice.get_all_distances(points, others)
        radii = covalent_radii()[[Element(str(s)).Z for s in structure.species]]
        free = (distance / (radii[:-1] + radii[-1]) >= LIMIT).all(axis=1)
        if allowed.all() and not free.any():
            continue  # no z is free: every z is allowed
        assert np.array_equal(free, allowed[chosen]), structure
        checked, closed = checked + 12, closed + int((~free).sum())
    assert checked > 300
    assert 30 < closed < checked


def test_a_full_column_allows_every_z(grammar: Grammar) -> None:
    structure = Structure(Lattice.orthorhombic(4, 4, 2.6), ["Na", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    ids = torch.tensor(codec().encode(structure, reduce=False))
    ids[-4:-2] = grammar.layout.coordinate_start
    allowed = grammar.group_mask(ids[None], torch.tensor([len(ids) - 3]), Group.COORDINATE)
    assert bool(allowed.all())
    assert minimum_distance_ratio(codec().decode(ids.tolist())) < LIMIT


def test_lengths_keep_an_atom_and_its_image_apart(grammar: Grammar) -> None:
    layout = grammar.layout
    caesium = layout.species_start + codec().settings.species.index("Cs")
    allowed = grammar.mask(torch.tensor([[1, 2, caesium, TokenClass.LATTICE]]), 3)[0, 0]
    shortest = int(allowed.nonzero()[0, 0]) - layout.length_start
    assert layout.length_min + layout.length_step * shortest == pytest.approx(2 * 0.65 * 2.44, abs=0.01)


def test_the_limit_is_that_of_validity() -> None:
    assert Validity().min_distance == LIMIT


def test_no_y_is_closed_that_has_a_free_z(grammar: Grammar) -> None:
    """And most of those are closed that have none: the last site of real crystals, x drawn at random."""
    rng = np.random.default_rng(1)
    start = grammar.layout.coordinate_start
    hopeless = closed = 0
    for ids in written()[::2]:
        n = len(ids)
        if n < 10 + 4 * 3:
            continue
        moved = ids.clone()
        moved[-4] = start + int(rng.integers(960))
        allowed = grammar.group_mask(moved[None], torch.tensor([n - 4]), Group.COORDINATE)[0]
        chosen = torch.tensor(rng.integers(0, 960, 24))
        rows = moved.repeat(24, 1)
        rows[:, -3] = start + chosen
        lattice = (rows == TokenClass.LATTICE).long().argmax(dim=1)
        lines = (rows[:, -4:-2] - start).double()[:, None] / 960
        free = ~grammar.geometry.closed(rows, torch.full((24,), n - 3), lattice, lines, slack=None, bins=960)[
            :, 0
        ]
        has_free = free.any(dim=1)
        if not allowed.all():
            assert bool(allowed[chosen][has_free].all()), n
            hopeless += int((~has_free).sum())
            closed += int((~allowed[chosen] & ~has_free).sum())
    assert hopeless > 50
    assert closed > 0.5 * hopeless
