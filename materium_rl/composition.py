"""Which species may follow so that a constrained composition can still be completed, and its volume.

The look-ahead is exact. Species are written in the order of their rank, so after a token only elements of
its rank or a higher one may come; any number of them, in the order of their ranks. A species is allowed if
and only if some completion meets every constraint, ``[LATTICE]`` if and only if what is written does. There
are no dead ends, and every composition that meets the constraints can be reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError
from materium_rl.structures import G_PER_CM3

if TYPE_CHECKING:
    from materium_rl.token_layout import TokenLayout


@dataclass(frozen=True, eq=False)
class CompositionRules:
    """C constraints, for E elements and S species tokens of one layout.

    Args:
        permitted: Elements that may occur, bool (C, E).
        required: Elements that must occur, bool (C, E).
        sites: Smallest and largest number of sites, (C, 2).
        distinct: Smallest and largest number of distinct elements, (C, 2).
        exact: Whether a formula is given, bool (C,).
        contents: Cells of that formula: atoms of each element, (C, K, E); -1 where there are fewer.
        density: Lowest and highest density in g/cm3, (C, 2); None if no constraint asks for any.
        mass: Atomic mass of each token, (V,), g/cm3 times Å3; 0 for tokens that are no species.
        element: Element of each token, (V,); E for tokens that are no species.
        own: Element of each species token, (S,).
        passed: 1 where an element can no longer come after a species token, fp32 (E, S).
        row: Constraint of each sequence, (B,); None if the only one holds for all.
    """

    permitted: Tensor
    required: Tensor
    sites: Tensor
    distinct: Tensor
    exact: Tensor
    contents: Tensor
    density: Tensor | None
    mass: Tensor
    element: Tensor
    own: Tensor
    passed: Tensor
    row: Tensor | None

    def at(self, rows: Tensor | slice) -> CompositionRules:
        """The rules of some of the sequences: indices, a mask or a slice."""
        return self if self.row is None else replace(self, row=self.row[rows])

    def volumes(self, ids: Tensor) -> Tensor | None:
        """Smallest and largest cell in Å3 of R sequences with the whole composition: (R, T) -> (R, 2).

        None if any volume will do.
        """
        if self.density is None:
            return None
        density = self.density[
            torch.zeros(len(ids), dtype=torch.long, device=ids.device) if self.row is None else self.row
        ]
        return self.mass[ids].sum(dim=1, keepdim=True) / density.flip(1)

    def following(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Species that may follow, and whether the composition may end.

        Args:
            ids: The sequence of each row, (R, T).
            positions: Index of the token that is followed, (R,).

        Returns:
            bool (R, S) and bool (R,).
        """
        row = torch.zeros_like(positions) if self.row is None else self.row
        counts = self._counts(ids, positions)
        own = self.own
        present, required, permitted = counts > 0, self.required[row], self.permitted[row]
        missing, absent = required & ~present, permitted & ~present
        fewest, most = self.distinct[row, :1], self.distinct[row, 1:]
        n_sites, n_elements = counts.sum(dim=1, keepdim=True), present.sum(dim=1, keepdim=True)
        left = self.sites[row, 1:] - n_sites - 1  # sites that are left after the species token
        n_after = n_elements + (~present)[:, own]
        missing_after = missing.sum(dim=1, keepdim=True) - missing[:, own].long()
        open_after = (absent.float() @ (1 - self.passed)).long() - absent[:, own].long()
        lowest = torch.maximum(fewest, n_after + missing_after)
        highest = torch.minimum(most, n_after + torch.minimum(open_after, left))
        species = permitted[:, own] & (missing.float() @ self.passed == 0) & (lowest <= highest)
        ends = ((n_sites >= self.sites[row, :1]) & (left >= -1))[:, 0] & ~missing.any(dim=1)
        ends &= ((fewest <= n_elements) & (n_elements <= most))[:, 0]
        spend, spent = self._spending(self.contents[row] - counts[:, None])
        free = ~self.exact[row]
        return species & (spend | free[:, None]), ends & (spent | free)

    def _spending(self, remaining: Tensor) -> tuple[Tensor, Tensor]:
        """Species that take one of the (R, K, E) remaining atoms and pass over none; and whether none remain.

        Returns:
            bool (R, S) and bool (R,), each for any of the K cell contents.
        """
        fits = (remaining >= 0).all(dim=2, keepdim=True)
        passes_none = (remaining > 0).float() @ self.passed == 0
        spend = fits & (remaining[:, :, self.own] > 0) & passes_none
        return spend.any(dim=1), (remaining == 0).all(dim=2).any(dim=1)

    def _counts(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Atoms of each element up to ``positions``: (R, E)."""
        n_elements = len(self.passed)
        written = torch.arange(ids.shape[1], device=ids.device)[None] <= positions[:, None]
        element = torch.where(written, self.element[ids], n_elements)
        counts = torch.zeros((len(ids), n_elements + 1), dtype=torch.long, device=ids.device)
        return counts.scatter_add_(1, element, torch.ones_like(element))[:, :n_elements]


def composition_rules(
    constraints: Constraints | Sequence[Constraints],
    layout: TokenLayout,
    *,
    row: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> CompositionRules:
    """Rules of one constraint for every sequence, or of several with the one of each sequence.

    Args:
        constraints: One, or C distinct ones.
        layout: Token layout of the policy.
        row: Index of the constraint of each sequence, (B,); without it, constraint i is that of sequence i.
        device: Where the rules are kept.

    Raises:
        ConfigError: This policy cannot meet a constraint; says which and why.
    """
    single = isinstance(constraints, Constraints)
    requests: list[Constraints] = [constraints] if isinstance(constraints, Constraints) else [*constraints]
    if not requests:
        raise ConfigError("an empty list of constraints; expected at least one")
    rules = _rules(requests, layout)
    _check_can_start(rules, requests)
    if single or row is not None:
        rules = replace(rules, row=None if single else row)
    tensors = {name: value.to(device) for name, value in vars(rules).items() if isinstance(value, Tensor)}
    return replace(rules, **tensors)


def _rules(requests: list[Constraints], layout: TokenLayout) -> CompositionRules:
    """Tables of the requests, one row for each of them."""
    symbols = list(dict.fromkeys(layout.species_element))
    for request in requests:
        _check_policy_knows(request, symbols, layout.max_sites)
    own = torch.tensor([symbols.index(symbol) for symbol in layout.species_element])
    element = torch.full((layout.vocab_size,), len(symbols))
    element[layout.species_start : layout.coordinate_start] = own
    rank = torch.tensor(layout.species_rank)
    last = torch.stack([rank[own == index].max() for index in range(len(symbols))])
    contents = [_contents(request, symbols, layout.max_sites) for request in requests]
    dense = any(c.density for c in requests)
    limits = torch.tensor([c.density or (0.0, math.inf) for c in requests], dtype=torch.float64)
    return CompositionRules(
        permitted=torch.tensor([[_permits(c, e) for e in symbols] for c in requests]),
        required=torch.tensor([[e in c.required or e in c.formula_unit for e in symbols] for c in requests]),
        sites=torch.tensor([_limited(c.n_sites, layout.max_sites) for c in requests]),
        distinct=torch.tensor([_limited(c.n_elements, len(symbols)) for c in requests]),
        exact=torch.tensor([c.formula is not None for c in requests]),
        contents=torch.nn.utils.rnn.pad_sequence(contents, batch_first=True, padding_value=-1),
        density=limits if dense else None,
        mass=_masses(symbols)[element],
        element=element,
        own=own,
        passed=(last[:, None] < rank[None]).float(),
        row=torch.arange(len(requests)),
    )


def _masses(symbols: list[str]) -> Tensor:
    """Atomic masses of the elements, in g/cm3 times Å3, and a 0: (E + 1,)."""
    from pymatgen.core import Element

    return torch.tensor([*(G_PER_CM3 * float(Element(s).atomic_mass) for s in symbols), 0.0]).double()


def _permits(request: Constraints, element: str) -> bool:
    if request.formula is not None:
        return element in request.formula_unit
    return element not in request.forbidden and (request.allowed is None or element in request.allowed)


def _limited(bounds: tuple[int, int] | None, largest: int) -> tuple[int, int]:
    low, high = bounds or (1, largest)
    return low, min(high, largest)


def _contents(request: Constraints, symbols: list[str], max_sites: int) -> Tensor:
    """Atoms of each element in every cell of the formula: (K, E), K = 0 without one."""
    unit = torch.tensor([request.formula_unit.get(symbol, 0) for symbol in symbols])
    return torch.tensor(request.units(max_sites), dtype=torch.long)[:, None] * unit


def _check_policy_knows(request: Constraints, symbols: list[str], max_sites: int) -> None:
    named = {*(request.allowed or ()), *request.required, *request.formula_unit}
    unknown = sorted(named - set(symbols))
    if unknown:
        raise ConfigError(
            f"this policy cannot write {', '.join(unknown)}; its {len(symbols)} elements are "
            f"{', '.join(symbols)}"
        )
    if request.n_sites and request.n_sites[0] > max_sites:
        raise ConfigError(
            f"n_sites of at least {request.n_sites[0]}, but this policy writes {max_sites} at most"
        )
    if request.formula is not None and not request.units(max_sites):
        size = sum(request.formula_unit.values())
        raise ConfigError(
            f"{request.formula} takes {size} sites or a multiple, but this policy writes {max_sites} at most"
            + (f", and n_sites is {request.n_sites[0]}..{request.n_sites[1]}" if request.n_sites else "")
        )


def _check_can_start(rules: CompositionRules, requests: list[Constraints]) -> None:
    """The look-ahead before the first species, which is exact, decides whether there is a composition."""
    start = torch.zeros((len(requests), 1), dtype=torch.long)
    species, _ = rules.following(start, start[:, 0])
    for request, possible in zip(requests, species.any(dim=1).tolist(), strict=True):
        if not possible:
            asked = ", ".join(f"{key.removeprefix('requested_')} {v}" for key, v in request.request().items())
            most = int(rules.sites[:, 1].max())
            raise ConfigError(
                f"no composition of this policy meets {asked}: it writes {most} sites at most, of "
                f"{len(rules.passed)} elements; ask for fewer elements or forbid fewer"
            )
