"""The MEGNet network of crystal properties, in plain torch.

Architecture of Chen et al., Chem. Mater. 31, 3564 (2019), with the fidelity embedding of Chen et al.,
Nat. Comput. Sci. 1, 46 (2021); a model without fidelities is one with a single fidelity, whose
embedding is zero. matgl has a MEGNet too, but these weights cannot be loaded into it, because its
mathematics differ in four places that no weight can undo:

1. The update networks of a MEGNet block are linear in their last layer here; matgl applies softplus
   after every layer of them.
2. The Set2Set readout first projects the features from 32 to 16 channels; matgl's has no projection.
3. The cell state of the Set2Set LSTM stays zero here, so its forget gate never acts; matgl carries the
   state from one step to the next.
4. The LSTM gates are hard sigmoids, clip(0.2 x + 0.5, 0, 1); matgl uses the logistic function.

A fifth difference could be absorbed by configuration: a distance d becomes exp(-(d - c)^2 / width^2),
where matgl computes exp(-width (d - c)^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from pymatgen.core import Structure

LN2 = float(np.log(2.0))
CUTOFF_TOLERANCE = 1e-5
"""Added to the cutoff (Å), so that a distance of exactly the cutoff counts however it was rounded."""


class MEGNetConfig(BaseModel):
    """What ``config.json`` beside the weights holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float
    gaussian_start: float
    gaussian_stop: float
    gaussian_count: int
    gaussian_width: float
    atomic_numbers: int
    fidelities: tuple[str, ...]
    trained_elements: tuple[str, ...]
    members: tuple[str, ...]
    embedding_size: int
    hidden_size: int
    feature_size: int
    readout_size: int
    blocks: int
    readout_steps: int


@dataclass(frozen=True, slots=True)
class CrystalGraph:
    """One crystal with its directed edges, sorted by source site.

    Args:
        atomic_numbers: (N,) integers.
        source: (E,) site at which an edge starts.
        target: (E,) site at which an edge ends (in some periodic image).
        distances: (E,) lengths in Å.
    """

    atomic_numbers: np.ndarray
    source: np.ndarray
    target: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """The disjoint union of G crystal graphs with N sites and E edges in all."""

    atomic_numbers: Tensor  # (N,)
    source: Tensor  # (E,)
    target: Tensor  # (E,)
    distances: Tensor  # (E,)
    node_graph: Tensor  # (N,)
    edge_graph: Tensor  # (E,)
    graphs: int


def crystal_graph(structure: Structure, cutoff: float) -> CrystalGraph:
    """Connect all pairs of sites, periodic images included, up to ``cutoff`` Å."""
    source, target, _, distances = structure.get_neighbor_list(cutoff + CUTOFF_TOLERANCE, exclude_self=True)
    numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    order = np.argsort(source, kind="stable")
    return CrystalGraph(numbers, source[order], target[order], distances[order])


def join(graphs: Sequence[CrystalGraph]) -> GraphBatch:
    """Put G crystal graphs side by side."""
    sizes = np.array([len(g.atomic_numbers) for g in graphs])
    edges = np.array([len(g.source) for g in graphs])
    shift = np.repeat(np.cumsum(sizes) - sizes, edges)
    index = np.arange(len(graphs))
    return GraphBatch(
        atomic_numbers=torch.from_numpy(np.concatenate([g.atomic_numbers for g in graphs])),
        source=torch.from_numpy(np.concatenate([g.source for g in graphs]) + shift),
        target=torch.from_numpy(np.concatenate([g.target for g in graphs]) + shift),
        distances=torch.from_numpy(np.concatenate([g.distances for g in graphs]).astype(np.float32)),
        node_graph=torch.from_numpy(np.repeat(index, sizes)),
        edge_graph=torch.from_numpy(np.repeat(index, edges)),
        graphs=len(graphs),
    )


def segment_mean(values: Tensor, index: Tensor, segments: int) -> Tensor:
    """Mean over the rows of each segment: (M, C), (M,) -> (segments, C); 0 for an empty segment."""
    total = values.new_zeros(segments, values.shape[1]).index_add_(0, index, values)
    return total / torch.bincount(index, minlength=segments).clamp(min=1).unsqueeze(1)


class ShiftedSoftplus(nn.Module):
    """softplus(x) - ln 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return softplus(x).sub_(LN2)


def mlp(sizes: Sequence[int], *, activate_last: bool) -> nn.Sequential:
    """Linear layers with shifted softplus between them, and after the last one if asked."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ShiftedSoftplus()]
    return nn.Sequential(*(layers if activate_last else layers[:-1]))


