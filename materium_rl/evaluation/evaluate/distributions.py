"""How far the samples are from a reference as a whole, and how much of it they meet.

Distances of finite samples are never 0: even a fresh draw from the reference has some. So each is given
beside what as many structures drawn from the reference would show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.metrics import elements_of
from materium_rl.evaluation.statistics import Bootstrap, jensen_shannon
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.structures import G_PER_CM3, structures_match

if TYPE_CHECKING:
    from pymatgen.core import Structure

N_DRAWS = 200
"""Draws from the reference that say what chance does."""
RESAMPLES_AT_ONCE = 100
SPACE_GROUPS = 230

Floats = NDArray[np.float64]
Labels = Sequence["str | None"]


@dataclass(frozen=True, slots=True)
class Distance:
    """A distance between samples and reference.

    Args:
        value: Of the samples.
        low: Lower end of the 95 % interval of its sampling spread.
        high: Upper end.
        chance: Median of the same distance of as many structures drawn from the reference.
        chance_high: Its 97.5 % quantile: a distance above it is no accident.
        unit: ``bits`` for a Jensen-Shannon divergence, else that of the quantity.
    """

    value: float
    low: float
    high: float
    chance: float
    chance_high: float
    unit: str


@dataclass(frozen=True, slots=True)
class Met:
    """How much of a reference the samples have written.

    Args:
        met: Distinct things of the reference that occur among the samples.
        known: Distinct things in the reference.
    """

    met: int
    known: int

    @property
    def share(self) -> float:
        """Met of known."""
        return self.met / self.known if self.known else float("nan")


@dataclass(frozen=True)
class Population:
    """What the distances are made of: one entry per structure.

    Args:
        elements: Structures (N, 118); whether each holds each element.
        space_groups: 1 to 230, mirror images as one; N whole numbers.
        n_sites: N numbers.
        n_elements: N numbers.
        density: g/cm³, N numbers.
        volume_per_atom: Å³, N numbers.
    """

    elements: NDArray[np.bool_]
    space_groups: NDArray[np.int64]
    n_sites: Floats
    n_elements: Floats
    density: Floats
    volume_per_atom: Floats

    def __len__(self) -> int:
        return len(self.n_sites)


NUMBERS = {"n_sites": "sites", "n_elements": "elements", "density": "g/cm3", "volume_per_atom": "Å3"}
"""Quantities that are compared by the Wasserstein distance, and their units."""


def population(structures: Sequence[Structure], prototypes: Labels) -> Population:
    """Of N structures with their prototype labels (None counts as P1)."""
    from ase.data import atomic_masses

    volumes = np.array([s.volume for s in structures])
    sites = np.array([len(s) for s in structures], dtype=np.float64)
    masses = np.array([atomic_masses[[site.specie.Z for site in s]].sum() for s in structures])
    formulas = [s.composition.reduced_formula for s in structures]
    return _population(formulas, prototypes, sites, masses, volumes)


def population_of(index: ReferenceIndex) -> Population:
    """Of the R structures of a reference."""
    sites = index.n_sites.astype(np.float64)
    return _population(index.formulas, index.prototype_labels, sites, index.masses, index.volumes)


def distances(
    samples: Population, reference: Population, *, n_boot: int = 1000, seed: int = 0
) -> dict[str, Distance]:
    """Distances of N samples from R references.

    ``elements`` and ``space_groups``: Jensen-Shannon divergence in bits of how often each occurs (an element
    once per structure). The others: first Wasserstein distance, in the unit of the quantity.

    The interval is the spread of the figure over resamples of the N samples, about the figure: a resample is
    farther from the reference than the samples are, by about what chance adds to them.

    Returns:
        By name; empty where there are no samples or no references.
    """
    if not len(samples) or not len(reference):
        return {}
    weights = Bootstrap(len(samples), n_boot=n_boot, seed=seed).draws
    draws = np.random.default_rng(seed).integers(0, len(reference), (N_DRAWS, len(samples)))
    found = {
        "elements": _divergence(samples.elements, reference.elements, weights, draws),
        "space_groups": _divergence(
            _one_hot(samples.space_groups), _one_hot(reference.space_groups), weights, draws
        ),
    }
    for name, unit in NUMBERS.items():
        found[name] = _wasserstein(getattr(samples, name), getattr(reference, name), weights, draws, unit)
    return found


def coverage(
    index: ReferenceIndex, structures: Sequence[Structure], formulas: Labels, prototypes: Labels
) -> dict[str, Met]:
    """How much of a reference N samples meet: ``formulas``, ``prototypes`` and ``structures``.

    A reference structure is met if a sample of its reduced formula matches it by StructureMatcher. Prototypes
    are those of ``rewards.prototypes``.
    """
    written = {label for label in prototypes if label is not None}
    of_formula: dict[str, list[Structure]] = defaultdict(list)
    for structure, formula in zip(structures, formulas, strict=True):
        if formula is not None:
            of_formula[formula].append(structure)
    met = sum(
        any(structures_match(sample, index.structure(row)) for sample in of_formula[formula])
        for row, formula in enumerate(index.formulas)
        if formula in of_formula
    )
    known_formulas, known_prototypes = set(index.formulas), set(index.prototype_labels)
    return {
        "formulas": Met(len(known_formulas & set(of_formula)), len(known_formulas)),
        "prototypes": Met(len(known_prototypes & written), len(known_prototypes)),
        "structures": Met(met, len(index)),
    }


def _population(
    formulas: Sequence[str], prototypes: Labels, sites: Floats, masses: Floats, volumes: Floats
) -> Population:
    from ase.data import atomic_numbers

    elements = np.zeros((len(formulas), 118), dtype=np.bool_)
    for row, formula in enumerate(formulas):
        elements[row, [atomic_numbers[symbol] - 1 for symbol in elements_of(formula)]] = True
    groups = np.array(
        [1 if label is None else int(label.split("_")[1]) for label in prototypes], dtype=np.int64
    )
    return Population(
        elements=elements,
        space_groups=groups,
        n_sites=sites,
        n_elements=elements.sum(axis=1).astype(np.float64),
        density=G_PER_CM3 * masses / volumes,
        volume_per_atom=volumes / sites,
    )


def _one_hot(groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(groups[:, None] == np.arange(1, SPACE_GROUPS + 1))


def _divergence(
    samples: NDArray[np.bool_], reference: NDArray[np.bool_], weights: Floats, draws: NDArray[np.int64]
) -> Distance:
    """Of two sets of flags, (N, K) and (R, K)."""
    known = reference.sum(axis=0)
    value = jensen_shannon(samples.sum(axis=0), known)
    resampled = _divergences(weights @ samples, known)
    drawn = _divergences(np.array([reference[rows].sum(axis=0) for rows in draws]), known)
    return _distance(value, resampled, drawn, "bits")


def _divergences(counts: Floats, known: NDArray[np.int64]) -> Floats:
    """``jensen_shannon`` of many histograms (B, K) and one (K,)."""
    p = counts / counts.sum(axis=1, keepdims=True)
    q = np.broadcast_to(known / known.sum(), p.shape)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return np.asarray(terms.sum(axis=1) / 2, dtype=np.float64)


def _wasserstein(
    samples: Floats, reference: Floats, weights: Floats, draws: NDArray[np.int64], unit: str
) -> Distance:
    from scipy.stats import wasserstein_distance

    value = float(wasserstein_distance(samples, reference))
    drawn = np.array([wasserstein_distance(reference[rows], reference) for rows in draws])
    blocks = np.array_split(weights, max(1, len(weights) // RESAMPLES_AT_ONCE))
    resampled = np.concatenate([_resampled_wasserstein(samples, reference, block) for block in blocks])
    return _distance(value, resampled, drawn, unit)


def _resampled_wasserstein(samples: Floats, reference: Floats, weights: Floats) -> Floats:
    """Distances (B,) of N samples that count as often as the rows of ``weights`` (B, N) say."""
    order = np.argsort(samples)
    grid = np.unique(np.concatenate([samples, reference]))
    below = np.searchsorted(samples[order], grid[:-1], side="right")
    sums = np.cumsum(weights[:, order], axis=1)
    shares = np.concatenate([np.zeros((len(weights), 1)), sums / sums[:, -1:]], axis=1)[:, below]
    known = np.searchsorted(np.sort(reference), grid[:-1], side="right") / len(reference)
    return np.asarray(np.abs(shares - known) @ np.diff(grid), dtype=np.float64)


def _distance(value: float, resampled: Floats, drawn: Floats, unit: str) -> Distance:
    low, middle, high = np.quantile(resampled, [0.025, 0.5, 0.975])
    chance, chance_high = np.quantile(drawn, [0.5, 0.975])
    return Distance(
        value=value,
        low=max(0.0, value + float(low - middle)),
        high=value + float(high - middle),
        chance=float(chance),
        chance_high=float(chance_high),
        unit=unit,
    )
