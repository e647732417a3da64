"""Guards: what the policy must not buy its reward with.

Reward can be won by shrinking the cell, by leaving compounds for intermetallics or by filling sites
with rare earths; none of that is what the user asked for. A guard is a descriptor of a structure
(number of sites, presence of a rare earth, of an anion former, ...). Two things keep its mean near
that of the pretrained policy:

* the part of the rewards that is linear in the descriptors is removed before they become advantages,
  so that no update is, to first order, paid for moving them;
* a restoring term pushes back what has drifted all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core import Structure

from materium_rl.rewards.elements import ANION_FORMERS, RARE_EARTHS


def _share(structure: Structure, symbols: frozenset[str]) -> float:
    return float(any(e.symbol in symbols for e in structure.composition.elements))


DESCRIPTORS = {
    "n_sites": lambda s: float(len(s)),
    "n_elements": lambda s: float(len(s.composition.elements)),
    "rare_earth": lambda s: _share(s, RARE_EARTHS),
    "anion": lambda s: _share(s, ANION_FORMERS),
    "oxygen": lambda s: _share(s, frozenset({"O"})),
    "halogen": lambda s: _share(s, frozenset({"F", "Cl", "Br", "I"})),
    "chalcogen": lambda s: _share(s, frozenset({"S", "Se", "Te"})),
    "alkali": lambda s: _share(s, frozenset({"Li", "Na", "K", "Rb", "Cs"})),
    "alkaline_earth": lambda s: _share(s, frozenset({"Be", "Mg", "Ca", "Sr", "Ba"})),
}
"""Guards by name: a structure -> a number."""


def describe(structures: Sequence[Structure], names: Sequence[str]) -> np.ndarray:
    """Descriptors of N structures, float64 (N, F)."""
    rows = [[DESCRIPTORS[name](s) for name in names] for s in structures]
    return np.array(rows, dtype=np.float64).reshape(len(structures), len(names))


@dataclass
class Guards:
    """Keeps the means of the descriptors, over valid samples, near their reference.

    Args:
        names: Descriptors that are held, keys of ``DESCRIPTORS``; reference and running means are kept of
            all of them, so that another stage of a run may hold others.
        floors: Those among them that may rise but not fall.
        strength: Weight of the restoring term; 0 leaves only the orthogonalised advantages.
        memory: Share of the running mean that one batch does not replace.
    """

    names: tuple[str, ...]
    floors: tuple[str, ...] = ()
    strength: float = 1.0
    memory: float = 0.9
    reference: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))
    running: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def _columns(self) -> list[int]:
        return [list(DESCRIPTORS).index(name) for name in self.names]

    @property
    def is_floor(self) -> np.ndarray:
        """Which descriptors may rise, bool (F,)."""
        return np.array([name in self.floors for name in self.names], dtype=bool)

    def fit(self, structures: Sequence[Structure]) -> None:
        """Take mean and spread of the reference policy's valid samples as the reference."""
        rows = describe(structures, list(DESCRIPTORS))
        self.reference = np.stack([rows.mean(axis=0), rows.std(axis=0) + 1e-6])
        self.running = self.reference[0].copy()

    def standardise(self, structures: Sequence[Structure]) -> np.ndarray:
        """Descriptors in units of the reference spread, (N, F)."""
        mean, spread = self.reference[:, self._columns]
        standard: np.ndarray = (describe(structures, self.names) - mean) / spread
        return standard

    def restoring(self, standard: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Term to add to the advantages (N,), after counting this batch into the running means.

        Args:
            standard: Standardised descriptors (N, F).
            valid: Which samples are valid, bool (N,).
        """
        mean, spread = self.reference[:, self._columns]
        if valid.any():
            batch = standard[valid].mean(axis=0) * spread + mean
            running = self.running[self._columns]
            self.running[self._columns] = self.memory * running + (1 - self.memory) * batch
        drift = (self.running[self._columns] - mean) / spread
        drift = np.where(self.is_floor, np.minimum(drift, 0.0), drift)
        term: np.ndarray = -self.strength * (standard - standard.mean(axis=0)) @ drift
        return term

    def drift(self) -> dict[str, float]:
        """Running mean of each descriptor over its reference mean, minus 1."""
        mean = self.reference[0, self._columns]
        ratio = self.running[self._columns] / np.maximum(mean, 1e-9) - 1
        return {name: float(value) for name, value in zip(self.names, ratio, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Reference and running means."""
        return {"reference": self.reference, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.reference, self.running = state["reference"], state["running"]
