"""Magnetic density: known magnets, what CHGNet cannot see, and one pass for moments and energies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue.magnetic_density import MagneticDensity
from materium_rl.rewards.energies import chgnet_energies, chgnet_predictions
from materium_rl.rewards.potentials import chgnet
from materium_rl.rewards.potentials.chgnet import load_chgnet
from materium_rl.rewards.shared import sharing

IRON = Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0] * 3, [0.5] * 3])
COBALT = Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.49, 4.03), ["Co"], [[1 / 3, 2 / 3, 0.25]])
GADOLINIUM = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(3.63, 5.78), ["Gd"], [[1 / 3, 2 / 3, 0.25]]
)
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
MANGANOSITE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.45), ["Mn", "O"], [[0] * 3, [0.5] * 3])
ISOLATED = Structure(Lattice.cubic(7.5), ["Ar"], [[0] * 3])
BERKELIUM = Structure(Lattice.cubic(4), ["Bk", "O"], [[0] * 3, [0.5] * 3])


def densities(*structures: Structure) -> list[float]:
    results = MagneticDensity().measure(structures)
    assert all(isinstance(result, Measurement) for result in results), results
    return [result.value for result in results]


def test_known_magnets():
    """Moments per atom in PBE: about 2.2 (Fe), 1.6 (Co) and 7.4 µB (Gd)."""
    expected = [2 * 2.2 / IRON.volume, 2 * 1.6 / COBALT.volume, 2 * 7.4 / GADOLINIUM.volume]
    assert densities(IRON, COBALT, GADOLINIUM) == pytest.approx(expected, rel=0.12)


def test_a_crystal_without_magnetism_has_none():
    assert densities(SALT)[0] < 0.002


def test_an_antiferromagnet_looks_like_a_magnet():
    """CHGNet gives no sign: the value of MnO is the sum of the magnitudes, and the text says so."""
    (result,) = MagneticDensity().measure([MANGANOSITE])
    assert result.value == pytest.approx(4 * 4.6 / MANGANOSITE.volume, rel=0.05)
    assert result.details["largest_magmom"] == pytest.approx(4.6, abs=0.1)
    assert "antiferromagnetic MnO" in MagneticDensity.__doc__


def test_density_does_not_depend_on_the_cell():
    value, supercell, primitive = densities(
        MANGANOSITE,
        MANGANOSITE.make_supercell([1, 1, 2], in_place=False),
        MANGANOSITE.get_primitive_structure(),
    )
    assert [supercell, primitive] == pytest.approx([value] * 2, rel=1e-3)


def test_moments_are_those_that_chgnet_itself_predicts():
    native = load_chgnet().predict_structure(IRON, task="em")["m"].tolist()
    prediction, other = chgnet_predictions([IRON, SALT])
    assert prediction.magmoms == pytest.approx(native, abs=1e-4)
    assert len(other.magmoms) == len(SALT)
    assert prediction.energy_per_atom == pytest.approx(chgnet_energies([IRON])[0], abs=1e-5)


def test_moments_stay_with_their_structure_when_a_batch_is_sorted():
    """A batch is ordered by the number of bonds."""
    order = [MANGANOSITE, IRON, GADOLINIUM, COBALT, SALT]
    assert densities(*order) == pytest.approx([densities(s)[0] for s in order], rel=1e-3, abs=1e-5)


def test_energies_and_moments_are_one_pass(monkeypatch):
    calls = []
    real = chgnet._evaluate
    monkeypatch.setattr(
        chgnet, "_evaluate", lambda batch, forces: (calls.append(len(batch)), real(batch, forces))[1]
    )
    with sharing():
        MagneticDensity().measure([IRON, SALT])
        chgnet_energies([IRON, SALT])
    assert calls == [2]


def test_no_number_for_what_cannot_be_measured(monkeypatch):
    isolated, berkelium = MagneticDensity().measure([ISOLATED, BERKELIUM])
    assert isinstance(isolated, Invalid)
    assert isinstance(berkelium, Failure)
    assert "atomic number 97" in berkelium.reason
    broken = np.array([-5.0, -5.0]), np.array([math.nan, 1.0]), None
    monkeypatch.setattr(chgnet, "load_network", lambda: lambda graph, forces: broken)
    (result,) = MagneticDensity().measure([IRON])
    assert isinstance(result, Failure)
    assert "not finite" in result.reason


def test_high_is_good_unless_there_is_a_target():
    assert [MagneticDensity().shaping()(value) for value in (0.0, 0.1, 0.3)] == [0.0, 0.5, 1.0]
    assert MagneticDensity(target=0.1).shaping()(0.1) == 1.0
