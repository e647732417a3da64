"""Batched relaxation: ASE's own steps, constraints, and what ends one structure but not the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from real_structures import rock_salt, rutile

from materium_rl.rewards import relaxation as relaxation_module
from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.potentials.base import Cell, Potential, Predicted, Prediction
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.potentials.chgnet import load_chgnet
from materium_rl.rewards.relaxation import Relaxed, relax, relaxation, rmsd

ALLOY = Structure(
    Lattice.from_parameters(3.7, 3.9, 4.1, 85, 92, 97),
    ["Au", "Cu", "Cu", "Cu"],
    [[0.03, 0, 0], [0.55, 0.5, 0.02], [0.5, 0.02, 0.47], [0, 0.5, 0.55]],
)


@pytest.fixture(scope="module")
def emt() -> Potential:
    return find_potential("ase.calculators.emt:EMT", "uncorrected")


class Scripted(Potential):
    """Answers what a function says of a cell and its number of earlier answers."""

    name = "scripted"
    scale = "mp2020"
    version = "1"

    def __init__(self, answer: Callable[[Cell], Predicted]) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def load(self) -> None:
        pass

    def calculate(self, cells: Sequence[Cell], *, forces: bool) -> list[Predicted]:
        self.batches.append(len(cells))
        return [self.answer(cell) for cell in cells]


def pulled(force: float, stress: float = 0.0, energy: float = -1.0) -> Callable[[Cell], Prediction]:
    """The same force on the second site along x, and the same stress, for ever."""

    def answer(cell: Cell) -> Prediction:
        forces = np.zeros((len(cell.numbers), 3))
        forces[-1, 0] = force
        return Prediction(energy, forces=forces, stress=stress * np.eye(3))

    return answer


@pytest.mark.parametrize("fix_cell", [False, True])
def test_takes_the_steps_of_ase(emt, fix_cell):
    atoms = AseAtomsAdaptor.get_atoms(ALLOY)
    atoms.calc = EMT()
    optimizer = FIRE(atoms if fix_cell else FrechetCellFilter(atoms), logfile=None)
    optimizer.run(fmax=0.05, steps=40)
    (end,) = relax([ALLOY], emt, steps=40, max_force=0.05, fix_cell=fix_cell)
    assert isinstance(end, Relaxed)
    np.testing.assert_allclose(end.structure.cart_coords, atoms.positions, atol=1e-7)
    np.testing.assert_allclose(end.structure.lattice.matrix, atoms.cell[:], atol=1e-7)
    assert end.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 4)
    assert end.max_force == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-6)
    assert end.steps == optimizer.nsteps


def test_chgnet_relaxes_as_chgnet_under_ase():
    from chgnet.model.dynamics import CHGNetCalculator

    structures = [rutile(), rock_salt().get_primitive_structure()]
    for structure in structures:
        structure.translate_sites([1], [0.1, -0.05, 0.08], frac_coords=False)
        structure.scale_lattice(structure.volume * 1.05)
    ends = relax(structures, find_potential("chgnet"), steps=6)
    for structure, end in zip(structures, ends, strict=True):
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.calc = CHGNetCalculator(load_chgnet(), on_isolated_atoms="error")
        optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
        optimizer.run(fmax=0.05, steps=6)
        assert end.steps == optimizer.nsteps
        assert end.energy_per_atom == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-4)


def test_a_relaxed_crystal_has_small_forces_and_no_stress(emt):
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.4), ["Cu"], [[0] * 3])
    (end,) = relax([copper], emt, steps=200, max_force=0.001)
    assert end.converged
    assert end.structure.lattice.a == pytest.approx(3.59, abs=0.01)  # the constant that EMT was fitted to
    (prediction,) = emt.predict([end.structure], forces=True)
    assert np.abs(prediction.stress).max() < 0.1
    assert prediction.energy_per_atom == pytest.approx(end.energy_per_atom)


def test_nothing_is_changed_and_each_keeps_its_place(emt):
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.5), ["Cu"], [[0] * 3])
    overlapping = Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0] * 3, [0.01, 0, 0]])
    disordered = Structure(Lattice.cubic(4), [{"Cu": 0.5, "Au": 0.5}], [[0] * 3])
    given = [ALLOY, overlapping, rock_salt(), copper, disordered]
    before = [structure.copy() for structure in given]
    ends = relax(given, emt, steps=5)
    assert [type(end) for end in ends] == [Relaxed, Invalid, Failure, Relaxed, Invalid]
    assert given == before
    alone = [relax([structure], emt, steps=5)[0] for structure in (ALLOY, copper)]
    assert [end.energy_per_atom for end in alone] == [ends[0].energy_per_atom, ends[3].energy_per_atom]
    assert relax([], emt, steps=5) == []


def test_a_waiting_list_changes_nothing(emt, monkeypatch):
    structures = [ALLOY.copy() for _ in range(5)]
    for i, structure in enumerate(structures):
        structure.scale_lattice(structure.volume * (0.9 + 0.05 * i))
    expected = [end.energy_per_atom for end in relax(structures, emt, steps=6)]
    monkeypatch.setattr(relaxation_module, "TOGETHER", 2)
    assert [end.energy_per_atom for end in relax(structures, emt, steps=6)] == expected


def test_finished_structures_leave_the_batch():
    def answer(cell: Cell) -> Prediction:
        return pulled(1.0 if cell.numbers[0] == 29 else 0.0)(cell)

    potential = Scripted(answer)
    copper, gold = (Structure(Lattice.cubic(4), [e, e], [[0] * 3, [0.5] * 3]) for e in ("Cu", "Au"))
    moving, done = relax([copper, gold], potential, steps=3)
    assert potential.batches == [2, 1, 1, 1]
    assert (done.steps, done.converged, moving.steps, moving.converged) == (0, True, 3, False)
    assert moving.max_force == 1.0


def once_moved(answer: Predicted) -> Callable[[Cell], Predicted]:
    """As ``pulled``, until the second site has moved by 0.2 Å."""
    return lambda cell: pulled(1.0)(cell) if cell.positions[-1, 0] < 2.2 else answer


PAIR = Cell(np.array([29, 29]), np.zeros((2, 3)), np.eye(3))


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (pulled(0.0, stress=-500.0), Invalid, "Å³ per site"),
        (pulled(0.0, stress=500.0), Invalid, "(Å³ per site|Å apart)"),
        (once_moved(pulled(1.0, energy=-1e5)(PAIR)), Invalid, "-1e.05 eV/atom"),
        (once_moved(pulled(np.nan)(PAIR)), Failure, "force that is not finite"),
        (once_moved(Failure("out of memory")), Failure, "out of memory"),
    ],
)
def test_a_relaxation_that_diverges_ends_alone(answer, kind, reason):
    bad = Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0] * 3, [0.5] * 3])
    good = Structure(Lattice.cubic(4), ["Au", "Au"], [[0] * 3, [0.5] * 3])
    potential = Scripted(lambda cell: answer(cell) if cell.numbers[0] == 29 else pulled(0.0)(cell))
    end, other = relax([bad, good], potential, steps=500)
    assert type(end) is kind
    assert re.search(rf"broke off after \d+ steps: .*{reason}", end.reason), end
    assert isinstance(other, Relaxed)


def test_a_fixed_cell_stays(emt):
    (end,) = relax([ALLOY], emt, steps=20, fix_cell=True)
    np.testing.assert_allclose(end.structure.lattice.matrix, ALLOY.lattice.matrix)
    assert rmsd(ALLOY, end.structure) > 0.05


def test_symmetry_is_kept_against_forces_that_break_it():
    def skewed(cell: Cell) -> Prediction:
        forces = np.linspace(-0.5, 1.0, 3 * len(cell.numbers)).reshape(-1, 3)
        return Prediction(-1.0, forces=forces, stress=np.array([[1.0, 3, 0], [3, -8, 2], [0, 2, 5]]))

    free, kept = (
        relax([rutile()], Scripted(skewed), steps=10, keep_symmetry=keep)[0].structure
        for keep in (False, True)
    )
    number = SpacegroupAnalyzer(kept, symprec=1e-4).get_space_group_number()
    assert number == 136
    assert SpacegroupAnalyzer(free, symprec=1e-2).get_space_group_number() != 136
    assert not np.isclose(kept.lattice.a, rutile().lattice.a, atol=1e-3)  # what symmetry allows moves
    assert kept.lattice.a == pytest.approx(kept.lattice.b, abs=1e-9)


def test_symmetric_forces_are_left_as_they_are(emt):
    """FIRE under symmetry takes the same way as without, where the forces are symmetric already."""
    alloy = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.6), ["Au", "Cu"], [[0] * 3, [0.5, 0.5, 0]])
    free, kept = (relax([alloy], emt, steps=15, keep_symmetry=keep)[0] for keep in (False, True))
    np.testing.assert_allclose(kept.structure.lattice.matrix, free.structure.lattice.matrix, atol=1e-8)
    assert kept.steps == free.steps


def test_relaxation_is_shared_by_those_who_ask_for_the_same(emt):
    assert relaxation(7) is relaxation(7)
    assert relaxation(7) is not relaxation(7, fix_cell=True)
    by_path = relaxation(3, calculator="ase.calculators.emt:EMT", scale="uncorrected")
    assert by_path([ALLOY])[0].energy_per_atom == relax([ALLOY], emt, steps=3)[0].energy_per_atom


def test_rmsd_counts_moved_sites_and_nothing_else():
    salt = rock_salt()
    strained = salt.copy()
    strained.apply_strain(0.05)
    shifted = salt.copy()
    shifted.translate_sites(range(8), [0.3, 0.2, 0.9], to_unit_cell=True)
    moved = salt.copy()
    moved.translate_sites([0], [0.8, 0, 0], frac_coords=False)
    assert rmsd(salt, salt) == rmsd(salt, strained) == pytest.approx(0.0, abs=1e-9)
    assert rmsd(salt, shifted) == pytest.approx(0.0, abs=1e-9)
    # One site of 8 by 0.8 Å, less the mean of 0.1 Å: sqrt((0.7^2 + 7 * 0.1^2) / 8)
    assert rmsd(salt, moved) == pytest.approx(np.sqrt(0.56 / 8))
