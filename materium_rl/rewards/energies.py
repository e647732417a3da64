"""Energies and magnetic moments from CHGNet 0.3.0, batched, one outcome per structure.

CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031, 2023) predicts Materials Project energies with MP2020
corrections; its weights come with the chgnet package. A potential extrapolates without warning, so
unphysical cells are turned away before it and absurd energies after it.

Measured against the ground states of 86 elements, CHGNet lies 0.03 eV/atom too high in the median and
more than 0.1 for Si, Fe, Ti, Cr, B, Mo, W, Ge, Sn, Ru and U: elemental crystals look less stable than
they are. Compounds are far better (see ``rewards.stability``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.shared import BatchFunction, shared_work

if TYPE_CHECKING:
    from pymatgen.core import Structure

BATCH_SIZE = 32
LARGEST_ATOMIC_NUMBER = 94
"""CHGNet embeds hydrogen to plutonium."""
ENERGY_RANGE = (-20.0, 50.0)
"""eV/atom; the Materials Project spans about -14 to 0, CHGNet's worst junk cells rise to tens of eV."""
VOLUME_RANGE = (2.0, 500.0)
"""Å³ per site; diamond has 5.7. Below, the neighbour list grows without bound."""
MINIMUM_DISTANCE = 0.5
"""Å; the H-H bond is 0.74. Closer sites are outside everything CHGNet was trained on."""

Unmeasured = Invalid | Failure


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one pass of CHGNet says about a structure.

    Args:
        energy_per_atom: eV/atom (MP2020 scale).
        magmoms: Magnitude of the magnetic moment of each site in µB; CHGNet knows no signs.
    """

    energy_per_atom: float
    magmoms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A structure after relaxation of positions and cell.

    Args:
        structure: Relaxed structure.
        energy_per_atom: eV/atom.
        steps: Optimiser steps taken.
        converged: Whether the largest force fell below the limit.
    """

    structure: Structure
    energy_per_atom: float
    steps: int
    converged: bool


@lru_cache(maxsize=1)
def load_chgnet() -> Any:
    """CHGNet 0.3.0, loaded once per process, on a GPU if there is one."""
    from chgnet.model import CHGNet

    with redirect_stdout(StringIO()):  # it announces its size
        return CHGNet.load(model_name="0.3.0", verbose=False).eval()


@shared_work("energy")
def chgnet_energies(structures: Sequence[Structure]) -> list[float | Invalid | Failure]:
    """Single-point energies.

    Args:
        structures: N structures.

    Returns:
        N energies in eV/atom (MP2020 scale), or why there is none.
    """
    predictions = chgnet_predictions(structures)
    return [p.energy_per_atom if isinstance(p, Prediction) else p for p in predictions]


@shared_work("chgnet", stored_as=Prediction)
def chgnet_predictions(structures: Sequence[Structure]) -> list[Prediction | Invalid | Failure]:
    """Energies and magnetic moments of unrelaxed structures; the moments cost next to nothing.

    Args:
        structures: N structures.

    Returns:
        N predictions, or why there is none.
    """
    results: list[Prediction | Invalid | Failure | None] = [None] * len(structures)
    graphs: list[tuple[int, Any]] = []
    for index, structure in enumerate(structures):
        graph = _graph(structure)
        if isinstance(graph, Unmeasured):
            results[index] = graph
        else:
            graphs.append((index, graph))
    # Similar sizes together: a batch costs what its bonds cost.
    graphs.sort(key=lambda item: len(item[1].atom_graph))
    for start in range(0, len(graphs), BATCH_SIZE):
        batch = graphs[start : start + BATCH_SIZE]
        for (index, _), result in zip(batch, _predict([graph for _, graph in batch]), strict=True):
            results[index] = result
    return [result for result in results if result is not None]


@lru_cache(maxsize=8)
def relaxation(steps: int, *, max_force: float = 0.05) -> BatchFunction:
    """Shared work that relaxes positions and cell, one structure after the other.

    Args:
        steps: Most FIRE steps.
        max_force: Converged below this force in eV/Å.

    Returns:
        A batch function from N structures to N of ``Relaxed``, ``Invalid`` or ``Failure``.
    """

    @shared_work(f"relaxed_{steps}_{max_force}")
    def relax(structures: Sequence[Structure]) -> list[Relaxed | Invalid | Failure]:
        return [_relax_one(structure, steps, max_force) for structure in structures]

    return relax


@lru_cache(maxsize=1)
def _calculator() -> Any:
    """CHGNet as an ASE calculator, sharing the weights of ``load_chgnet``."""
    from chgnet.model.dynamics import CHGNetCalculator

    model = load_chgnet()
    # It announces the device on stdout, and would by default switch the shared graph converter to "warn".
    with redirect_stdout(StringIO()):
        return CHGNetCalculator(model, use_device=str(_device(model)), on_isolated_atoms="error")


