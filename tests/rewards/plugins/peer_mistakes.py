"""Mistakes of other tools, each re-introduced in a small reward that the test bench must fail."""

from __future__ import annotations

import ctypes
import math
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.fingerprint import fingerprints
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.shaping import Identity, Shaping, SoftStep
from materium_rl.structures import minimum_distance_ratio

if TYPE_CHECKING:
    from pymatgen.core import Structure

RADII = {"Mg": 1.5, "Ca": 1.8, "Sr": 2.0, "Mn": 1.4, "Fe": 1.4, "Ni": 1.35, "Cd": 1.55, "O": 0.6}
RADII |= {"Na": 1.8, "Cl": 1.0, "Ti": 1.4, "Cs": 2.6, "F": 0.5, "Zn": 1.35, "Si": 1.1, "Al": 1.25}
"""Å, Slater; many elements are missing."""


class Mistake(Reward):
    """Base: scores are values, subclasses answer one structure at a time."""

    curve: ClassVar[Shaping] = Identity()

    def shaping(self) -> Shaping:
        return self.curve

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        return [Measurement(self.value(structure)) for structure in structures]

    def value(self, structure: Structure) -> float:
        raise NotImplementedError


class DuplicateScoredByTheNextNeighbour(Mistake):
    """An exact duplicate has distance 0 to its twin; the nearest *other* structure is taken instead."""

    name: ClassVar[str] = "next_neighbour"
    scope: ClassVar[Any] = "batch"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        prints = [p for p in fingerprints(structures) if p is not None]
        nearest = [[float(np.abs(a - b).max()) for b in prints] for a in prints]
        return [Measurement(min([1.0, *(d for d in row if d > 1e-6)])) for row in nearest]


class Counting(Mistake):
    """A sound uniqueness by some key, to be spoilt."""

    scope: ClassVar[Any] = "batch"
    _seen: Counter[str] = PrivateAttr(default_factory=Counter)

    def key(self, structure: Structure) -> str:
        (found,) = prototypes([structure])
        return found.formula + found.label if isinstance(found, Prototype) else ""

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        keys = [self.key(structure) for structure in structures]
        self._seen.update(keys)
        return [Measurement(1 / self._seen[key]) if key else Invalid("no key") for key in keys]

    def state_dict(self) -> dict[str, Any]:
        return dict(self._seen)

    def load_state_dict(self, state: Any) -> None:
        self._seen = Counter(state)


class UniqueInsideOneBatch(Counting):
    name: ClassVar[str] = "unique_inside_one_batch"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        self._seen.clear()
        return super().measure(structures)


class DiversityByFormulaAlone(Counting):
    name: ClassVar[str] = "diversity_by_formula"

    def key(self, structure: Structure) -> str:
        return structure.composition.element_composition.reduced_formula


class MemoryThatIsLost(Counting):
    """Its archive is not saved with the run."""

    name: ClassVar[str] = "memory_that_is_lost"

    def load_state_dict(self, state: Any) -> None:
        pass


class DefaultComparator(Mistake):
    """StructureMatcher as it comes: NaCl(+1/-1) and NaCl(+2/-2) are different crystals to it."""

    name: ClassVar[str] = "default_comparator"
    scope: ClassVar[Any] = "batch"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        from pymatgen.core.structure_matcher import StructureMatcher

        matcher = StructureMatcher()
        return [Measurement(1 / sum(matcher.fit(a, b) for b in structures)) for a in structures]


class MinMaxOfTheBatch(Mistake):
    name: ClassVar[str] = "min_max_of_the_batch"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        densities = [float(structure.density) for structure in structures]
        low, high = min(densities), max(densities)
        return [Measurement((d - low) / (high - low + 1e-9)) for d in densities]


def _energy(structure: Structure) -> float:
    """A toy energy above a hull in eV/atom: NaN where a radius is missing or a number is none."""
    radii = sum(RADII.get(site.specie.symbol, math.nan) for site in structure) / len(structure)
    size = np.linalg.norm(structure.cart_coords.max(axis=0) - structure.cart_coords.min(axis=0))
    return 0.1 * radii * float(size) / structure.volume ** (1 / 3)


class NaNHullBecomesOne(Mistake):
    name: ClassVar[str] = "nan_hull_becomes_one"

    def value(self, structure: Structure) -> float:
        energy = _energy(structure)
        return 1.0 if math.isnan(energy) else energy


