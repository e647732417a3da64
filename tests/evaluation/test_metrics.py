"""Every figure on a table made by hand, so that each answer can be counted on the fingers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from pymatgen.core import Composition, Lattice, Structure

from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.evaluation.metrics import add_verdicts, elements_of, figures, structure_groups
from materium_rl.evaluation.statistics import jensen_shannon
from materium_rl.rewards.prototypes import family_formula

NAN = math.nan
COLUMNS = ("formula", "n_sites", "prototype", "framework", "tier", "stability", "bandgap", "group")
OK_ROWS = [
    ("NaCl", 2, "P1", "F1", "known", 0.0, 5.0, 0),
    ("LaNdAlAu", 4, "P2", "F2", "substitution", 0.05, 1.5, 1),
    ("LaNdAlAu", 4, "P2", "F2", "substitution", 0.05, 1.5, 1),  # a duplicate
    ("PrSmAlAu", 4, "P2", "F2", "known_prototype", 0.02, 0.0, 2),  # the same but for its rare earths
    ("CaTiOF", 8, "P3", "F2", "new_prototype", 0.08, 1.2, 3),  # the same framework
    ("CaO", 2, "P4", "F4", "new_arrangement", 0.0, 1.34, 4),  # novel by structure only
    ("SrS", 2, "P6", "F4", "substitution", 0.1, 3.0, 5),  # not below 0.1
]
EXPECTED = {
    "parsed": 9 / 10,
    "valid": 8 / 10,
    "scored": 7 / 10,
    "failed": 1 / 10,
    "stable": 6 / 10,
    "on_hull": 2 / 10,
    "unique": 7 / 10,
    "novel": 6 / 10,
    "novel_structure": 7 / 10,
    "sun": 3 / 10,
    "sun_structure": 4 / 10,
    "on_target": 4 / 10,
    "on_target_of_stable": 4 / 6,
    "sun_on_target": 2 / 10,
    "sun_prototypes": 2 * 102.4,
    "sun_frameworks": 1 * 102.4,
    "sun_merged_formulas": 2 * 102.4,
    "sun_substitutions": 1 / 3,
    "sun_new": 1 / 10,
    "sun_colourings": 0.0,
    "sun_family_swaps": 1 / 10,  # LaNdAlAu
    "sun_rare_earth_swaps": 1 / 10,  # PrSmAlAu
    "top5": 7 / 10,  # six prototypes, 3 + 1 + 1 + 1 + 1
    "mean_sites": 29 / 8,
    "mean_elements": 24 / 8,
    "rare_earth": 3 / 8,
    "anion": 5 / 8,  # Os is no oxygen
    "elements": 16,
    "mean_sites_parsed": 39 / 9,
    "mean_elements_parsed": 26 / 9,
    "rare_earth_parsed": 3 / 9,
    "anion_parsed": 5 / 9,
}
TRAINING = {"Na": 1, "Cl": 1}


def ok_row(formula, n_sites, prototype, framework, tier, stability, bandgap, group) -> dict[str, Any]:
    return {
        "outcome": "ok",
        "formula": formula,
        "n_sites": n_sites,
        "prototype": prototype,
        "framework": framework,
        "family_formula": formula and family_formula(Composition(formula).get_el_amt_dict()),
        "validity.outcome": "ok",
        "stability.outcome": "ok",
        "stability.value": stability,
        "novelty.outcome": "ok",
        "novelty.tier": tier,
        "bandgap.outcome": "ok",
        "bandgap.value": bandgap,
        "group": group,
    }


def turned_down(formula: str | None, n_sites: int | None, validity: str) -> dict[str, Any]:
    row = ok_row(formula, n_sites, None, None, None, NAN, NAN, -1)
    others = {f"{name}.outcome": "skipped" for name in ("stability", "novelty", "bandgap")}
    return {**row, "outcome": "invalid", "validity.outcome": validity, **others}


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    failed = ok_row("PtN2", 3, "P5", "F5", "new_prototype", NAN, NAN, 6)
    rows = [ok_row(*row) for row in OK_ROWS]
    rows += [{**failed, "outcome": "failed", "stability.outcome": "failed", "bandgap.outcome": "failed"}]
    rows += [turned_down("KOs", 10, "invalid"), turned_down(None, None, "skipped")]
    frame = pd.DataFrame(rows)
    return add_verdicts(frame.drop(columns="group"), frame["group"].tolist(), target=1.34, width=0.3)


@pytest.mark.parametrize(("key", "value"), EXPECTED.items())
def test_known_answer(verdicts: pd.DataFrame, key: str, value: float) -> None:
    assert figures(verdicts, TRAINING)[key].value == pytest.approx(value)


def test_every_figure_has_a_known_answer() -> None:
    assert {d.key for d in DEFINITIONS} == {*EXPECTED, "element_divergence"}


def test_verdict_columns_name_the_rows(verdicts: pd.DataFrame) -> None:
    named = {
        key: verdicts.index[verdicts[key]].tolist() for key in ("sun", "sun_on_target", "unique", "failed")
    }
    assert named == {
        "sun": [1, 3, 4],
        "sun_on_target": [1, 4],
        "unique": [0, 1, 3, 4, 5, 6, 7],
        "failed": [7],
    }


def test_first_stable_one_of_equal_samples_counts(verdicts: pd.DataFrame) -> None:
    frame = verdicts.copy()
    frame.loc[1, "stability.value"] = 0.3
    again = add_verdicts(frame, frame["group"].tolist(), target=1.34, width=0.3)
    assert again.index[again["sun"]].tolist() == [2, 3, 4]
    assert again.index[again["unique"]].tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_intervals_hold_the_value(verdicts: pd.DataFrame) -> None:
    found = figures(verdicts, TRAINING)
    keys = (
        "parsed",
        "stable",
        "on_target_of_stable",
        "mean_sites",
        "anion",
        "elements",
        "element_divergence",
    )
    for key in (*keys, "sun", "sun_prototypes"):
        assert found[key].low < found[key].value < found[key].high


def test_element_divergence_from_training(verdicts: pd.DataFrame) -> None:
    used = verdicts.loc[verdicts["valid"], "formula"]
    same = {
        symbol: sum(symbol in elements_of(formula) for formula in used)
        for symbol in elements_of("".join(used))
    }
    assert figures(verdicts, same)["element_divergence"].value == pytest.approx(0, abs=1e-12)
    assert figures(verdicts, {"He": 5})["element_divergence"].value == pytest.approx(1)


def test_what_was_not_measured_has_no_figure(verdicts: pd.DataFrame) -> None:
    frame = verdicts.drop(columns=["stability.outcome", "stability.value"])
    frame = add_verdicts(frame, frame["group"].tolist(), target=1.34, width=0.3)
    found = figures(frame, TRAINING)
    unknown = {key for key, figure in found.items() if math.isnan(figure.value)}
    assert unknown >= {"stable", "sun", "sun_prototypes", "on_target_of_stable"}
    assert {"novel", "unique", "valid", "on_target"}.isdisjoint(unknown)


def test_nothing_valid(verdicts: pd.DataFrame) -> None:
    frame = verdicts[~verdicts["valid"]]
    found = figures(frame, TRAINING)
    assert (found["parsed"].value, found["valid"].value, found["sun_prototypes"].value) == (0.5, 0, 0)
    assert math.isnan(found["mean_sites"].value)
    assert math.isnan(found["element_divergence"].value)


def test_elements_of() -> None:
    assert elements_of("Lu(SiOs)2") == {"Lu", "Si", "Os"}


# The mean of (1/2, 1/2) and (1, 0) is (3/4, 1/4); half the KL divergence of each from it.
HALF_SHARED = 0.5 * (0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) + 0.5 * math.log2(4 / 3)


@pytest.mark.parametrize(
    ("p", "q", "bits"), [([2, 6], [1, 3], 0.0), ([1, 0], [0, 7], 1.0), ([1, 1], [5, 0], HALF_SHARED)]
)
def test_jensen_shannon(p: list[int], q: list[int], bits: float) -> None:
    assert jensen_shannon(p, q) == pytest.approx(bits, abs=1e-12)
    assert jensen_shannon(q, p) == pytest.approx(bits, abs=1e-12)


def test_jensen_shannon_of_nothing() -> None:
    assert math.isnan(jensen_shannon([0, 0], [1, 0]))


def test_structure_groups() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    charged = salt.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    strained = salt.copy().apply_strain(0.01)
    shaken = salt.copy().perturb(0.05)  # another prototype, the same crystal
    caesium_type = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    other = Structure(Lattice.cubic(3.4), ["K", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = [salt, salt * (2, 1, 1), None, charged, strained, shaken, caesium_type, other, caesium_type]
    formulas = [None if s is None else s.composition.reduced_formula.replace("+", "") for s in structures]
    formulas[3] = "NaCl"
    assert structure_groups(structures, formulas) == [0, 0, -1, 0, 0, 0, 1, 2, 1]
