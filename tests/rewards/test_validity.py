"""Validity: real crystals pass, each kind of junk is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.base import Invalid, Measurement, Result
from materium_rl.rewards.catalogue.validity import Validity, widest_gap

NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
GRAPHITE = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(2.46, 6.7), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
)


def check(structure: Structure, **options: object) -> Result:
    return Validity(**options).measure([structure])[0]


def slab(vacuum: float, axis: int = 2) -> Structure:
    lengths = [5.64, 5.64, 5.64]
    lengths[axis] += vacuum
    return Structure(
        Lattice.orthorhombic(*lengths), NACL.species, NACL.cart_coords, coords_are_cartesian=True
    )


@pytest.mark.parametrize("structure", [NACL, GRAPHITE, NACL * (2, 1, 1)])
def test_real_crystals_are_valid(structure: Structure) -> None:
    assert check(structure).value == 1.0


def test_known_density_and_distance() -> None:
    details = check(NACL).details
    assert details["density"] == pytest.approx(2.164, abs=0.005)
    assert details["min_distance_ratio"] == pytest.approx(2.82 / (1.66 + 1.02), abs=1e-3)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]]), "closest sites"),
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.999, 0, 0]]), "closest sites"),
        (slab(12), "empty layer"),
        (slab(12, axis=0), "empty layer"),
        (Structure(Lattice.cubic(9), ["Xe"], [[0, 0, 0]]), "volume per atom"),
        (Structure(Lattice.cubic(1.5), ["Fe"], [[0, 0, 0]]), "volume per atom"),
        (Structure(Lattice.cubic(2.3), ["Os"], [[0, 0, 0]]), "density"),
        (
            Structure(Lattice.orthorhombic(2.5, 2.5, 60), ["Fe"] * 20, [[0, 0, i / 20] for i in range(20)]),
            "needle",
        ),
        (Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Fe"], [[0, 0, 0]]), "flat"),
        (Structure(Lattice.cubic(4), ["Fe"], [[np.nan, 0, 0]]), "not finite"),
        (Structure(Lattice.cubic(4), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]]), "disordered"),
        (Structure(Lattice.cubic(4), ["X0+"], [[0, 0, 0]]), "no element"),
        (Structure(Lattice.cubic(4), [], []), "no sites"),
    ],
)
def test_junk_is_invalid_for_the_right_reason(structure: Structure, reason: str) -> None:
    result = check(structure)
    assert isinstance(result, Invalid)
    assert reason in result.reason


def test_vacuum_is_found_in_a_skewed_cell() -> None:
    a, b, c = slab(12).lattice.matrix
    skewed = Structure(
        Lattice([a, b, c + 3 * a + 2 * b]), NACL.species, slab(12).cart_coords, coords_are_cartesian=True
    )
    assert "empty layer" in check(skewed).reason


def test_widest_gap_known_answer() -> None:
    centres = np.array([[1.0, 0, 0], [3.0, 0, 0]])
    gap = widest_gap(centres, np.array([1.0, 0.5]), np.array([10.0, 1.0, 1.0]))
    assert gap == pytest.approx(6.5)  # from 3.5 round to 10.0
    assert widest_gap(centres[:1], np.array([0.2]), np.array([2.0, 0.1, 0.1])) == pytest.approx(1.6)


def test_charge_neutrality_is_an_option() -> None:
    odd = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(6.5), ["Na", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]]
    )
    assert isinstance(check(odd), Measurement)
    assert "neutral" in check(odd, charge_neutrality=True).reason


@pytest.mark.filterwarnings("ignore")
def test_real_structures_pass_and_shuffled_sites_do_not(shared_data: Path) -> None:
    with gzip.open(shared_data / "mp_val.csv.gz") as file:
        cifs = pd.read_csv(file)["cif"]
    structures = [Structure.from_str(cif, fmt="cif") for cif in cifs[:400]]
    rng = np.random.default_rng(0)
    shuffled = [Structure(s.lattice, s.species, rng.random((len(s), 3))) for s in structures]
    validity = Validity()
    assert sum(isinstance(r, Measurement) for r in validity.measure(structures)) >= 0.985 * len(structures)
    assert sum(isinstance(r, Measurement) for r in validity.measure(shuffled)) <= 0.10 * len(structures)