class Update(nn.Module):
    """Three linear layers on the concatenation of several features, linear in the last layer.

    The first layer is applied to each part before it is spread over the edges: the same sum as on the
    concatenation, for a fraction of the work.
    """

    def __init__(self, parts: int, features: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.first = nn.Linear(parts * features, hidden)
        self.rest = nn.Sequential(
            ShiftedSoftplus(), nn.Linear(hidden, hidden), ShiftedSoftplus(), nn.Linear(hidden, features)
        )

    def forward(self, *parts: tuple[Tensor, Tensor | None]) -> Tensor:
        """Each part is (rows, index): rows[index], or rows as they are without an index."""
        total: Tensor | None = None
        for (rows, index), weight in zip(parts, self.first.weight.split(self.features, dim=1), strict=True):
            term = rows @ weight.T
            term = term if index is None else term[index]
            total = term + self.first.bias if total is None else total.add_(term)
        result: Tensor = self.rest(total)
        return result


class Block(nn.Module):
    """Dense layers (absent in the first block), edge, node and state updates, and a skip connection."""

    def __init__(self, config: MEGNetConfig, *, dense: bool) -> None:
        super().__init__()
        size, hidden = config.feature_size, config.hidden_size
        sizes = (size, hidden, size)
        self.edge_dense = mlp(sizes, activate_last=True) if dense else nn.Identity()
        self.node_dense = mlp(sizes, activate_last=True) if dense else nn.Identity()
        self.state_dense = mlp(sizes, activate_last=True) if dense else nn.Identity()
        self.edge_update = Update(4, size, hidden)
        self.node_update = Update(3, size, hidden)
        self.state_update = Update(3, size, hidden)

    def forward(
        self, nodes: Tensor, edges: Tensor, states: Tensor, batch: GraphBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C), (E, C), (G, C) -> the same shapes."""
        v, e, u = self.node_dense(nodes), self.edge_dense(edges), self.state_dense(states)
        new_e = self.edge_update((v, batch.source), (v, batch.target), (e, None), (u, batch.edge_graph))
        edges_of_node = segment_mean(new_e, batch.source, len(v))
        new_v = self.node_update((edges_of_node, None), (v, None), (u, batch.node_graph))
        edges_of_graph = segment_mean(new_e, batch.edge_graph, batch.graphs)
        nodes_of_graph = segment_mean(new_v, batch.node_graph, batch.graphs)
        new_u = self.state_update((edges_of_graph, None), (nodes_of_graph, None), (u, None))
        return nodes + new_v, edges + new_e, states + new_u


class Set2Set(nn.Module):
    """Attention readout whose recurrent cell has no memory beyond its output (see the module text)."""

    def __init__(self, features: int, size: int, steps: int) -> None:
        super().__init__()
        self.size, self.steps = size, steps
        self.project = nn.Linear(features, size)
        self.gates = nn.Linear(2 * size, 3 * size)

    def forward(self, rows: Tensor, index: Tensor, graphs: int) -> Tensor:
        """(M, C) rows of G graphs -> (G, 2 * size)."""
        memory = self.project(rows)
        readout: Tensor = memory.new_zeros(graphs, 2 * self.size)
        for _ in range(self.steps):
            enter, candidate, leave = self.gates(readout).chunk(3, dim=1)
            cell = hard_sigmoid(enter) * torch.tanh(candidate)
            query = hard_sigmoid(leave) * torch.tanh(cell)
            score = (memory * query[index]).sum(dim=1)
            top = score.new_full((graphs,), -torch.inf).scatter_reduce_(0, index, score, "amax")
            weight = torch.exp(score - top[index])
            norm = weight.new_zeros(graphs).index_add_(0, index, weight)
            weighted = memory * (weight / norm[index]).unsqueeze(1)
            attended = weighted.new_zeros(graphs, self.size).index_add_(0, index, weighted)
            readout = torch.cat([query, attended], dim=1)
        return readout


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip(0.2 x + 0.5, 0, 1), as Keras defines it (torch's own has slope 1/6)."""
    return (0.2 * x + 0.5).clamp(0.0, 1.0)


class MEGNet(nn.Module):
    """Crystal graphs and a fidelity -> one number each, in the unit that the weights were trained on."""

    def __init__(self, config: MEGNetConfig) -> None:
        super().__init__()
        size, hidden = config.feature_size, config.hidden_size
        self.atom_embedding = nn.Embedding(config.atomic_numbers, config.embedding_size)
        self.fidelity_embedding = nn.Embedding(len(config.fidelities), config.embedding_size)
        self.node_encoder = mlp((config.embedding_size, hidden, size), activate_last=True)
        self.edge_encoder = mlp((config.gaussian_count, hidden, size), activate_last=True)
        self.state_encoder = mlp((config.embedding_size, hidden, size), activate_last=True)
        self.blocks = nn.ModuleList(Block(config, dense=i > 0) for i in range(config.blocks))
        self.node_readout = Set2Set(size, config.readout_size, config.readout_steps)
        self.edge_readout = Set2Set(size, config.readout_size, config.readout_steps)
        outputs = (4 * config.readout_size + size, size, config.readout_size, 1)
        self.output = mlp(outputs, activate_last=False)

    def forward(self, batch: GraphBatch, expanded: Tensor, fidelity: int) -> Tensor:
        """Property of G graphs.

        Args:
            batch: G graphs; every site needs at least one edge.
            expanded: (E, gaussian_count) expanded distances.
            fidelity: Index into the fidelities of the configuration.

        Returns:
            (G,) predictions.
        """
        nodes = self.node_encoder(self.atom_embedding.weight)[batch.atomic_numbers]
        edges = self.edge_encoder(expanded)
        state = self.state_encoder(self.fidelity_embedding.weight[fidelity : fidelity + 1])
        states = state.expand(batch.graphs, -1)
        for block in self.blocks:
            nodes, edges, states = block(nodes, edges, states, batch)
        vectors = [
            self.node_readout(nodes, batch.node_graph, batch.graphs),
            self.edge_readout(edges, batch.edge_graph, batch.graphs),
            states,
        ]
        predictions: Tensor = self.output(torch.cat(vectors, dim=1))
        return predictions.squeeze(1)
