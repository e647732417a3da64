"""Potentials: CHGNet against its own code, forces against differences, other calculators, energy scales."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from real_structures import aflow_structures, rock_salt, rutile

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.potentials.base import EV_PER_A3, Cell, Potential, Prediction, neighbours
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.potentials.chgnet import load_chgnet
from materium_rl.rewards.potentials.chgnet_graph import find_bonds, join
from materium_rl.rewards.potentials.mp_corrections import mp2020_correction

EMT_PATH = "ase.calculators.emt:EMT"
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.5), ["Cu"], [[0] * 3])
ALLOY = Structure(
    Lattice.cubic(3.8), ["Au", "Cu", "Cu", "Cu"], [[0] * 3, [0.52, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
)
NO_ANGLES = Structure(Lattice.cubic(4.2), ["Cs"], [[0] * 3])
"""Every bond is longer than 3 Å."""


@pytest.fixture(scope="module")
def chgnet() -> Potential:
    potential = find_potential("chgnet")
    potential.load()
    return potential


def shaken(structure: Structure) -> Structure:
    """Each site moved by about 0.1 Å, the same way each time."""
    moves = np.random.default_rng(0).normal(0, 0.06, (len(structure), 3))
    moved = structure.copy()
    for site, move in enumerate(moves):
        moved.translate_sites([site], move, frac_coords=False)
    return moved


def predicted(potential: Potential, *structures: Structure) -> list[Prediction]:
    results = potential.predict(structures, forces=True)
    assert all(isinstance(result, Prediction) for result in results), results
    return results


def test_chgnet_is_the_published_network(chgnet):
    known = [s for s in aflow_structures(12) if max(s.atomic_numbers) <= 94]
    structures = [shaken(s) for s in known[::20]] + [NO_ANGLES, shaken(rutile())]
    native = load_chgnet().predict_structure(structures, task="efsm")
    for ours, theirs in zip(predicted(chgnet, *structures), native, strict=True):
        assert ours.energy_per_atom == pytest.approx(theirs["e"], abs=2e-5)
        np.testing.assert_allclose(ours.magmoms, theirs["m"], atol=1e-4)
        np.testing.assert_allclose(ours.forces, theirs["f"], atol=1e-3)
        np.testing.assert_allclose(ours.stress, theirs["s"], atol=5e-3)


def test_energies_do_not_depend_on_whether_forces_are_asked_for(chgnet):
    structures = [rock_salt(), rutile()]
    plain = [prediction.energy_per_atom for prediction in chgnet.predict(structures)]
    assert [p.energy_per_atom for p in predicted(chgnet, *structures)] == pytest.approx(plain, abs=1e-6)
    assert chgnet.predict(structures)[0].forces is None


def test_bonds_are_those_of_the_neighbour_list():
    structure = shaken(rutile())
    bonds = find_bonds(Cell.of(structure))
    assert 2 * len(bonds.first) == len(structure.get_neighbor_list(6.0)[0])
    np.testing.assert_allclose(np.linalg.norm(bonds.vectors, axis=1), bonds.lengths)
    expected = np.sort(structure.get_neighbor_list(6.0)[3])[::2]
    np.testing.assert_allclose(np.sort(bonds.lengths), expected)


def test_angles_are_all_ordered_pairs_of_short_bonds():
    cells = [Cell.of(shaken(rutile())), Cell.of(NO_ANGLES), Cell.of(rock_salt())]
    graph = join(cells, [find_bonds(cell) for cell in cells])
    expected = 0
    for cell in cells:
        centre = neighbours(cell, 3.0)[0]
        counts = np.bincount(centre, minlength=len(cell.numbers))
        expected += int((counts * (counts - 1)).sum())
    assert len(graph.left) == len(set(zip(graph.left, graph.right, strict=True))) == expected
    assert (graph.centres[graph.left] == graph.centres[graph.right]).all()
    assert (graph.left != graph.right).all()


@pytest.mark.parametrize("calculator", ["chgnet", EMT_PATH])
def test_forces_and_stress_are_the_slope_of_the_energy(calculator):
    potential = find_potential(calculator, None if calculator == "chgnet" else "uncorrected")
    structure = shaken(rutile()) if calculator == "chgnet" else ALLOY
    (prediction,) = predicted(potential, structure)
    step = 0.005
    both = []
    for sign in (1, -1):
        moved = structure.copy()
        moved.translate_sites([1], [sign * step, 0, 0], frac_coords=False)
        stretched = structure.copy()
        stretched.apply_strain([sign * step / 4, 0, 0])
        both.append([p.energy_per_atom * len(structure) for p in predicted(potential, moved, stretched)])
    (moved_up, stretched_up), (moved_down, stretched_down) = both
    assert prediction.forces[1, 0] == pytest.approx(-(moved_up - moved_down) / (2 * step), rel=0.02, abs=0.01)
    if np.allclose(structure.lattice.angles, 90):  # the first lattice vector lies along x
        slope = (stretched_up - stretched_down) / (step / 2) / structure.volume * EV_PER_A3
        assert prediction.stress[0, 0] == pytest.approx(slope, rel=0.02, abs=0.1)


@pytest.mark.parametrize(("calculator", "scale"), [("chgnet", None), (EMT_PATH, "uncorrected")])
def test_a_squeezed_cell_has_negative_stress(calculator, scale):
    squeezed, stretched = COPPER.copy(), COPPER.copy()
    squeezed.scale_lattice(0.85 * COPPER.volume)
    stretched.scale_lattice(1.3 * COPPER.volume)
    one, other = predicted(find_potential(calculator, scale), squeezed, stretched)
    assert np.trace(one.stress) < -10
    assert np.trace(other.stress) > 10


def test_any_ase_calculator_gives_what_ase_gives():
    atoms = AseAtomsAdaptor.get_atoms(ALLOY)
    atoms.calc = EMT()
    potential = find_potential(EMT_PATH, "uncorrected")
    assert potential is find_potential(EMT_PATH, "uncorrected")
    (prediction,) = predicted(potential, ALLOY)
    assert prediction.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 4)
    np.testing.assert_allclose(prediction.forces, atoms.get_forces())
    assert potential.version.startswith("ase.calculators.emt:EMT, 3.")


def test_what_a_calculator_cannot_do_fails_alone():
    isolated = Structure(Lattice.cubic(7), ["Cu"], [[0] * 3])
    overlapping = Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0] * 3, [0.01, 0, 0]])
    disordered = Structure(Lattice.cubic(4), [{"Cu": 0.5, "Au": 0.5}], [[0] * 3])
    results = find_potential(EMT_PATH, "uncorrected").predict(
        [COPPER, rock_salt(), overlapping, disordered, isolated, COPPER]
    )
    assert [type(result) for result in results] == [
        Prediction,
        Failure,
        Invalid,
        Invalid,
        Prediction,
        Prediction,
    ]
    assert "NotImplementedError" in results[1].reason
    assert results[0].energy_per_atom == results[5].energy_per_atom


def salt(a: float, cation: str, anion: str) -> Structure:
    """Rock salt."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0] * 3, [0.5] * 3])


