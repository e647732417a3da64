"""Any ASE calculator as a potential; its cells are computed one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from materium_rl.errors import MateriumError, RewardError
from materium_rl.rewards.base import Failure
from materium_rl.rewards.potentials.base import EV_PER_A3, Cell, Potential, Predicted, Prediction, Scale


class ASEPotential(Potential):
    """A potential that is had as an ASE calculator.

    Args:
        name: What the user wrote.
        make: Returns the calculator and the version to record; runs once, at the first use.
        scale: Energies that the calculator gives.
    """

    def __init__(self, name: str, make: Callable[[], tuple[Any, str]], scale: Scale) -> None:
        self.name = name
        self.scale = scale
        self._make = make
        self._made: tuple[Any, str] | None = None

    def load(self) -> None:
        """Make the calculator.

        Raises:
            RewardError: It cannot be made; names the cause.
        """
        if self._made is not None:
            return
        try:
            calculator, version = self._make()
        except MateriumError:
            raise
        except Exception as error:
            raise RewardError(
                f"the calculator {self.name!r} cannot be made: {type(error).__name__}: {error}"
            ) from error
        if not hasattr(calculator, "get_potential_energy"):
            raise RewardError(
                f"the calculator {self.name!r} made {type(calculator).__name__}, which is no ASE calculator; "
                "expected a function or class that returns one when called without arguments"
            )
        self._made = calculator, version

    @property
    def version(self) -> str:
        """What the factory said."""
        return self._loaded()[1]

    def calculate(self, cells: Sequence[Cell], *, forces: bool) -> list[Predicted]:
        """Predictions for N physical cells; an exception fails its cell alone."""
        calculator = self._loaded()[0]
        return [self._one(calculator, cell, forces) for cell in cells]

    def _loaded(self) -> tuple[Any, str]:
        self.load()
        assert self._made is not None
        return self._made

    def _one(self, calculator: Any, cell: Cell, forces: bool) -> Predicted:
        from ase import Atoms

        atoms = Atoms(cell.numbers, positions=cell.positions, cell=cell.lattice, pbc=True)
        try:
            atoms.calc = calculator  # some refuse unknown elements here
            energy = float(atoms.get_potential_energy()) / len(atoms)
            if not forces:
                return Prediction(energy)
            pushed = np.array(atoms.get_forces(), dtype=float)
            stress = np.array(atoms.get_stress(voigt=False), dtype=float) * EV_PER_A3
        except Exception as error:  # noqa: BLE001 (foreign code)
            return Failure(f"{self.name} raised {type(error).__name__}: {error}")
        return Prediction(energy, forces=pushed, stress=stress)
