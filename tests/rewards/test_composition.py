"""The composition reward: shares that are met, contradictions, all or nothing."""

from __future__ import annotations

import pytest
from pymatgen.core import Composition, Lattice, Structure
from real_structures import rock_salt

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Measurement
from materium_rl.rewards.catalogue.composition import CompositionMatch
from materium_rl.rewards.describe import describe
from materium_rl.rewards.expression import Term


def of(formula: str) -> Structure:
    """Any cell of a formula."""
    symbols = [e.symbol for e, n in Composition(formula).items() for _ in range(round(n))]
    return Structure(Lattice.cubic(9), symbols, [[i / 16, i / 8, i / 4] for i in range(len(symbols))])


@pytest.mark.parametrize(
    ("options", "formula", "value", "unmet"),
    [
        ({"allowed": "Li,Fe,O"}, "LiFeO2", 1.0, ""),
        ({"allowed": "Li,O"}, "LiFeO2", 3 / 4, "allowed"),
        ({"forbidden": "Pb,Cd"}, "PbTiO3", 4 / 5, "forbidden"),
        ({"required": ["Li", "P"]}, "LiFeO2", 1 / 2, "required"),
        ({"chemical_system": "Li-Fe-O"}, "Li5FeO4", 1.0, ""),
        ({"chemical_system": "Li-Fe-O"}, "LiFePO4", 3 / 4, "chemical_system"),
        ({"chemical_system": "Li-Fe-O"}, "FeO", 2 / 3, "chemical_system"),
        ({"n_elements": "2..3"}, "CaO", 1.0, ""),
        ({"n_elements": 2}, "LiFePO4", 1 / 3, "n_elements"),
        ({"formula": "LiFeO2"}, "Li2Fe2O4", 1.0, ""),
        ({"formula": "LiFeO2"}, "FeO", 1 / 4 + 1 / 2, "formula"),
        ({"formula": "LiFeO2"}, "KBr", 0.0, "formula"),
        ({"required": "O", "forbidden": "F"}, "NaF", (0 + 1 / 2) / 2, "forbidden, required"),
    ],
)
def test_how_far_constraints_are_met(options, formula, value, unmet):
    (result,) = CompositionMatch(**options).measure([of(formula)])
    assert result.value == pytest.approx(value)
    assert result.details == {"unmet": unmet}
    assert (result.value == 1.0) is (unmet == "")


def test_sites_are_those_of_the_primitive_cell():
    salt = rock_salt()
    assert len(salt) == 8
    assert CompositionMatch(n_sites=2).measure([salt]) == [Measurement(1.0, details={"unmet": ""})]
    assert CompositionMatch(n_sites="5..9").measure([salt])[0].value == pytest.approx(1 / 4)


def test_all_or_nothing():
    assert [CompositionMatch(required="O").shaping()(v) for v in (0.5, 1.0)] == [0.5, 1.0]
    assert [CompositionMatch(required="O", strict=True).shaping()(v) for v in (0.999, 1.0)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no constraint given; expected one or more of allowed"),
        ({"strict": True}, "no constraint given"),
        ({"required": "Oxygen"}, "'Oxygen' is not an element"),
        ({"chemical_system": "Li-Fe", "forbidden": "Fe"}, "chemical_system Fe-Li: Fe both"),
        ({"chemical_system": "Li-Fe", "required": "O"}, "chemical_system Fe-Li: O required but not among"),
        ({"chemical_system": "Li-Fe", "n_elements": 3}, "chemical_system Fe-Li: n_elements of at least 3"),
        ({"formula": "LiFeO2", "n_sites": 5}, "no multiple of the 4 sites"),
    ],
)
def test_what_cannot_be_met_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        registry.create("composition", options)


def test_shown_without_a_constraint_too():
    assert "score: depends on the options (reward 'composition': no constraint" in describe(
        Term("composition")
    )
    with pytest.raises(ConfigError, match="not an element"):
        describe(Term("composition", {"required": "Oxygen"}))


def test_what_is_no_element_is_a_failure():
    assert isinstance(CompositionMatch(required="O").measure([of("X")])[0], Failure)
