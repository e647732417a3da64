"""Market concentration: tabulated elements, the mass average, and elements without data."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.catalogue.hhi import HHI


def of(*symbols: str) -> Structure:
    return Structure(Lattice.cubic(4), symbols, [[i / 8] * 3 for i in range(len(symbols))])


def test_elements_have_their_tabulated_index():
    """The table of Gaultois et al., production and reserves."""
    structures = [of("Fe"), of("Si"), of("Nd")]
    assert [r.value for r in HHI().measure(structures)] == pytest.approx([2400, 4700, 9500])
    assert [r.value for r in HHI(kind="reserve").measure(structures)] == pytest.approx([1400, 1000, 3100])


def test_a_compound_is_the_average_by_mass():
    expected = (2400 * 2 * 55.845 + 500 * 3 * 15.999) / (2 * 55.845 + 3 * 15.999)
    hematite = of("Fe", "Fe", "O", "O", "O")
    charged = hematite.copy().add_oxidation_state_by_element({"Fe": 3, "O": -2})
    plain, decorated = HHI().measure([hematite, charged])
    assert plain.value == pytest.approx(expected, rel=1e-4)
    assert decorated == plain


@pytest.mark.parametrize(
    ("structure", "kind", "reason"),
    [
        (of("U", "O"), Failure, "no market data for U"),
        (of("H", "Tc"), Failure, "H, Tc"),
        (of("X"), Failure, "X"),
        (Structure(Lattice.cubic(4), [], []), Invalid, "no sites"),
    ],
)
def test_no_number_for_what_cannot_be_measured(structure, kind, reason):
    (result,) = HHI().measure([structure])
    assert isinstance(result, kind)
    assert reason in result.reason


def test_low_is_good_unless_there_is_a_target():
    assert [HHI().shaping()(value) for value in (800, 1500, 2500)] == [1.0, 1.0, 0.5]
    assert HHI(target=4000).shaping()(4000) == 1.0
    for wrong in ({"target": 20_000}, {"width": 100}, {"kind": "price"}):
        with pytest.raises(ValidationError):
            HHI(**wrong)