def body_centred(a: float, one: str, other: str) -> Structure:
    return Structure(Lattice.cubic(a), [one, other], [[0] * 3, [0.5] * 3])


RUTILE_FEF2 = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.7, 3.3), ["Fe", "F"], [[0] * 3, [0.3, 0.3, 0]]
)


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (salt(4.2, "Mg", "O"), -0.687 / 2),
        (salt(5.7, "Na", "Cl"), -0.614 / 2),
        (salt(4.3, "Fe", "O"), (-2.256 - 0.687) / 2),  # with U
        (RUTILE_FEF2, (-2.256 - 2 * 0.462) / 3),  # with U
        (salt(5.0, "Fe", "S"), -0.503 / 2),  # without
        (body_centred(2.85, "Fe", "Co"), 0.0),
        (body_centred(2.83, "Fe", "Fe"), 0.0),
    ],
)
def test_mp2020_corrections(structure, expected):
    """The table of Wang et al., Sci. Rep. 11, 15496 (2021): eV per anion or transition metal."""
    assert mp2020_correction(structure) == pytest.approx(expected, abs=1e-9)
    charged = structure.copy()
    charged.add_oxidation_state_by_guess()
    assert mp2020_correction(charged) == pytest.approx(expected, abs=1e-9)


def hematite() -> Structure:
    return Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.04, 13.75), ["Fe", "O"], [[0, 0, 0.355], [0.306, 0, 0.25]]
    )


def test_corrections_of_hematite_and_a_peroxide():
    assert mp2020_correction(hematite()) == pytest.approx((2 * -2.256 + 3 * -0.687) / 5)
    peroxide = Structure.from_spacegroup(  # Li2O2
        "P6_3/mmc",
        Lattice.hexagonal(3.18, 7.72),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.75], [1 / 3, 2 / 3, 0.15]],
    )
    assert mp2020_correction(peroxide) == pytest.approx(-0.465 / 2)


def test_uncorrected_energies_are_moved_to_the_scale_of_the_hull():
    """The formation energy of an oxide differs by its correction, and by nothing else."""

    def formation_energy(scale: str) -> float:
        (result,) = Stability(calculator=EMT_PATH, scale=scale).measure([oxide])
        assert isinstance(result, Measurement)
        return result.details["formation_energy"]

    oxide = salt(4.2, "Cu", "O")
    assert formation_energy("uncorrected") == pytest.approx(formation_energy("mp2020") - 0.687 / 2)