def _relax_one(structure: Structure, steps: int, max_force: float) -> Relaxed | Invalid | Failure:
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    unphysical = _unphysical(structure)
    if unphysical:
        return unphysical
    atoms = AseAtomsAdaptor.get_atoms(structure)
    atoms.calc = _calculator()
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    try:
        converged = optimizer.run(fmax=max_force, steps=steps)
        energy = _checked_energy(float(atoms.get_potential_energy()) / len(atoms))
    except (ValueError, RuntimeError, IndexError) as error:  # LinAlgError is a ValueError
        _discard_debris()
        return Failure(f"relaxation broke off after {optimizer.nsteps} steps: {error}")
    if isinstance(energy, Invalid):
        return energy
    relaxed = AseAtomsAdaptor.get_structure(atoms)
    return _unphysical(relaxed) or Relaxed(relaxed, energy, optimizer.nsteps, bool(converged))


def _unphysical(structure: Structure) -> Invalid | Failure | None:
    """Why the potential must not see this structure, if so."""
    if not structure.is_ordered:
        return Invalid("partially occupied sites")
    heaviest = max(site.specie.Z for site in structure)
    if heaviest > LARGEST_ATOMIC_NUMBER:
        return Failure(f"CHGNet knows no element of atomic number {heaviest} (up to {LARGEST_ATOMIC_NUMBER})")
    if not (np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()):
        return Invalid("coordinates or cell are not finite")
    volume = structure.volume / len(structure)
    if not VOLUME_RANGE[0] <= volume <= VOLUME_RANGE[1]:
        return Invalid(f"{volume:.3g} Å³ per site, outside {VOLUME_RANGE[0]:g} to {VOLUME_RANGE[1]:g}")
    closest = _shortest_distance(structure)
    if closest < MINIMUM_DISTANCE:
        return Invalid(f"two sites are {closest:.3g} Å apart")
    return None


def _graph(structure: Structure) -> Any:
    """CHGNet's crystal graph, or why there is none."""
    unphysical = _unphysical(structure)
    if unphysical:
        return unphysical
    try:
        return load_chgnet().graph_converter(structure)
    except ValueError as error:
        if "isolated atom" in str(error):
            return Invalid("an atom has no neighbour within 6 Å")
        return Failure(f"CHGNet built no graph: {error}")
    except RuntimeError as error:
        _discard_debris()
        return Failure(f"CHGNet built no graph: {error}")


def _discard_debris() -> None:
    """Remove the file that CHGNet's graph converter leaves in the working folder when it gives up."""
    Path("bond_graph_error.cif").unlink(missing_ok=True)


def _device(model: Any) -> Any:
    return next(model.parameters()).device


def _shortest_distance(structure: Structure) -> float:
    """Shortest distance between two sites or a site and its own image, in Å (inf beyond 1 Å)."""
    distances = structure.get_neighbor_list(r=1.0)[3]
    return float(distances.min()) if len(distances) else math.inf


def _predict(graphs: list[Any]) -> list[Prediction | Invalid | Failure]:
    """Predictions for one batch; a batch that raises is halved until the culprit stands alone."""
    import torch

    model = load_chgnet()
    device = _device(model)
    try:
        with torch.no_grad():
            output = model([graph.to(device) for graph in graphs], task="em")
    except (RuntimeError, IndexError, ValueError) as error:
        if len(graphs) == 1:
            return [Failure(f"CHGNet raised {type(error).__name__}: {error}")]
        middle = len(graphs) // 2
        return _predict(graphs[:middle]) + _predict(graphs[middle:])
    moments = [site_moments.tolist() for site_moments in output["m"]]
    return [_checked(*pair) for pair in zip(output["e"].tolist(), moments, strict=True)]


def _checked(energy: float, magmoms: list[float]) -> Prediction | Invalid | Failure:
    """The prediction, if its numbers can be one."""
    checked = _checked_energy(energy)
    if isinstance(checked, Invalid):
        return checked
    if not all(math.isfinite(moment) for moment in magmoms):
        return Failure("CHGNet returned a magnetic moment that is not finite")
    return Prediction(checked, tuple(magmoms))


def _checked_energy(energy: float) -> float | Invalid:
    """The energy in eV/atom, if it can be one."""
    low, high = ENERGY_RANGE
    if not (math.isfinite(energy) and low <= energy <= high):
        return Invalid(f"CHGNet energy {energy:.4g} eV/atom, outside {low:g} to {high:g}: an unphysical cell")
    return float(energy)
