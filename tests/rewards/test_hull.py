"""The convex hull: known answers by hand, and agreement with pymatgen's PhaseDiagram."""

from __future__ import annotations

import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from materium_rl.errors import MateriumError
from materium_rl.rewards.hull import Hull, MissingReferenceError, load_hull, parse_formula

PHASES = {"NaCl": -2.0, "NaCl3": -0.7, "Na2Cl": -1.5, "Na2KCl": -1.2}


@pytest.fixture
def toy() -> Hull:
    references = {"Na": -1.5, "K": -1.0, "Cl": -2.0}
    return Hull([(parse_formula(formula), energy) for formula, energy in PHASES.items()], references)


def test_parse_formula_merges_and_normalises() -> None:
    assert parse_formula("Fe2O3") == (("Fe", 0.4), ("O", 0.6))
    assert parse_formula("CHO") == parse_formula("OHC")


@pytest.mark.parametrize(
    ("formula", "formation_energy", "expected"),
    [
        ("Na", 0.05, 0.05),  # an element competes with its ground state
        ("NaCl", -2.0, 0.0),  # the candidate's own formula is on the hull
        ("NaCl", -2.3, -0.3),  # below the hull stays negative
        ("Na3Cl", -0.9, 0.225),  # Na2Cl + Na at -1.125
        ("NaCl3", -0.7, 0.3),  # NaCl + Cl at -1.0: listed, but above the hull itself
        ("Na2Cl", -1.4, 0.1),  # listed at -1.5, on the hull (NaCl + Na would be -1.3333)
        ("Na2KCl", -1.1, 0.1),  # listed at -1.2, on the hull (Na2Cl + K would be -1.125)
        ("NaKCl2", 0.0, 1.0),  # half NaCl, no K chloride known
    ],
)
def test_energy_above_a_hull_drawn_by_hand(
    toy: Hull, formula: str, formation_energy: float, expected: float
) -> None:
    assert toy.e_above_hull(Composition(formula), formation_energy) == pytest.approx(expected, abs=1e-9)


def test_oxidation_states_change_nothing(toy: Hull) -> None:
    charged = Composition({"Na+": 1, "Cl-": 1})
    assert toy.e_above_hull(charged, -1.9) == pytest.approx(0.1)
    assert toy.formation_energy(charged, -3.75) == pytest.approx(-2.0)


def test_missing_reference_names_the_element(toy: Hull) -> None:
    with pytest.raises(MissingReferenceError, match="Yb") as caught:
        toy.formation_energy(Composition("YbCl"), -3.0)
    assert isinstance(caught.value, MateriumError)
    with pytest.raises(MissingReferenceError, match="Yb"):
        load_hull().e_above_hull(Composition("Yb2O3"), -3.0)


@pytest.mark.parametrize(
    "elements", ["Fe O", "Li Fe O", "Na Cl S", "La Ni O F", "Ba Ti O H C", "Cu Zn Sn S Se"]
)
def test_bundled_hull_agrees_with_pymatgen(elements: str) -> None:
    hull, names = load_hull(), sorted(elements.split())
    shares, energies = hull._build_system(tuple(names))
    entries = [
        PDEntry(Composition(dict(zip(names, column, strict=True))), energy)
        for column, energy in zip(shares.T, energies, strict=True)
    ]
    diagram = PhaseDiagram(entries)
    for index in range(1, 8):  # candidates anywhere in the system, stable formulas or not
        candidate = Composition({name: 1 + (index * (row + 2)) % 5 for row, name in enumerate(names)})
        expected = diagram.get_hull_energy_per_atom(candidate)
        assert hull.e_above_hull(candidate, 0.0) == pytest.approx(-expected, abs=1e-6)


@pytest.mark.parametrize(
    ("formula", "formation_energy", "tolerance"),
    # Formation energies of the Materials Project with MP2020 corrections, eV/atom.
    [("NaCl", -2.10, 0.05), ("MgO", -3.04, 0.05), ("Al2O3", -3.44, 0.05), ("TiO2", -3.51, 0.08)],
)
def test_known_stable_compounds_lie_on_the_bundled_hull(
    formula: str, formation_energy: float, tolerance: float
) -> None:
    assert load_hull().e_above_hull(Composition(formula), formation_energy) == pytest.approx(0, abs=tolerance)
