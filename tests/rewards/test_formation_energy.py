"""Formation energies of known crystals, on the scale of the stability reward."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue import formation_energy as module
from materium_rl.rewards.catalogue.formation_energy import FormationEnergy
from materium_rl.rewards.catalogue.stability import Stability

COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.62), ["Cu"], [[0] * 3])
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
MAGNESIA = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.26), ["Mg", "O"], [[0] * 3, [0.5] * 3])
YTTERBIUM = Structure(Lattice.cubic(3.9), ["Yb", "Yb"], [[0] * 3, [0.5] * 3])
OVERLAPPING = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0] * 3, [0.01, 0, 0]])


def test_known_crystals_match_the_materials_project():
    values = [result.value for result in FormationEnergy().measure([COPPER, SALT, MAGNESIA])]
    assert values == pytest.approx([0.0, -2.11, -3.05], abs=0.06)


def test_is_the_formation_energy_of_the_stability_reward():
    (mine,), (stability,) = FormationEnergy().measure([SALT]), Stability().measure([SALT])
    assert mine.value == pytest.approx(stability.details["formation_energy"], abs=1e-6)


def test_a_stretched_crystal_lies_higher():
    stretched = SALT.copy()
    stretched.scale_lattice(SALT.volume * 1.5)
    relaxed, strained = FormationEnergy().measure([SALT, stretched])
    assert strained.value > relaxed.value + 0.1


def test_no_number_for_what_cannot_be_measured():
    ytterbium, overlapping = FormationEnergy().measure([YTTERBIUM, OVERLAPPING])
    assert isinstance(ytterbium, Failure)
    assert "Yb" in ytterbium.reason
    assert isinstance(overlapping, Invalid)


@pytest.mark.parametrize(("value", "expected"), [(-7.0, Failure), (-5.0, Measurement), (2.0, Measurement)])
def test_an_energy_lower_than_any_known_is_never_rewarded(monkeypatch, value, expected):
    offset = module.load_hull().formation_energy(SALT.composition, 0.0)
    monkeypatch.setattr(module, "chgnet_energies", lambda structures: [value - offset])
    (result,) = FormationEnergy().measure([SALT])
    assert isinstance(result, expected)


def test_low_is_good_unless_there_is_a_target():
    curve = FormationEnergy().shaping()
    assert [curve(value) for value in (0.3, 0.0, -1.0, -3.0)] == [0.0, 0.0, 0.5, 1.0]
    assert FormationEnergy(target=-1.5, width=0.1).shaping()(-1.6) == pytest.approx(0.5)
    for wrong in ({"target": -9}, {"width": 0.1}, {"target": -1, "width": 0}):
        with pytest.raises(ValidationError):
            FormationEnergy(**wrong)
