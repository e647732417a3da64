"""Energy and volume per atom against tabulated values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.catalogue.energy_per_atom import EnergyPerAtom
from materium_rl.rewards.catalogue.volume_per_atom import VolumePerAtom

IRON = Structure(Lattice.cubic(2.866), ["Fe", "Fe"], [[0] * 3, [0.5] * 3])
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.431), ["Si"], [[0] * 3])
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.615), ["Cu"], [[0] * 3])
MAGNESIA = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.212), ["Mg", "O"], [[0] * 3, [0.5] * 3])


def test_energies_are_those_of_the_materials_project():
    """PBE energies of mp-149 and mp-30, and that of mp-1265 with the oxide correction, eV/atom."""
    values = [r.value for r in EnergyPerAtom().measure([SILICON, COPPER, MAGNESIA])]
    assert values == pytest.approx([-5.42, -4.10, -6.30], abs=0.15)


def test_energy_of_what_chgnet_does_not_know_is_a_failure():
    americium = Structure(Lattice.cubic(5), ["Am", "O"], [[0] * 3, [0.5] * 3])
    assert isinstance(EnergyPerAtom().measure([americium])[0], Failure)
    assert [EnergyPerAtom().shaping()(value) for value in (-12, -5, 1)] == [1.0, 0.5, 0.0]
    assert EnergyPerAtom(target=-5, width=0.2).shaping()(-5.2) == pytest.approx(0.5)


def test_volumes_from_lattice_constants():
    cells = [IRON, IRON.make_supercell([2, 1, 3], in_place=False), SILICON, COPPER.get_primitive_structure()]
    values = [result.value for result in VolumePerAtom().measure(cells)]
    assert values == pytest.approx([11.77, 11.77, 20.02, 11.81], abs=0.005)
    assert VolumePerAtom(target=20, width=5).shaping()(25) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), [], []), "no sites"),
        (Structure(Lattice(np.full((3, 3), math.nan)), ["Fe"], [[0] * 3]), "not finite"),
        (Structure(Lattice(np.zeros((3, 3))), ["Fe"], [[0] * 3]), "less than 0.001 Å³"),
    ],
)
def test_cells_without_a_volume_are_invalid(structure, reason):
    before, result, after = VolumePerAtom().measure([IRON, structure, IRON])
    assert isinstance(result, Invalid)
    assert reason in result.reason
    assert before == after
