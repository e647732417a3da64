"""FIRE for one cell that is relaxed together with others: positions, and the cell if it is free.

FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) with the constants of ASE, on the coordinates of ASE's
``FrechetCellFilter``: positions before the deformation, and N times the logarithm of the deformation. So it
takes the steps that ASE would take with the same forces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materium_rl.rewards.potentials.base import EV_PER_A3, Cell, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

LONGEST_STEP = 0.2
"""Å, over all coordinates of a cell together."""
FIRST_TIME, LONGEST_TIME = 0.1, 1.0
FIRST_MIXING = 0.1
GROW, SHRINK, MIXING_DECAY = 1.1, 0.5, 0.99
DOWNHILL_BEFORE_GROWTH = 5


class Fire:
    """Where one relaxation stands.

    Args:
        start: The cell of N sites to relax.
        fix_cell: Whether the lattice stays as it is.
        symmetry: Operations that the relaxation must keep, if any.
    """

    def __init__(self, start: Cell, *, fix_cell: bool = False, symmetry: Symmetry | None = None) -> None:
        self.start = start
        self.fix_cell = fix_cell
        self.symmetry = symmetry
        self.steps = 0
        self._sites = len(start.numbers)
        self._coordinates = np.concatenate([start.positions, np.zeros((3, 3))])  # (N + 3, 3)
        self._velocity: NDArray[np.float64] | None = None
        self._time, self._mixing, self._downhill = FIRST_TIME, FIRST_MIXING, 0

    @property
    def cell(self) -> Cell:
        """The cell as it is now."""
        deformation = self._deformation()
        positions = self._coordinates[: self._sites] @ deformation.T
        return Cell(self.start.numbers, positions, self.start.lattice @ deformation.T)

    def gradient(self, prediction: Prediction) -> NDArray[np.float64]:
        """What pushes the coordinates (N + 3, 3), eV/Å; the last three rows push the cell.

        Args:
            prediction: Forces and stress of ``cell``.
        """
        assert prediction.forces is not None
        assert prediction.stress is not None
        forces, stress = prediction.forces, prediction.stress
        if self.symmetry is not None:
            forces, stress = self.symmetry.forces(forces), self.symmetry.stress(stress)
        deformation = self._deformation()
        push = np.zeros((self._sites + 3, 3))
        push[: self._sites] = forces @ deformation
        if not self.fix_cell:
            virial = -self.cell.volume * stress / EV_PER_A3
            push[self._sites :] = self._push_on_logarithm(virial @ np.linalg.inv(deformation.T))
            push[self._sites :] /= self._sites
        return push

    def step(self, push: NDArray[np.float64]) -> None:
        """Move the coordinates once, as ``push`` (N + 3, 3) of the present cell says."""
        if self._velocity is None:
            self._velocity = np.zeros_like(push)
        elif np.vdot(push, self._velocity) > 0:
            speed, strength = np.linalg.norm(self._velocity), np.linalg.norm(push)
            self._velocity = (1 - self._mixing) * self._velocity + self._mixing * speed / strength * push
            if self._downhill > DOWNHILL_BEFORE_GROWTH:
                self._time = min(self._time * GROW, LONGEST_TIME)
                self._mixing *= MIXING_DECAY
            self._downhill += 1
        else:
            self._velocity = np.zeros_like(push)
            self._time *= SHRINK
            self._mixing, self._downhill = FIRST_MIXING, 0
        self._velocity = self._velocity + self._time * push
        move = self._time * self._velocity
        length = float(np.linalg.norm(move))
        self._coordinates = self._coordinates + move * min(1.0, LONGEST_STEP / max(length, 1e-12))
        self.steps += 1

    def _logarithm(self) -> NDArray[np.float64]:
        logarithm: NDArray[np.float64] = self._coordinates[self._sites :] / self._sites
        return logarithm

    def _deformation(self) -> NDArray[np.float64]:
        from scipy.linalg import expm

        if self.fix_cell:
            return np.eye(3)
        deformation: NDArray[np.float64] = expm(self._logarithm())
        return deformation

    def _push_on_logarithm(self, push: NDArray[np.float64]) -> NDArray[np.float64]:
        """Push on the logarithm X of the deformation from that on the deformation (3, 3) itself.

        The derivative of exp at X^T in the direction of the push: the upper right block of
        exp([[X^T, push], [0, X^T]]) (Higham, Functions of Matrices, eq. 3.16).
        """
        from scipy.linalg import expm

        transposed = self._logarithm().T
        block = np.block([[transposed, push], [np.zeros((3, 3)), transposed]])
        result: NDArray[np.float64] = expm(block)[:3, 3:]
        return result


class Symmetry:
    """Space-group operations of one cell, to which forces and stress are projected.

    Args:
        permutations: Where each of N sites goes under each of G operations (G, N).
        rotations: Cartesian rotations (G, 3, 3), for column vectors.
    """

    def __init__(self, permutations: NDArray[np.int64], rotations: NDArray[np.float64]) -> None:
        self._permutations = permutations
        self._rotations = rotations

    @classmethod
    def of(cls, structure: Structure, symprec: float) -> Symmetry:
        """The operations of a structure.

        Args:
            structure: N sites.
            symprec: Å.

        Raises:
            ValueError: The search found no operations, or they do not map the sites onto each other.
        """
        import moyopy
        from moyopy.interface import MoyoAdapter

        plain = structure.copy()
        plain.remove_oxidation_states()
        operations = moyopy.MoyoDataset(MoyoAdapter.from_structure(plain), symprec=symprec).operations
        fractional = structure.frac_coords
        basis = structure.lattice.matrix.T  # columns are the lattice vectors
        permutations, rotations = [], []
        for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
            matrix = np.array(rotation, dtype=float)
            moved = fractional @ matrix.T + np.array(translation)
            offsets = moved[:, None, :] - fractional[None, :, :]
            distances = np.linalg.norm((offsets - np.round(offsets)) @ basis.T, axis=-1)
            target = distances.argmin(axis=1)
            if len(set(target.tolist())) < len(target):
                raise ValueError("the operations found do not map the sites onto each other")
            permutations.append(target)
            rotations.append(basis @ matrix @ np.linalg.inv(basis))
        return cls(np.array(permutations), np.array(rotations))

    def forces(self, forces: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of forces (N, 3) that all operations leave as it is."""
        rotated = np.einsum("gij,nj->gni", self._rotations, forces)
        total = np.zeros_like(forces)
        for permutation, values in zip(self._permutations, rotated, strict=True):
            total[permutation] += values
        return total / len(self._permutations)

    def stress(self, stress: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of a tensor (3, 3) that all operations leave as it is."""
        rotated = np.einsum("gij,jk,glk->gil", self._rotations, stress, self._rotations)
        mean: NDArray[np.float64] = rotated.mean(axis=0)
        return mean
