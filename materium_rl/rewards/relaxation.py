"""Relaxation of many structures at once, with any potential; finished ones leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.fire import Fire, Symmetry
from materium_rl.rewards.potentials.base import DISORDERED, Cell, Potential, Predicted, Prediction, Scale
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.shared import BatchFunction, shared_work

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_FORCE = 0.05
"""eV/Å; the usual limit of high-throughput relaxations with machine-learned potentials."""
SYMPREC = 0.01
"""Å; operations that hold within this distance are kept, if symmetry is to be kept."""
TOGETHER = 512
"""Structures in the batch at a time; the rest wait, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """How a relaxation ended.

    Args:
        structure: Relaxed structure, sites in the order given.
        energy_per_atom: eV/atom, on the potential's own scale.
        max_force: Largest force on a site, eV/Å.
        steps: Steps taken.
        converged: Whether forces, and those on the cell where it is free, fell below the limit.
    """

    structure: Structure
    energy_per_atom: float
    max_force: float
    steps: int
    converged: bool


@lru_cache(maxsize=8)
def relaxation(
    steps: int,
    *,
    max_force: float = MAX_FORCE,
    calculator: str = "chgnet",
    scale: Scale | None = None,
    fix_cell: bool = False,
    keep_symmetry: bool = False,
) -> BatchFunction:
    """Shared work that relaxes structures; the arguments are those of ``relax`` and ``find_potential``.

    Returns:
        A batch function from N structures to N of ``Relaxed``, ``Invalid`` or ``Failure``.
    """
    potential = find_potential(calculator, scale)
    name = f"relaxed_{steps}_{max_force}_{calculator}_{scale}_{fix_cell}_{keep_symmetry}"

    @shared_work(name)
    def relaxed(structures: Sequence[Structure]) -> list[Relaxed | Invalid | Failure]:
        return relax(
            structures,
            potential,
            steps=steps,
            max_force=max_force,
            fix_cell=fix_cell,
            keep_symmetry=keep_symmetry,
        )

    return relaxed


def relax(
    structures: Sequence[Structure],
    potential: Potential,
    *,
    steps: int,
    max_force: float = MAX_FORCE,
    fix_cell: bool = False,
    keep_symmetry: bool = False,
) -> list[Relaxed | Invalid | Failure]:
    """Relax N structures together; each ends on its own.

    Args:
        structures: N structures; they are not changed.
        potential: Gives energies, forces and stress.
        steps: Most steps.
        max_force: Converged when no force exceeds this, eV/Å; with a free cell also the stress times the
            volume per site has to be below it.
        fix_cell: Keep the lattice.
        keep_symmetry: Keep the space-group operations that hold within 0.01 Å; without it symmetry is kept
            only as well as the potential's rounding keeps it.

    Returns:
        N of ``Relaxed``; ``Invalid`` for what is or becomes unphysical (energy out of range, volume, atoms
        too close or alone); ``Failure`` where the potential gives no answer.
    """
    with _one_thread():
        return _relax(structures, potential, steps, max_force, fix_cell, keep_symmetry)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: on free cores a second one gains nothing, on busy ones they wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _relax(
    structures: Sequence[Structure],
    potential: Potential,
    steps: int,
    max_force: float,
    fix_cell: bool,
    keep_symmetry: bool,
) -> list[Relaxed | Invalid | Failure]:
    runs: dict[int, _Run] = {}
    results: list[Relaxed | Invalid | Failure | None] = [None] * len(structures)
    waiting = iter(range(len(structures)))
    while True:
        while len(runs) < TOGETHER and (index := next(waiting, None)) is not None:
            run = _start(structures[index], potential, fix_cell, keep_symmetry)
            if isinstance(run, Invalid | Failure):
                results[index] = run
            else:
                runs[index] = run
        if not runs:
            return [result for result in results if result is not None]
        predictions = potential.predict_cells([run.cell for run in runs.values()], forces=True)
        for index, prediction in zip(list(runs), predictions, strict=True):
            end = runs[index].advance(prediction, steps, max_force)
            if end is not None:
                results[index] = end
                del runs[index]


def rmsd(structure: Structure, relaxed: Structure) -> float:
    """How far the sites moved in a relaxation, in Å.

    The fractional coordinates of both are put into the relaxed cell, each site moves to its nearest image,
    the mean displacement is taken off, and the root of the mean square over the sites is given. So a change
    of the cell alone counts nothing, and a structure of one site has 0.

    Args:
        structure: Before.
        relaxed: After; its sites stand in the same order.
    """
    from pymatgen.util.coord import pbc_shortest_vectors

    vectors = pbc_shortest_vectors(relaxed.lattice, structure.frac_coords, relaxed.frac_coords)
    moved = np.diagonal(vectors).T  # (sites, 3): each site to itself
    moved = moved - moved.mean(axis=0)
    return float(np.sqrt((moved**2).sum(axis=1).mean()))


class _Run:
    """One relaxation in a batch."""

    def __init__(self, structure: Structure, fire: Fire) -> None:
        self._structure = structure
        self._fire = fire
        self.cell = fire.cell

    def advance(
        self, prediction: Predicted, steps: int, max_force: float
    ) -> Relaxed | Invalid | Failure | None:
        """How it ended, or None after one more step."""
        if not isinstance(prediction, Prediction):
            return self._broken(prediction)
        push = self._fire.gradient(prediction)
        converged = bool(np.linalg.norm(push, axis=1).max() < max_force)
        if converged or self._fire.steps >= steps:
            return self._end(prediction, converged)
        self._fire.step(push)
        self.cell = self._fire.cell
        return None

    def _broken(self, reason: Invalid | Failure) -> Invalid | Failure:
        if self._fire.steps == 0:
            return reason
        return type(reason)(f"relaxation broke off after {self._fire.steps} steps: {reason.reason}")

    def _end(self, prediction: Prediction, converged: bool) -> Relaxed:
        from pymatgen.core import Lattice, Structure

        structure = Structure(
            Lattice(self.cell.lattice),
            self._structure.species,
            self.cell.positions,
            coords_are_cartesian=True,
        )
        largest = float(np.linalg.norm(np.asarray(prediction.forces), axis=1).max())
        return Relaxed(structure, prediction.energy_per_atom, largest, self._fire.steps, converged)


def _start(
    structure: Structure, potential: Potential, fix_cell: bool, keep_symmetry: bool
) -> _Run | Invalid | Failure:
    if not structure.is_ordered:
        return Invalid(DISORDERED)
    cell = Cell.of(structure)
    refused = potential.refused(cell)
    if refused is not None:
        return refused
    symmetry = None
    if keep_symmetry:
        try:
            symmetry = Symmetry.of(structure, SYMPREC)
        except ValueError as error:
            return Failure(f"no symmetry to keep: {error}")
    return _Run(structure, Fire(cell, fix_cell=fix_cell, symmetry=symmetry))
