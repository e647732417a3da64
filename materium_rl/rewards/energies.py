"""Energies, magnetic moments, forces and stress of structures as they are written, once for all rewards.

What asks for forces makes the energies come from the same pass: see ``chgnet_predictions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.potentials.base import Predicted, Prediction, Scale
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.potentials.mp_corrections import mp2020_correction
from materium_rl.rewards.shared import BatchFunction, shared_work, wanted

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHGNET_FORCES = "chgnet_forces"


@shared_work("energy", stored_as=float)
def chgnet_energies(structures: Sequence[Structure]) -> list[float | Invalid | Failure]:
    """Single-point energies.

    Args:
        structures: N structures.

    Returns:
        N energies in eV/atom (MP2020 scale), or why there is none.
    """
    return [_energy(p) for p in chgnet_predictions(structures)]


@shared_work("chgnet")
def chgnet_predictions(structures: Sequence[Structure]) -> list[Predicted]:
    """Energies and magnetic moments of unrelaxed structures; the moments cost next to nothing.

    Where another reward of the same chunk needs forces, they are computed now, in the same pass.

    Args:
        structures: N structures.

    Returns:
        N predictions, or why there is none.
    """
    if wanted(CHGNET_FORCES):
        return chgnet_forces(structures)
    return find_potential("chgnet").predict(structures)


@shared_work(CHGNET_FORCES)
def chgnet_forces(structures: Sequence[Structure]) -> list[Predicted]:
    """As ``chgnet_predictions``, with forces and stress, at about twice the time.

    Args:
        structures: N structures.

    Returns:
        N predictions, or why there is none.
    """
    return find_potential("chgnet").predict(structures, forces=True)


@lru_cache(maxsize=8)
def energies_of(calculator: str, scale: Scale | None = None) -> BatchFunction:
    """Shared work that gives single-point energies of any potential, on the scale of the hull.

    Args:
        calculator: See ``potentials.catalogue``.
        scale: Its energies, where its name does not tell.

    Returns:
        A batch function from N structures to N energies in eV/atom (MP2020 scale), or why there is none.
    """
    if calculator == "chgnet":
        return chgnet_energies
    potential = find_potential(calculator, scale)

    @shared_work(f"energy_{calculator}_{scale}")
    def energies(structures: Sequence[Structure]) -> list[float | Invalid | Failure]:
        predictions = potential.predict(structures)
        return [
            on_hull_scale(potential.scale, structure, _energy(prediction))
            for structure, prediction in zip(structures, predictions, strict=True)
        ]

    return energies


def on_hull_scale(
    scale: Scale, structure: Structure, energy: float | Invalid | Failure
) -> float | Invalid | Failure:
    """An energy in eV/atom with the MP2020 corrections, if they are not in it yet."""
    from pymatgen.entries.compatibility import CompatibilityError

    if scale == "mp2020" or not isinstance(energy, float):
        return energy
    try:
        return energy + mp2020_correction(structure)
    except CompatibilityError as error:
        return Failure(f"no MP2020 correction for {structure.reduced_formula}: {error}")


def _energy(prediction: Predicted) -> float | Invalid | Failure:
    return prediction.energy_per_atom if isinstance(prediction, Prediction) else prediction
