"""CHGNet 0.3.0: energies, magnetic moments, forces and stress, batched over cells.

CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031, 2023) predicts Materials Project energies with MP2020
corrections; its weights come with the chgnet package.

Measured against the ground states of 86 elements, CHGNet lies 0.03 eV/atom too high in the median and
more than 0.1 for Si, Fe, Ti, Cr, B, Mo, W, Ge, Sn, Ru and U: elemental crystals look less stable than
they are. Compounds are far better (see ``rewards.catalogue.stability``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.potentials.base import EV_PER_A3, Cell, Potential, Predicted, Prediction, Scale
from materium_rl.rewards.potentials.chgnet_graph import BOND_CUTOFF, Bonds, find_bonds, join

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materium_rl.rewards.potentials.chgnet_graph import Graph

VERSION = "0.3.0"
BATCH_COST = 12_000
"""Directions of bonds plus angles in one pass. About 16 cells of 9 sites; more leaves a CPU's cache."""

Item = tuple[int, Cell, Bonds]


@lru_cache(maxsize=1)
def load_chgnet() -> Any:
    """CHGNet 0.3.0, loaded once per process, on a GPU if there is one."""
    from chgnet.model import CHGNet

    with redirect_stdout(StringIO()):  # it announces its size
        return CHGNet.load(model_name=VERSION, verbose=False).eval().requires_grad_(False)


@lru_cache(maxsize=1)
def load_network() -> Any:
    """The network of ``load_chgnet`` for graphs of many cells."""
    from materium_rl.rewards.potentials.chgnet_network import Network

    return Network(load_chgnet())


class CHGNetPotential(Potential):
    """CHGNet, hydrogen to plutonium."""

    name = "chgnet"
    scale: Scale = "mp2020"
    heaviest = 94

    def load(self) -> None:
        """Load the network."""
        load_network()

    @property
    def version(self) -> str:
        """Name and version of the weights."""
        return f"CHGNet {VERSION}"

    def calculate(self, cells: Sequence[Cell], *, forces: bool) -> list[Predicted]:
        """Predictions for N physical cells, in batches of about equal cost."""
        results: list[Predicted] = [
            Invalid(f"an atom has no neighbour within {BOND_CUTOFF:g} Å") for _ in cells
        ]
        found = ((index, cell, find_bonds(cell)) for index, cell in enumerate(cells))
        bonded = [(index, cell, bonds) for index, cell, bonds in found if bonds is not None]
        for batch in _batches(bonded):
            for (index, _, _), result in zip(batch, _evaluate(batch, forces), strict=True):
                results[index] = result
        return results


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    total = 0
    for item in items:
        cost = item[2].cost
        if batch and total + cost > BATCH_COST:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += cost
    if batch:
        yield batch


def _evaluate(batch: list[Item], forces: bool) -> list[Predicted]:
    """Predictions for one batch; a batch that raises is halved until the culprit stands alone."""
    cells = [cell for _, cell, _ in batch]
    graph = join(cells, [bonds for _, _, bonds in batch])
    try:
        energies, magmoms, gradient = load_network()(graph, forces=forces)
    except (RuntimeError, IndexError, ValueError) as error:
        if len(batch) == 1:
            return [Failure(f"CHGNet raised {type(error).__name__}: {error}")]
        middle = len(batch) // 2
        return _evaluate(batch[:middle], forces) + _evaluate(batch[middle:], forces)
    ends = np.cumsum([len(cell.numbers) for cell in cells])[:-1]
    per_cell = [np.split(values, ends) for values in (energies, magmoms)]
    pushed = np.split(_forces(graph, gradient), ends) if forces else [None] * len(cells)
    stresses = _stresses(graph, gradient, cells) if forces else [None] * len(cells)
    return [
        Prediction(float(energy.mean()), tuple(moments.tolist()), force, stress)
        for energy, moments, force, stress in zip(*per_cell, pushed, stresses, strict=True)
    ]


def _forces(graph: Graph, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forces (N, 3) in eV/Å from the derivatives with respect to the bond vectors (U, 3)."""
    forces = np.zeros((len(graph.numbers), 3))
    np.add.at(forces, graph.first, -gradient)
    np.add.at(forces, graph.second, gradient)
    return forces


def _stresses(
    graph: Graph, gradient: NDArray[np.float64], cells: Sequence[Cell]
) -> list[NDArray[np.float64]]:
    """Stress tensors (3, 3) in GPa: the virial, sum of bond vector times derivative, over the volume."""
    virials = np.zeros((graph.cells, 3, 3))
    np.add.at(virials, graph.owners[graph.first], graph.vectors[:, :, None] * gradient[:, None, :])
    # A rotation costs no energy, so the tensor is symmetric but for rounding.
    return [
        (virial + virial.T) / 2 / cell.volume * EV_PER_A3 for virial, cell in zip(virials, cells, strict=True)
    ]