class ClippedHull(Mistake):
    """A blown-up energy is cut at -10 eV/atom, and low is good."""

    name: ClassVar[str] = "clipped_hull"
    curve: ClassVar[Shaping] = SoftStep(full=-2.0, zero=0.5)

    def value(self, structure: Structure) -> float:
        return max(-10.0, -((0.7 / max(minimum_distance_ratio(structure), 1e-3)) ** 6))


class UnclippedHull(ClippedHull):
    name: ClassVar[str] = "unclipped_hull"

    def value(self, structure: Structure) -> float:
        return -((0.7 / max(minimum_distance_ratio(structure), 1e-3)) ** 6)


class BareExcept(Mistake):
    name: ClassVar[str] = "bare_except"

    def value(self, structure: Structure) -> float:
        try:
            return sum(RADII[site.specie.symbol] for site in structure) / structure.volume ** (1 / 3) / 10
        except Exception:  # noqa: BLE001 (the mistake)
            return 0.5


class CrashOnAMissingElement(Mistake):
    name: ClassVar[str] = "crash_on_a_missing_element"

    def value(self, structure: Structure) -> float:
        return sum(RADII[site.specie.symbol] for site in structure) / len(structure) / 3


class PhaseDiagramForEverySample(Mistake):
    name: ClassVar[str] = "phase_diagram_for_every_sample"

    def value(self, structure: Structure) -> float:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        entries = [PDEntry(element.symbol, 0.0) for element in structure.composition]
        diagram = PhaseDiagram([*entries, PDEntry(structure.composition, -1.0)])
        return min(1.0, diagram.get_e_above_hull(PDEntry(structure.composition, -0.5)))


class OptionIgnored(Mistake):
    """Accepts a temperature and does nothing with it."""

    name: ClassVar[str] = "option_ignored"
    temperature: float = 300.0

    def value(self, structure: Structure) -> float:
        return 0.5


class AnyOptionAccepted(Mistake):
    model_config = ConfigDict(frozen=True, extra="ignore")
    name: ClassVar[str] = "any_option_accepted"

    def value(self, structure: Structure) -> float:
        return 0.5


def argument_ignored(structures: Sequence[Structure], *, temperature: float = 300.0) -> list[float]:
    """A function with an option that it does not use."""
    return [0.5 for _ in structures]


class UnknownGroupIsPm3m(Mistake):
    """A symmetry search that fails gives 221."""

    name: ClassVar[str] = "unknown_group_is_pm3m"
    curve: ClassVar[Shaping] = SoftStep(full=230.0, zero=1.0)

    def value(self, structure: Structure) -> float:
        (found,) = prototypes([structure])
        return float(found.space_group_number) if isinstance(found, Prototype) else 221.0


class StrainPays(Mistake):
    """Novelty as distance from a known crystal, without a tolerance."""

    name: ClassVar[str] = "strain_pays"
    seeks_novelty: ClassVar[bool] = True

    def value(self, structure: Structure) -> float:
        a, b, _ = structure.lattice.abc
        return min(1.0, 100 * abs(a - b) / a)


class BrokenWorkerBlamesThePolicy(Mistake):
    name: ClassVar[str] = "broken_worker_blames_the_policy"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        return [Invalid("cannot open model.pt")] * len(structures)


class FewerThanAsked(Mistake):
    """What cannot be measured is left out of the answers."""

    name: ClassVar[str] = "fewer_than_asked"

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        known = [s for s in structures if {site.specie.symbol for site in s} <= {"Si", "O", "Ti"}]
        return [Measurement(0.5) for _ in known]


class DependsOnTheCell(Mistake):
    name: ClassVar[str] = "depends_on_the_cell"
    curve: ClassVar[Shaping] = SoftStep(full=20.0, zero=0.0)

    def value(self, structure: Structure) -> float:
        return float(len(structure))


class ChangesItsInput(Mistake):
    name: ClassVar[str] = "changes_its_input"

    def value(self, structure: Structure) -> float:
        structure.translate_sites(range(len(structure)), [0.1, 0.0, 0.0])
        return 0.5


class NoSeed(Mistake):
    name: ClassVar[str] = "no_seed"

    def value(self, structure: Structure) -> float:
        return random.random()


class Breaks(Mistake):
    """Never comes back from a collapsed cell, exits on argon, and crashes on a cell without sites."""

    name: ClassVar[str] = "breaks"

    def value(self, structure: Structure) -> float:
        if len(structure) == 0:
            ctypes.string_at(0)
        if structure.volume / len(structure) < 2.0:
            time.sleep(3600)
        if "Ar" in structure.composition:
            print("no pseudopotential for Ar", flush=True)
            os._exit(7)
        return 0.5
