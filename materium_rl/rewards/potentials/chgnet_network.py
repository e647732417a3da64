"""CHGNet's network, evaluated so that relaxing many small cells is fast on a CPU.

The same function and the same weights as ``chgnet.model.CHGNet`` (Deng et al., Nat. Mach. Intell. 5, 1031,
2023, Methods) up to rounding, rearranged:

- The first layer of a gated MLP sees sites, bonds and angles side by side. It is linear, so each part is
  multiplied where there are fewer of it, and the products are added.
- Both directions of a bond share its features, and everything about angles runs over the short bonds only.
- Rows are summed by ``embedding_bag``, which is many times faster than ``index_add_``.
- Forces and stress come from one derivative, that with respect to the bond vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from materium_rl.rewards.potentials.chgnet_graph import Graph


class Rows:
    """Takes rows of a table by index, and sums rows that have the same index; each is the other's derivative.

    Args:
        index: Row of the table (M,).
        size: Rows of the table.
    """

    def __init__(self, index: Any, size: int, device: torch.device) -> None:
        ends = np.cumsum(np.bincount(index, minlength=size))
        self.index = torch.as_tensor(index, device=device)
        self.order = torch.as_tensor(np.argsort(index, kind="stable"), device=device)
        self.starts = torch.as_tensor(np.concatenate([[0], ends[:-1]]), device=device)

    def take(self, table: Tensor) -> Tensor:
        """Rows (M, D) of a table (size, D)."""
        taken: Tensor = _Take.apply(table, self)  # type: ignore[no-untyped-call]
        return taken

    def sum(self, rows: Tensor) -> Tensor:
        """Sums (size, D) of rows (M, D)."""
        summed: Tensor = _Sum.apply(rows, self)  # type: ignore[no-untyped-call]
        return summed

    def sum_rows(self, rows: Tensor) -> Tensor:
        """As ``sum``, without a derivative."""
        return F.embedding_bag(self.order, rows.contiguous(), self.starts, mode="sum")


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return table.index_select(0, rows.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.rows.sum_rows(gradients[0]), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.sum_rows(table)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].index_select(0, ctx.rows.index), None


class _Index:
    """The index tables of one graph."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        sites, short = len(graph.numbers), graph.short
        self.ends = Rows(np.concatenate([graph.first, graph.second]), sites, device)
        self.angles = len(graph.left)
        if self.angles:
            self.centres = Rows(graph.centres, sites, device)
            self.left = Rows(graph.left, 2 * short, device)
            self.right = Rows(graph.right, 2 * short, device)
            self.left_bond = Rows(graph.left % short, short, device)
            self.right_bond = Rows(graph.right % short, short, device)


