"""Charge neutrality by pymatgen's states and by SMACT: known compounds, alloys, what has no states."""

from __future__ import annotations

import pytest
from pymatgen.core import Composition, Lattice, Structure

from materium_rl.rewards.base import Failure, Measurement
from materium_rl.rewards.catalogue import smact_validity
from materium_rl.rewards.catalogue.charge_neutrality import ChargeNeutrality, least_charge
from materium_rl.rewards.catalogue.smact_validity import SmactValidity


def of(formula: str) -> Structure:
    """Any cell of a formula."""
    symbols = [e.symbol for e, n in Composition(formula).items() for _ in range(round(n))]
    return Structure(Lattice.cubic(20), symbols, [[i / 128, i / 64, i / 32] for i in range(len(symbols))])


@pytest.mark.parametrize(
    ("formula", "charge"),
    [
        ("NaCl", 0),
        ("LiFePO4", 0),
        ("Fe3O4", 0),
        ("YBa2Cu3O7", 0),
        ("TbTmAlAu", 0),  # metals
        ("O2", 0),
        ("NaCl2", 1 / 3),
        ("Na3Cl", 1 / 2),
        ("CaF3", 1 / 4),
        ("Li2O2F", 3 / 5),  # 2 - 4 - 1: the tables know no peroxides
    ],
)
def test_least_charge_of_known_formulas(formula, charge):
    assert least_charge(formula) == pytest.approx(charge, abs=1e-12)


def test_one_state_for_each_element():
    assert least_charge("Fe3O4", mixed_valence=False) == pytest.approx(1 / 7)  # 3 x 3 - 4 x 2
    assert least_charge("Fe2O3", mixed_valence=False) == 0


def test_alloys_are_judged_where_wanted():
    assert ChargeNeutrality().measure([of("NiTi")])[0].value == 0
    assert ChargeNeutrality(alloys=False).measure([of("NiTi")])[0].value > 1
    assert ChargeNeutrality(alloys=False).measure([of("Ti")])[0].value == 0
    assert SmactValidity().measure([of("NiTi")])[0].value == 1
    assert SmactValidity(alloys=False).measure([of("NiTi")])[0].value == 0


def test_written_states_do_not_count():
    wrong = of("NaCl2").add_oxidation_state_by_element({"Na": 2, "Cl": -1})
    assert ChargeNeutrality().measure([wrong]) == ChargeNeutrality().measure([of("NaCl2")])
    assert SmactValidity().measure([wrong]) == [Measurement(0.0)]


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", 1),
        ("LiFePO4", 1),
        ("TiO2", 1),
        ("YBa2Cu3O7", 1),
        ("UO2", 1),
        ("Kr", 1),
        ("NaCl2", 0),
        ("Fe3O4", 0),
        ("Ti5O9", 0),
    ],
)
def test_verdicts_of_smact(formula, valid):
    assert SmactValidity().measure([of(formula)]) == [Measurement(float(valid))]


def test_the_pauling_test_can_be_left_out():
    """Every neutral choice of states of PtH has the positive state on the more electronegative platinum."""
    assert SmactValidity().measure([of("HPt")]) == [Measurement(0.0)]
    assert SmactValidity(pauling_test=False).measure([of("HPt")]) == [Measurement(1.0)]


def test_what_has_no_states_is_a_failure():
    for reward in (ChargeNeutrality(), SmactValidity()):
        before, result, after = reward.measure([of("NaCl"), of("NaHe"), of("NaCl")])
        assert isinstance(result, Failure)
        assert "of He" in result.reason
        assert before == after


def test_too_many_choices_of_states_are_a_failure(monkeypatch):
    monkeypatch.setattr(smact_validity, "MOST_COMBINATIONS", 100)
    assert SmactValidity().measure([of("LiFePO4")])[0] == Failure(
        "189 choices of oxidation states; limit 100"
    )