def test_sevennet_reproduces_the_stability_of_known_crystals():
    pytest.importorskip("sevenn")
    crystals = [rock_salt(), salt(4.25, "Mg", "O"), rutile(), hematite()]
    results = Stability(calculator="sevenn").measure(crystals)
    assert all(isinstance(result, Measurement) for result in results), results
    formation = [result.details["formation_energy"] for result in results]
    assert formation[:3] == pytest.approx([-2.11, -3.06, -3.45], abs=0.03)  # Materials Project
    assert formation[3] == pytest.approx(-1.71, abs=0.15)  # 1.31 of it corrections
    assert results[0].details["calculator"].startswith("SevenNet-0, sevenn 0.")


@pytest.mark.parametrize(
    ("calculator", "package", "extra"), [("mace", "mace", "mace"), ("sevenn", "sevenn", "sevennet")]
)
def test_a_missing_package_says_how_to_install_it(monkeypatch, calculator, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.calculator", None)
    monkeypatch.setitem(sys.modules, f"{package}.calculators", None)
    find_potential.cache_clear()
    with pytest.raises(RewardError, match=rf'pip install "materium-rl\[{extra}\]"'):
        find_potential(calculator).load()
    find_potential.cache_clear()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_package.module:Calculator", "cannot be imported"),
        ("ase.calculators.emt:Missing", "cannot be imported"),
        ("collections:OrderedDict", "no ASE calculator"),
        ("ase.calculators.vasp:missing", "cannot be imported"),
    ],
)
def test_a_wrong_import_path_is_an_error_that_says_why(name, reason):
    with pytest.raises(RewardError, match=reason):
        find_potential(name, "uncorrected").load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A potential for Na and Cl that matgl saved."""
    pytest.importorskip("matgl")
    import torch
    from matgl.apps.pes import Potential as MatGLPotential
    from matgl.models import TensorNet

    torch.manual_seed(0)
    network = TensorNet(element_types=("Na", "Cl"), units=8, nblocks=1, num_rbf=4, is_intensive=False)
    path = tmp_path_factory.mktemp("matgl") / "potential"
    MatGLPotential(network, data_mean=-3.0, element_refs=np.array([-1.0, -2.0])).save(path)
    return path


def test_a_saved_matgl_potential_gives_what_matgl_gives(folder):
    from matgl.ext.ase import PESCalculator
    from matgl.utils.io import load_model

    atoms = AseAtomsAdaptor.get_atoms(shaken(rock_salt()))
    atoms.calc = PESCalculator(load_model(folder), stress_unit="eV/A3", use_voigt=True)
    potential = find_potential(f"matgl:{folder}", "uncorrected")
    (prediction,) = predicted(potential, AseAtomsAdaptor.get_structure(atoms))
    assert prediction.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 8, abs=1e-5)
    np.testing.assert_allclose(prediction.forces, atoms.get_forces(), atol=1e-4)
    np.testing.assert_allclose(prediction.stress, atoms.get_stress(voigt=False) * EV_PER_A3, atol=1e-3)
    assert "matgl 4" in potential.version


def test_stability_takes_a_matgl_potential(folder):
    salt, other = Stability(calculator=f"matgl:{folder}", scale="mp2020").measure([rock_salt(), rutile()])
    assert isinstance(salt, Measurement | Failure)
    assert "suspicious" in salt.reason if isinstance(salt, Failure) else salt.value > 0
    assert isinstance(other, Failure)


def test_a_folder_without_a_matgl_model_is_an_error(tmp_path):
    pytest.importorskip("matgl")
    with pytest.raises(RewardError, match=r"model\.json"):
        find_potential(f"matgl:{tmp_path}", "uncorrected").load()


def test_sevennet_gives_the_same_energies_in_batches_without_forces():
    pytest.importorskip("sevenn")
    potential = find_potential("sevenn")
    overlapping = Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0] * 3, [0.01, 0, 0]])
    unknown = Structure(Lattice.cubic(5), ["Po"], [[0] * 3])
    structures = [shaken(rutile()), overlapping, rock_salt(), unknown, COPPER]
    plain = potential.predict(structures)
    with_forces = potential.predict(structures, forces=True)
    assert [type(result) for result in plain] == [Prediction, Invalid, Prediction, Failure, Prediction]
    for one, other in zip(plain, with_forces, strict=True):
        if isinstance(one, Prediction):
            assert one.forces is None
            assert one.energy_per_atom == pytest.approx(other.energy_per_atom, abs=1e-5)
