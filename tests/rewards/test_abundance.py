"""Crustal abundance: tabulated elements, the rarest decides, elements without data."""

from __future__ import annotations

from math import log10

import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure
from materium_rl.rewards.catalogue.abundance import Abundance


def of(*symbols: str) -> Structure:
    return Structure(Lattice.cubic(4), symbols, [[i / 8] * 3 for i in range(len(symbols))])


def test_elements_have_their_handbook_abundance():
    """CRC Handbook, 92nd edition, mg/kg."""
    table = {
        "O": 4.61e5,
        "Si": 2.82e5,
        "Al": 8.23e4,
        "Fe": 5.63e4,
        "Cu": 60,
        "La": 39,
        "Au": 0.004,
        "Re": 7e-4,
    }
    values = [result.value for result in Abundance().measure([of(symbol) for symbol in table])]
    assert values == pytest.approx([log10(value) for value in table.values()])


def test_the_rarest_element_decides():
    telluride = of("Bi", "Bi", "Te", "Te", "Te").add_oxidation_state_by_element({"Bi": 3, "Te": -2})
    (result,) = Abundance().measure([telluride])
    assert result.value == pytest.approx(log10(0.001))
    assert result.details == {"rarest_element": "Te"}


@pytest.mark.parametrize("symbol", ["Tc", "Pm", "Pu", "Lr", "Rf"])
def test_elements_without_data_are_failures(symbol):
    (result,) = Abundance().measure([of("Fe", symbol)])
    assert result == Failure(f"no crustal abundance of {symbol}")


def test_high_is_good_unless_there_is_a_target():
    assert [Abundance().shaping()(value) for value in (-3, -2, 3, 5)] == [0.0, 0.0, 1.0, 1.0]
    assert Abundance(target=1.0, width=0.5).shaping()(1.5) == pytest.approx(0.5)
