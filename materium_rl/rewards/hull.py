"""The convex hull of formation energies that a candidate has to beat.

Energies are on the Materials Project scale with MP2020 corrections (Wang et al., Sci. Rep. 11, 15496,
2021). The bundled table holds the phases on the hull of their own chemical system only: no other phase
can be a vertex of the hull of a larger system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.errors import RewardError
from materium_rl.resources import asset_path

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Composition

HULL_ASSET = "hull.parquet"
REFERENCES_ASSET = "element_references.json"

Fractions = tuple[tuple[str, float], ...]
"""Elements in alphabetical order, each with its atomic fraction; the fractions sum to 1."""

_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
_CACHED_SYSTEMS = 20_000


class MissingReferenceError(RewardError):
    """An element without a reference energy: no formation energy can be given."""


def fractions(composition: Composition) -> Fractions:
    """Atomic fractions of a composition; oxidation states are ignored."""
    amounts = composition.element_composition.get_el_amt_dict()
    total = sum(amounts.values())
    return tuple(sorted((element, amount / total) for element, amount in amounts.items()))


def parse_formula(formula: str) -> Fractions:
    """Atomic fractions of a formula of elements and whole numbers, such as ``Fe2O3``."""
    amounts: dict[str, int] = {}
    for element, number in _PART.findall(formula):
        amounts[element] = amounts.get(element, 0) + int(number or 1)
    total = sum(amounts.values())
    return tuple(sorted((element, amount / total) for element, amount in amounts.items()))


class Hull:
    """Lower convex envelope of formation energies, one linear programme for each composition.

    Args:
        phases: Atomic fractions and formation energy in eV/atom of each competing phase. Pure elements
            need not be listed: they are at 0.
        references: Energy of each element's ground state in eV/atom, MP2020 scale.
    """

    def __init__(self, phases: Iterable[tuple[Fractions, float]], references: Mapping[str, float]) -> None:
        self.references = dict(references)
        self._phases: dict[tuple[str, ...], list[tuple[Fractions, float]]] = {}
        for phase, energy in phases:
            self.add(phase, energy)
        # Memory of one table in a five-element system is about 5 kB.
        self._system = lru_cache(maxsize=_CACHED_SYSTEMS)(self._build_system)

    def add(self, phase: Fractions, energy: float) -> None:
        """Add one competing phase (eV/atom) to a chemical system that was not asked for yet."""
        self._phases.setdefault(tuple(element for element, _ in phase), []).append((phase, energy))

    def formation_energy(self, composition: Composition, energy_per_atom: float) -> float:
        """Formation energy in eV/atom from a total energy in eV/atom.

        Raises:
            MissingReferenceError: An element has no reference energy.
        """
        parts = fractions(composition)
        self._require_references(parts)
        return energy_per_atom - sum(share * self.references[element] for element, share in parts)

    def e_above_hull(self, composition: Composition, formation_energy: float) -> float:
        """Energy above the hull in eV/atom; negative when the candidate lies below the known hull.

        Args:
            composition: Composition of the candidate; the hull may hold a phase of the same formula.
            formation_energy: Formation energy of the candidate in eV/atom.

        Raises:
            MissingReferenceError: An element has no reference energy.
        """
        parts = fractions(composition)
        self._require_references(parts)
        return formation_energy - self.energy(parts)

    def energy(self, parts: Fractions) -> float:
        """Formation energy in eV/atom of the hull at a composition (never above 0).

        Solves min_x c·x subject to A x = b, x >= 0, where column j of A holds the atomic fractions
        of phase j, c its formation energies and b the atomic fractions wanted.
        """
        if len(parts) == 1:
            return 0.0
        from scipy.optimize import linprog

        shares, energies = self._system(tuple(element for element, _ in parts))
        wanted = np.array([share for _, share in parts])
        solution = linprog(energies, A_eq=shares, b_eq=wanted, method="highs-ds", options={"presolve": False})
        if solution.status != 0:
            raise RewardError(f"No hull energy for {dict(parts)}: {solution.message}")
        return float(solution.fun)

    def _build_system(self, elements: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Shares (elements, phases) and energies (phases,) of all phases made of these elements."""
        phases: list[tuple[Fractions, float]] = [(((element, 1.0),), 0.0) for element in elements]
        for size in range(2, len(elements) + 1):
            for subset in combinations(elements, size):
                phases.extend(self._phases.get(subset, ()))
        row = {element: index for index, element in enumerate(elements)}
        shares = np.zeros((len(elements), len(phases)))
        for column, (phase, _) in enumerate(phases):
            for element, share in phase:
                shares[row[element], column] = share
        return shares, np.array([energy for _, energy in phases])

    def _require_references(self, parts: Fractions) -> None:
        missing = [element for element, _ in parts if element not in self.references]
        if missing:
            raise MissingReferenceError(
                f"No reference energy for {', '.join(missing)} (wanted for {dict(parts)}): the bundled "
                f"references cover {len(self.references)} elements; leave these elements out."
            )


@lru_cache(maxsize=1)
def load_hull() -> Hull:
    """The bundled hull, read once per process.

    Raises:
        AssetError: A bundled file is missing or damaged.
    """
    import pyarrow.parquet as pq

    references = json.loads(asset_path(REFERENCES_ASSET).read_text(encoding="utf-8"))
    table = pq.read_table(asset_path(HULL_ASSET))
    formulas = table.column("formula").to_pylist()
    energies = table.column("formation_energy_per_atom").to_pylist()
    return Hull(zip(map(parse_formula, formulas), energies, strict=True), references)