class _Gate:
    """A gated MLP: silu(norm(core)) * sigmoid(norm(gate)); core and gate share their first product.

    Args:
        gated: ``GatedMLP`` of chgnet.
        parts: How many inputs of the same width stand side by side.
    """

    def __init__(self, gated: Any, parts: int) -> None:
        core, gate = _linears(gated.mlp_core), _linears(gated.mlp_gate)
        weight = torch.cat([core[0].weight, gate[0].weight]).T
        self.weights = [block.contiguous() for block in weight.chunk(parts)]
        self.bias = torch.cat([core[0].bias, gate[0].bias])
        self.second = [pair[1] for pair in (core, gate) if len(pair) > 1]
        self.norms = (gated.bn1, gated.bn2)

    def __call__(self, mixed: Tensor) -> Tensor:
        """The output (M, D) from the first product (M, 2 * H), its bias included."""
        if self.second:
            mixed = F.silu(mixed)
        halves = mixed.split(mixed.shape[1] // 2, dim=1)
        if self.second:
            halves = tuple(layer(half) for layer, half in zip(self.second, halves, strict=True))
        core, gate = (norm(half) for norm, half in zip(self.norms, halves, strict=True))
        return F.silu(core) * torch.sigmoid(gate)


class Network:
    """CHGNet for graphs of ``chgnet_graph``.

    Args:
        model: ``chgnet.model.CHGNet``, version 0.3.0.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        with torch.no_grad():
            self.site_gates = [_Gate(layer.twoBody_atom, 3) for layer in model.atom_conv_layers]
            self.bond_gates = [_Gate(layer.twoBody_bond, 4) for layer in model.bond_conv_layers]
            self.angle_gates = [_Gate(layer.twoBody_bond, 4) for layer in model.angle_layers]
        self.site_out = [_linears(layer.mlp_out)[0] for layer in model.atom_conv_layers]
        self.bond_out = [_linears(layer.mlp_out)[0] for layer in model.bond_conv_layers]
        self.site_energies = model.composition_model.fc.weight[0].double().cpu().numpy()

    def __call__(self, graph: Graph, *, forces: bool) -> tuple[Any, Any, Any]:
        """Evaluate a graph of N sites and U bonds.

        Returns:
            Energy of each site (N,) in eV, magnetic moment of each site (N,) in µB, and the derivative of the
            energy with respect to the bond vectors (U, 3) in eV/Å, None unless ``forces``.
        """
        vectors = torch.as_tensor(graph.vectors, dtype=torch.float32, device=self.device)
        with torch.set_grad_enabled(forces):
            energies, magmoms = self._sites(graph, vectors.requires_grad_(forces))
            gradient = torch.autograd.grad(energies.sum(), vectors)[0] if forces else None
        known = self.site_energies[graph.numbers - 1]
        return (
            _numpy(energies) + known,
            _numpy(magmoms),
            None if gradient is None else _numpy(gradient),
        )

    def _sites(self, graph: Graph, vectors: Tensor) -> tuple[Tensor, Tensor]:
        model, index, short = self.model, _Index(graph, self.device), graph.short
        lengths = vectors.norm(dim=1)
        basis = model.bond_basis_expansion.rbf_expansion_ag(lengths)
        sites = model.atom_embedding(torch.as_tensor(graph.numbers - 1, device=self.device))
        bonds, weights = model.bond_embedding(basis), model.bond_weights_ag(basis)
        if index.angles:
            angles = self._angles(vectors[:short] / lengths[:short, None], index)
            near = model.bond_weights_bg(model.bond_basis_expansion.rbf_expansion_bg(lengths[:short]))
        for layer in range(len(self.bond_gates)):
            sites = self._update_sites(layer, sites, bonds, weights, index)
            if index.angles:
                mixed = self._mixed(self.bond_gates[layer], sites, bonds[:short], angles, index)
                summed = index.left_bond.sum(self.bond_gates[layer](mixed) * index.right_bond.take(near))
                changed = bonds[:short] + self.bond_out[layer](summed * near)
                bonds = torch.cat([changed, bonds[short:]])
                if layer + 1 < len(self.bond_gates):  # nothing reads the angles after that
                    gate = self.angle_gates[layer]
                    angles = angles + gate(self._mixed(gate, sites, bonds[:short], angles, index))
        magmoms = model.site_wise(sites).abs().view(-1)
        sites = self._update_sites(-1, sites, bonds, weights, index)
        return model.mlp(model.readout_norm(sites)).view(-1), magmoms

    def _angles(self, units: Tensor, index: _Index) -> Tensor:
        """Features of the angles from the directions of the short bonds (S, 3)."""
        both = torch.cat([units, -units])
        basis = self.model.angle_basis_expansion(index.left.take(both), index.right.take(both))
        features: Tensor = self.model.angle_embedding(basis)
        return features

    def _update_sites(
        self, layer: int, sites: Tensor, bonds: Tensor, weights: Tensor, index: _Index
    ) -> Tensor:
        gate = self.site_gates[layer]
        own, bond, other = gate.weights
        number, width = len(bonds), own.shape[1]
        table = torch.cat([sites @ own + gate.bias, sites @ other], dim=1)
        (own_1, other_1), (own_2, other_2) = (
            half.split(width, dim=1) for half in index.ends.take(table).split(number)
        )
        shared = bonds @ bond
        messages = gate(torch.cat([own_1 + other_2 + shared, own_2 + other_1 + shared]))
        weighted = (messages.view(2, number, -1) * weights).view(2 * number, -1)
        updated: Tensor = sites + self.site_out[layer](index.ends.sum(weighted))
        return updated

    def _mixed(self, gate: _Gate, sites: Tensor, bonds: Tensor, angles: Tensor, index: _Index) -> Tensor:
        """First product (A, 2 * H) of the gate of a bond or angle update."""
        left, right, angle, centre = gate.weights
        from_left = (bonds @ left + gate.bias).repeat(2, 1) + index.centres.take(sites @ centre)
        return index.left.take(from_left) + index.right_bond.take(bonds @ right) + angles @ angle


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().double().cpu().numpy()
