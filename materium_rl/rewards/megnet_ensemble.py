"""MEGNet networks of one property, from bundled weights to one prediction or refusal per structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from materium_rl.resources import asset_path
from materium_rl.rewards.base import Failure, Invalid
from materium_rl.rewards.megnet import CrystalGraph, MEGNet, MEGNetConfig, crystal_graph, join

if TYPE_CHECKING:
    from pymatgen.core import Structure

BATCH_SIZE = 64
CLOSEST_CONTACT = 0.5
"""Å; nothing in nature comes closer (H2 has 0.74)."""
HIGHEST_DENSITY = 0.5
"""Sites per Å³; diamond has 0.18."""
MOST_IMAGES = 200_000
"""Periodic images of sites in the search for neighbours; a 20-site cell seldom has 3,000."""
HYDROGEN = ("D", "T")
"""Isotopes that the networks treat as hydrogen."""


class MEGNetEnsemble:
    """Some networks of one asset folder, ready to predict.

    Args:
        asset: Folder below the assets, with ``model.safetensors`` (keys ``<member>.<parameter>``) and
            ``config.json``.
        members: Which networks to build.
    """

    def __init__(self, asset: str, members: Sequence[str]) -> None:
        config = asset_path(f"{asset}/config.json").read_text(encoding="utf-8")
        self.config = MEGNetConfig.model_validate(json.loads(config))
        tensors = load_file(asset_path(f"{asset}/model.safetensors"))
        self.networks: list[MEGNet] = []
        for member in members:
            prefix = f"{member}."
            network = MEGNet(self.config)
            network.load_state_dict(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )
            self.networks.append(network.eval().requires_grad_(False))
        c = self.config
        self._centers = torch.linspace(c.gaussian_start, c.gaussian_stop, c.gaussian_count)

    def measure(self, structures: Sequence[Structure], fidelity: str) -> list[np.ndarray | Invalid | Failure]:
        """Predictions (members,) for each of N structures, or why there are none."""
        prepared = [prepare(structure, self.config) for structure in structures]
        graphs = [item for item in prepared if isinstance(item, CrystalGraph)]
        batches = (graphs[i : i + BATCH_SIZE] for i in range(0, len(graphs), BATCH_SIZE))
        measured = (row for batch in batches for row in self.predict(batch, fidelity).T)
        return [next(measured) if isinstance(item, CrystalGraph) else item for item in prepared]

    def predict(self, graphs: Sequence[CrystalGraph], fidelity: str) -> np.ndarray:
        """Predictions (members, G) as the networks give them."""
        batch = join(graphs)
        scaled = (batch.distances.unsqueeze(1) - self._centers) / self.config.gaussian_width
        index = self.config.fidelities.index(fidelity)
        with torch.inference_mode():
            expanded = torch.exp_(scaled.square_().neg_())
            predictions = [network(batch, expanded, index) for network in self.networks]
        stacked: np.ndarray = torch.stack(predictions).double().numpy()
        return stacked


def prepare(structure: Structure, config: MEGNetConfig) -> CrystalGraph | Invalid | Failure:
    """Build the graph of one structure, or say why it has none."""
    problem = _unphysical_cell(structure, config.cutoff) or _unknown_species(structure, config)
    if problem is not None:
        return problem
    graph = crystal_graph(structure, config.cutoff)
    if len(graph.distances) and graph.distances.min() < CLOSEST_CONTACT:
        return Invalid(f"two sites are {graph.distances.min():.2f} Å apart; the limit is {CLOSEST_CONTACT} Å")
    isolated = np.setdiff1d(np.arange(len(structure)), graph.source)
    if len(isolated):
        site = structure[int(isolated[0])]
        return Failure(f"{site.specie} at site {isolated[0]} has no neighbour within {config.cutoff:g} Å")
    return graph


def _unphysical_cell(structure: Structure, cutoff: float) -> Invalid | None:
    """Refuse cells whose neighbour list is meaningless or would not end."""
    matrix, sites = structure.lattice.matrix, len(structure)
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        return Invalid("a lattice vector or coordinate is not finite")
    if sites == 0:
        return Invalid("the structure has no sites")
    if sites > HIGHEST_DENSITY * structure.volume:
        return Invalid(f"{sites} sites in {structure.volume:.3g} Å³; the limit is {HIGHEST_DENSITY} per Å³")
    heights = 1.0 / np.linalg.norm(np.linalg.inv(matrix), axis=0)
    images = sites * float(np.prod(2 * np.ceil(cutoff / heights) + 1))
    if images > MOST_IMAGES:
        return Invalid(f"a cell only {heights.min():.2g} Å thick has {images:.0f} periodic images to look at")
    return None


def _unknown_species(structure: Structure, config: MEGNetConfig) -> Failure | None:
    if not structure.is_ordered:
        return Failure("the network knows ordered structures only; this one has mixed sites")
    for specie in structure.composition:
        symbol = getattr(specie, "symbol", str(specie))
        if symbol not in config.trained_elements and symbol not in HYDROGEN:
            return Failure(f"the network was not trained on {symbol}")
    return None
