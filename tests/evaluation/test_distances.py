"""AMD and PDD against shells known in closed form, and their invariances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.evaluation.novelty import distances
from materium_rl.evaluation.novelty.distances import K, amd, amd_distance, pdd, pdd_distance
from tests.real_structures import aflow_structures, rock_salt, rutile

SIMPLE_CUBIC = {1: 6, 2: 12, 3: 8, 4: 6, 5: 24, 6: 24, 8: 12, 9: 30}
"""Squared distance in lattice constants -> lattice points at it: the ways to write it as three squares."""
FCC = {0.5: 12, 1: 6, 1.5: 24, 2: 12, 2.5: 24, 3: 8, 3.5: 48}
BCC = {0.75: 8, 1: 6, 2: 12, 2.75: 24, 3: 8, 4: 6, 4.75: 24, 5: 24}
DIAMOND_FROM_A_SITE = {3 / 16: 4, 0.5: 12, 11 / 16: 12, 1: 6, 19 / 16: 12, 1.5: 24}


def shells(numbers: dict[float, int], a: float) -> np.ndarray:
    return np.concatenate([np.full(n, a * np.sqrt(squared)) for squared, n in numbers.items()])


def cubic(a: float = 3.0) -> Structure:
    return Structure(Lattice.cubic(a), ["Po"], [[0.3, 0.1, 0.9]])


def crystal(group: str, a: float) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(a), ["C"], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (cubic(3.0), shells(SIMPLE_CUBIC, 3.0)),
        (rock_salt(), shells(SIMPLE_CUBIC, 5.69 / 2)),
        (crystal("Fm-3m", 3.61), shells(FCC, 3.61)),
        (crystal("Fm-3m", 3.61).get_primitive_structure(), shells(FCC, 3.61)),
        (crystal("Im-3m", 2.87), shells(BCC, 2.87)),
        (crystal("Fd-3m", 3.57), shells(DIAMOND_FROM_A_SITE, 3.57)),
    ],
    ids=["simple cubic", "rock salt", "fcc", "fcc primitive", "bcc", "diamond"],
)
def test_shells_known_in_closed_form(structure, expected):
    k = min(K, len(expected))
    rows = pdd(structure, k)
    assert rows.shape == (len(structure), k)
    np.testing.assert_allclose(rows, np.broadcast_to(expected[:k], rows.shape), atol=1e-9)
    np.testing.assert_allclose(amd(structure, k), expected[:k], atol=1e-9)


def test_distance_of_two_cubic_lattices_is_that_of_their_farthest_shell():
    a, b = cubic(3.0), cubic(3.1)  # the 100th neighbour of both stands three edges away
    assert amd_distance(amd(a), amd(b)) == pytest.approx(0.3)
    assert pdd_distance(pdd(a), pdd(b)) == pytest.approx(0.3)


def test_earth_mover_by_hand():
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    b = np.array([[1.0, 2.5], [3.0, 5.0], [3.0, 4.0]])
    # of the first half a third of all moves by 0.5, a sixth by 2 to (3, 4); of the second a third moves by 1
    cost = (0.5 / 3) + (2.0 / 6) + (1.0 / 3)
    assert pdd_distance(a, b) == pytest.approx(cost)
    assert pdd_distance(b, a) == pytest.approx(cost)


def test_pairing_rows_equals_the_linear_programme(monkeypatch):
    rng = np.random.default_rng(0)
    tables = [np.sort(rng.random((n, 6)), axis=1) for n in (1, 2, 3, 4, 6, 6)]
    paired = [pdd_distance(a, b) for a in tables for b in tables]
    monkeypatch.setattr(distances, "_MAX_PAIRED", 0)
    np.testing.assert_allclose([pdd_distance(a, b) for a in tables for b in tables], paired, atol=1e-9)


def test_writing_does_not_count():
    for structure in (rutile(), *aflow_structures(12)[:20:4]):
        turn = Lattice.from_parameters(*structure.lattice.parameters, vesta=True)
        order = np.random.default_rng(0).permutation(len(structure))
        kinds = [structure[int(i)].specie for i in order]
        moved = Structure(turn, kinds, structure.frac_coords[order] + [0.31, 0.72, 0.05])
        skew = structure.copy()
        skew.make_supercell([[1, 0, 0], [4, 1, 0], [0, 3, 1]])
        for other in (moved, skew, structure * (2, 1, 1), structure.get_primitive_structure()):
            assert amd_distance(amd(structure), amd(other)) < 1e-6
            assert pdd_distance(pdd(structure), pdd(other)) < 1e-6


def test_pdd_tells_more_than_amd():
    for a, b in pairwise(aflow_structures(12)[:12]):
        assert pdd_distance(pdd(a), pdd(b)) >= amd_distance(amd(a), amd(b)) - 1e-12


def test_distances_change_continuously():
    still = rutile()
    pushed = still.copy()
    pushed.translate_sites([2], [0.01, 0, 0], frac_coords=False)
    assert 0 < pdd_distance(pdd(still), pdd(pushed)) <= 0.02


def test_a_cell_whose_neighbours_cannot_be_listed_is_refused():
    with pytest.raises(ValueError, match="needle"):
        pdd(Structure(Lattice.orthorhombic(1.2, 1.2, 1e7), ["H"] * 2, [[0, 0, 0], [0, 0, 0.5]]))
