"""Mass density: handbook values and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.catalogue.density import Density

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6402), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
IRON = Structure(Lattice.cubic(2.8665), ["Fe", "Fe"], [[0] * 3, [0.5] * 3])
OSMIUM = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(2.7344, 4.3173), ["Os"], [[1 / 3, 2 / 3, 0.25]]
)


def test_known_densities():
    values = [result.value for result in Density().measure([SALT, IRON, OSMIUM])]
    assert values == pytest.approx([2.163, 7.874, 22.59], rel=2e-3)


def test_oxidation_states_and_cell_do_not_matter():
    charged = SALT.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    plain, *others = Density().measure([SALT, charged, SALT.get_primitive_structure()])
    assert [other.value for other in others] == pytest.approx([plain.value] * 2)


@pytest.mark.parametrize(
    ("structure", "kind", "reason"),
    [
        (Structure(Lattice.cubic(4), [], []), Invalid, "no sites"),
        (Structure(Lattice(np.full((3, 3), math.nan)), ["Fe"], [[0] * 3]), Invalid, "not finite"),
        (Structure(Lattice(np.zeros((3, 3))), ["Fe"], [[0] * 3]), Invalid, "less than 0.001 Å³"),
        (Structure(Lattice.cubic(4), ["X"], [[0] * 3]), Failure, "not an element"),
    ],
)
def test_no_number_for_what_cannot_be_measured(structure, kind, reason):
    before, result, after = Density().measure([IRON, structure, IRON])
    assert isinstance(result, kind)
    assert reason in result.reason
    assert before == after


def test_shaping():
    assert Density(target=7, width=1).shaping()(8) == pytest.approx(0.5)
    with pytest.raises(ValidationError):
        Density(target=0)
