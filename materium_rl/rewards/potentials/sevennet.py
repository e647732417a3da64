"""SevenNet-0: forces through its ASE calculator, energies alone in batches without the pass back."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from materium_rl.rewards.base import Failure
from materium_rl.rewards.potentials.ase_calculator import ASEPotential
from materium_rl.rewards.potentials.base import Cell, Predicted, Prediction

MODEL = "7net-0"
BATCH_SIZE = 16
"""Cells in one pass; more gain nothing on a CPU."""


class SevenNetPotential(ASEPotential):
    """SevenNet-0 (11 July 2024); its weights come with the package.

    Its calculator computes forces whether they are asked for or not, which takes three quarters of the time.
    """

    def __init__(self) -> None:
        super().__init__("sevenn", _calculator, "uncorrected")
        self._energies: Any = None

    def calculate(self, cells: Sequence[Cell], *, forces: bool) -> list[Predicted]:
        """Predictions for N physical cells; a cell that makes it raise fails alone."""
        if forces:
            return super().calculate(cells, forces=True)
        calculator = self._loaded()[0]
        if self._energies is None:
            self._energies = _energy_model()
        batches = (cells[i : i + BATCH_SIZE] for i in range(0, len(cells), BATCH_SIZE))
        return [found for batch in batches for found in self._batch(calculator, batch)]

    def _batch(self, calculator: Any, cells: Sequence[Cell]) -> list[Predicted]:
        """Energies of one batch; one that raises is taken apart."""
        try:
            energies = _energies(self._energies, calculator, cells)
        except Exception as error:  # noqa: BLE001 (foreign code)
            if len(cells) == 1:
                return [Failure(f"{self.name} raised {type(error).__name__}: {error}")]
            return [found for cell in cells for found in self._batch(calculator, [cell])]
        return [Prediction(energy) for energy in energies]


def _calculator() -> tuple[Any, str]:
    from materium_rl.rewards.potentials.catalogue import quiet, require

    module = require("sevenn.calculator", "sevennet", "the calculator 'sevenn'")
    with quiet():
        return module.SevenNetCalculator(MODEL), f"SevenNet-0, sevenn {version('sevenn')}"


def _energy_model() -> Any:
    """The network without its last layer, which differentiates; for batches."""
    from sevenn.util import load_checkpoint

    from materium_rl.rewards.potentials.catalogue import quiet

    with quiet():
        model = load_checkpoint(MODEL).build_model()
    model.delete_module_by_key("force_output")
    model.key_grad = None
    model.set_is_batch_data(True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _energies(model: Any, calculator: Any, cells: Sequence[Cell]) -> list[float]:
    """Energies of N cells in eV/atom."""
    from ase import Atoms
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from torch_geometric.data import Batch

    graphs = []
    for cell in cells:
        atoms = Atoms(cell.numbers, positions=cell.positions, cell=cell.lattice, pbc=True)
        calculator.set_atoms(atoms)  # raises for an element that it does not know
        graphs.append(AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, calculator.cutoff)))
    with torch.no_grad():
        found = model(Batch.from_data_list(graphs).to(calculator.device))
    totals = found["inferred_total_energy"].cpu().double().numpy()
    return [float(total) / len(cell.numbers) for total, cell in zip(totals, cells, strict=True)]
