"""Capacities from the literature, and the test bench."""

import pytest
from battery_reward.capacity import CathodeCapacity
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Measurement
from materium_rl.rewards.bench.report import check_here


def crystal(text: str) -> Structure:
    """A cell with these sites; the capacity depends on the composition alone."""
    symbols = text.split()
    return Structure(Lattice.cubic(6.0), symbols, [[i / len(symbols), 0, 0] for i in range(len(symbols))])


@pytest.mark.parametrize(
    ("symbols", "options", "capacity"),
    [
        ("Li Fe P O O O O", {}, 169.9),
        ("Li Co O O", {}, 273.8),
        ("Li Mn Mn O O O O", {}, 148.2),
        ("Na Fe P O O O O", {"ion": "Na"}, 154.2),
        ("Li Li Mn O O O", {}, 229.4),  # two ions, but one electron
        ("Li Li Mn O O O", {"electrons": 2.0}, 458.8),
        ("Li", {}, 0.0),
        ("Mg O", {}, 0.0),
    ],
)
def test_capacities_of_the_literature(symbols: str, options: dict, capacity: float) -> None:
    (result,) = CathodeCapacity(**options).measure([crystal(symbols)])
    assert isinstance(result, Measurement)
    assert result.value == pytest.approx(capacity, abs=0.1)


def test_what_limits_is_said() -> None:
    ions, electrons = CathodeCapacity().measure([crystal("Li Co O O"), crystal("Li Li Mn O")])
    assert ions.details == {"limited_by": "ions"}
    assert electrons.details == {"limited_by": "electrons"}


def test_bench() -> None:
    report = check_here("cathode_capacity", CathodeCapacity)
    assert report.verdict == "pass", report.findings
