"""Distances and coverage: against libraries, against chance, and on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile
from scipy.stats import wasserstein_distance

from materium_rl.evaluation.evaluate.distributions import (
    Population,
    _divergences,
    _resampled_wasserstein,
    _wasserstein,
    coverage,
    distances,
    population,
    population_of,
)
from materium_rl.evaluation.statistics import Bootstrap, jensen_shannon
from materium_rl.rewards.prototypes import prototypes
from materium_rl.rewards.references import ReferenceIndex


def labels(structures: list[Structure]) -> list[str]:
    return [prototype.label for prototype in prototypes(structures)]


def silver_chloride() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.5), ["Ag", "Cl"], [[0] * 3, [0.5] * 3])


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> Population:
    """n made-up structures of two elements each; ``shift`` moves the density."""
    elements = np.zeros((n, 118), dtype=bool)
    for row in elements:
        row[rng.choice(20, 2, replace=False)] = True
    return Population(
        elements=elements,
        space_groups=rng.choice([1, 14, 62, 166, 225], n),
        n_sites=rng.integers(1, 20, n).astype(float),
        n_elements=np.full(n, 2.0),
        density=rng.normal(5 + shift, 1, n),
        volume_per_atom=rng.normal(20, 3, n),
    )


def test_a_population_is_the_same_from_structures_and_from_an_index():
    structures = [rock_salt(), rutile(), silver_chloride()]
    index = ReferenceIndex.from_structures(structures, ["a", "b", "c"])
    one, other = population(structures, labels(structures)), population_of(index)
    assert one.space_groups.tolist() == other.space_groups.tolist() == [225, 136, 225]
    np.testing.assert_array_equal(one.elements, other.elements)
    assert np.flatnonzero(one.elements[0]).tolist() == [10, 16]  # Na, Cl, counted from hydrogen
    for name in ("n_sites", "n_elements", "density", "volume_per_atom"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5)
    assert one.density == pytest.approx([s.density for s in structures], rel=1e-4)


def test_resampled_distances_are_those_of_the_repeated_samples():
    rng = np.random.default_rng(1)
    samples, reference = rng.normal(size=12).round(1), rng.normal(1, 2, size=30).round(1)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=4).astype(float)
    expected = [wasserstein_distance(np.repeat(samples, w.astype(int)), reference) for w in weights]
    assert _resampled_wasserstein(samples, reference, weights) == pytest.approx(expected)
    counts, known = rng.integers(0, 5, (4, 7)).astype(float), rng.integers(0, 9, 7)
    assert _divergences(counts, known) == pytest.approx([jensen_shannon(row, known) for row in counts])


def test_a_set_is_at_no_distance_from_itself():
    everyone = drawn(np.random.default_rng(0), 400)
    found = distances(everyone, everyone, n_boot=50)
    assert [distance.value for distance in found.values()] == pytest.approx([0] * 6, abs=1e-12)


def test_chance_explains_a_fresh_draw_and_not_a_shifted_one():
    rng = np.random.default_rng(0)
    reference = drawn(rng, 4000)
    fresh = distances(drawn(rng, 200), reference, n_boot=100)
    assert all(d.value <= 1.3 * d.chance_high for d in fresh.values())
    shifted = distances(drawn(rng, 200, shift=1.0), reference, n_boot=100)
    assert shifted["density"].value == pytest.approx(1.0, abs=0.2)
    assert shifted["density"].low > shifted["density"].chance_high
    assert shifted["density"].low < shifted["density"].value < shifted["density"].high
    assert shifted["n_sites"].value < 1.3 * shifted["n_sites"].chance_high


def test_the_interval_holds_the_distance_of_the_whole_population():
    """Of 60 samples of a population that is shifted by 1, about 95 % of the intervals hold the 1."""
    rng = np.random.default_rng(5)
    reference = rng.normal(0, 1, 2000)
    reference -= reference.mean()
    hits = 0
    for seed in range(60):
        samples = rng.normal(1, 1, 150)
        weights = Bootstrap(150, n_boot=200, seed=seed).draws
        found = _wasserstein(samples, reference, weights, np.zeros((1, 150), dtype=int), "")
        hits += found.low <= 1.0 <= found.high
    assert 52 <= hits <= 60


def test_distances_of_nothing():
    everyone = drawn(np.random.default_rng(0), 5)
    nothing = population([], [])
    assert len(nothing) == 0
    assert distances(nothing, everyone) == {}
    assert distances(everyone, nothing) == {}


def test_coverage():
    caesium_type = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    reference = [rock_salt(), rutile(), silver_chloride(), caesium_type]
    index = ReferenceIndex.from_structures(reference, ["a", "b", "c", "d"])
    wide = rock_salt()
    wide.scale_lattice(1.05 * wide.volume)
    samples = [wide, wide * (1, 1, 2), Structure(Lattice.cubic(2.87), ["Fe"] * 2, [[0] * 3, [0.5] * 3])]
    found = coverage(index, samples, ["NaCl", "NaCl", "Fe"], labels(samples))
    assert {name: (met.met, met.known) for name, met in found.items()} == {
        "formulas": (1, 3),
        "prototypes": (1, 3),  # rock salt twice, rutile, caesium chloride
        "structures": (1, 4),
    }
    assert found["structures"].share == 0.25
