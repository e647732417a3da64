"""Force, stress and displacement: equilibrium, strain, and one pass for forces and energies."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.rewards import relaxation as relaxation_module
from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue.equilibrium import Displacement, Force, Stress
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.execution.measuring import Measurer, Plan
from materium_rl.rewards.expression import Term
from materium_rl.rewards.potentials import chgnet
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.relaxation import relaxation
from materium_rl.rewards.shared import sharing

ISOLATED = Structure(Lattice.cubic(7.5), ["Ar"], [[0] * 3])
BERKELIUM = Structure(Lattice.cubic(4), ["Bk", "O"], [[0] * 3, [0.5] * 3])


@pytest.fixture(scope="module")
def relaxed() -> Structure:
    """Rutile as CHGNet likes it best."""
    (end,) = relaxation(60, max_force=0.01)([rutile()])
    assert end.converged
    return end.structure


def measured(reward: Force | Stress | Displacement, *structures: Structure) -> list[Measurement]:
    results = reward.measure(structures)
    assert all(isinstance(result, Measurement) for result in results), results
    return results


def test_a_relaxed_crystal_is_in_equilibrium(relaxed):
    assert measured(Force(), relaxed)[0].value < 0.02
    assert measured(Stress(), relaxed)[0].value < 0.5
    distance = measured(Displacement(steps=20), relaxed)[0]
    assert distance.value < 0.01
    assert distance.details["relax_converged"]


def test_a_site_out_of_place_is_pushed_back():
    moved = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.26), ["Mg", "O"], [[0] * 3, [0.5] * 3])
    moved.translate_sites([0], [0.2, 0, 0], frac_coords=False)
    largest, mean = measured(Force(), moved)[0].value, measured(Force(kind="mean"), moved)[0].value
    (prediction,) = find_potential("chgnet").predict([moved], forces=True)
    sizes = np.linalg.norm(prediction.forces, axis=1)
    assert (largest, mean) == pytest.approx((sizes.max(), sizes.mean()), rel=1e-3)
    assert largest > 1
    assert prediction.forces[0, 0] < -1
    # It goes home: 1 of 8 sites by 0.2 Å, less the mean.
    expected = 0.2 * np.sqrt(7) / 8
    assert measured(Displacement(steps=40), moved)[0].value == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("strain", "sign"), [(-0.03, 1), (0.03, -1)])
def test_a_squeezed_cell_has_positive_pressure(relaxed, strain, sign):
    strained = relaxed.copy()
    strained.apply_strain(strain)
    (result,) = measured(Stress(), strained)
    assert sign * result.details["pressure"] > 5
    assert result.value >= abs(result.details["pressure"])


def test_symmetry_can_hide_a_wrong_volume_from_the_forces_but_not_from_the_stress():
    squeezed = rock_salt()
    squeezed.scale_lattice(0.8 * squeezed.volume)
    assert measured(Force(), squeezed)[0].value < 1e-3
    assert measured(Stress(), squeezed)[0].value > 3
    assert measured(Displacement(steps=3), squeezed)[0].value < 1e-4


@pytest.mark.parametrize("reward", [Force(), Stress(), Displacement(steps=2)])
def test_no_number_for_what_cannot_be_measured(reward):
    isolated, berkelium = reward.measure([ISOLATED, BERKELIUM])
    assert isinstance(isolated, Invalid)
    assert isinstance(berkelium, Failure)


def test_forces_and_energies_are_one_pass_whatever_comes_first(monkeypatch):
    calls = []
    real = chgnet._evaluate

    def evaluate(batch, forces):
        calls.append((len(batch), forces))
        return real(batch, forces)

    monkeypatch.setattr(chgnet, "_evaluate", evaluate)
    terms = tuple(Term(name) for name in ("stability", "magnetic_density", "force", "stress"))
    samples = Measurer(Plan(terms)).measure([rock_salt(), rutile()])
    assert calls == [(2, True)]
    assert all(isinstance(r, Measurement) for sample in samples for r in sample.results.values())
    calls.clear()
    Measurer(Plan(terms[:2])).measure([rock_salt()])
    assert calls == [(1, False)]


def test_displacement_and_stability_share_a_relaxation(monkeypatch):
    salt = rock_salt()
    with sharing():
        measured(Displacement(steps=2), salt)
        monkeypatch.setattr(relaxation_module, "relax", None)
        (result,) = Stability(relax=2).measure([salt])
    assert isinstance(result, Measurement)


@pytest.mark.parametrize("reward", [Force(), Stress(), Displacement()])
def test_low_is_good(reward):
    curve = reward.shaping()
    assert curve(0.0) == 1.0
    assert curve(reward.half_score) == pytest.approx(0.5)
    assert curve(2 * reward.half_score) > curve(10 * reward.half_score) > 0
