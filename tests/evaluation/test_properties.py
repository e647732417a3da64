"""Targets and histograms."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from materium_rl.errors import ConfigError
from materium_rl.evaluation.evaluate.properties import Target, histogram, monitors, property_of, values_of


@pytest.mark.parametrize(
    ("text", "name", "low", "high"),
    [
        ("band_gap=1..2", "band_gap", 1, 2),
        (" band_gap = .5 .. 2.5 ", "band_gap", 0.5, 2.5),
        ("e_above_hull=..0.05", "e_above_hull", -math.inf, 0.05),
        ("density=5..", "density", 5, math.inf),
        ("space_group=225", "space_group", 225, 225),
        ("bulk_modulus=1e2..", "bulk_modulus", 100, math.inf),
    ],
)
def test_targets(text, name, low, high):
    assert Target.parse(text) == Target(name, low, high)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("band_gap", "expected NAME=RANGE"),
        ("band_gap=", "expected NAME=RANGE"),
        ("bandgab=1..2", "unknown property 'bandgab'; did you mean 'bandgap'"),
        ("band_gap=2..1", "an empty range"),
        ("band_gap=1.5", r"no value is exactly 1.5; give a range, such as band_gap=A..B"),
        ("band_gap=low..2", "'low' is no number"),
        ("uniqueness=1", "no property of a structure"),
    ],
)
def test_wrong_targets(text, message):
    with pytest.raises(ConfigError, match=message):
        Target.parse(text)


def test_hits_and_how_they_are_written():
    values = np.array([0.9, 1.0, 2.0, 2.1, math.nan])
    assert Target("band_gap", 1, 2).hit(values).tolist() == [False, True, True, False, False]
    assert Target("density", 5, math.inf).hit(values + 4).tolist() == [False, True, True, True, False]
    texts = [t.text for t in (Target("a", 1, 2), Target("a", -math.inf, 2), Target("a", 3, math.inf))]
    assert [*texts, Target("a", 225, 225).text] == ["1..2", "..2", "3..", "225"]


def test_only_what_is_not_measured_anyway_needs_a_reward():
    assert monitors([Target.parse(t) for t in ("band_gap=1..2", "bulk_modulus=100..", "hhi=..0.2")]) == [
        "bulk_modulus",
        "hhi",
    ]
    assert property_of("bulk_modulus").unit == "GPa"


def test_values():
    frame = pd.DataFrame(
        {"formula": ["NaCl", None, "SrTiO3"], "bandgap.value": [5.0, math.nan, 3.2], "n_sites": [8, None, 5]}
    )
    assert values_of(frame, "n_elements").tolist()[::2] == [2, 3]
    assert values_of(frame, "band_gap").tolist()[::2] == [5.0, 3.2]
    assert math.isnan(values_of(frame, "n_sites")[1])
    assert np.isnan(values_of(frame, "bulk_modulus")).all()  # was not measured


def test_whole_numbers_have_bins_of_their_own():
    found = histogram(np.array([2.0, 2, 3, 5, math.nan]), "sites", None, "n_sites")
    assert found.edges == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert (found.counts, found.measured, found.mean) == ([2, 1, 0, 1], 4, 3.0)


def test_far_values_count_in_the_last_bin():
    values = np.concatenate([np.linspace(0, 1, 1000), [50.0]])
    found = histogram(values, "eV", None, "band_gap")
    assert sum(found.counts) == 1001
    assert found.edges[-1] < 1.1
    assert histogram(np.full(3, math.nan), "eV", None, "band_gap") is None
    assert sum(histogram(np.full(3, 0.25), "eV", None, "band_gap").counts) == 3
