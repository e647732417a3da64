"""Filters and sort keys: what they mean, what they refuse and how they say so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries.filters import condition, sort_key

TABLE = pd.DataFrame(
    {
        "formula": ["LiFeO2", "NaCl", "Si", "Fe2O3"],
        "elements": [frozenset({"Li", "Fe", "O"}), frozenset({"Na", "Cl"}), frozenset({"Si"}), None],
        "n_sites": [4, 2, 2, 10],
        "bandgap.value": [1.2, 5.0, np.nan, 2.0],
        "stability.value": [0.0, 0.02, 0.3, np.nan],
        "density.value": [4.0, 2.2, 2.3, 5.2],
        "validity.density": [9.0, 9.0, 9.0, 9.0],
        "novelty.tier": ["new_prototype", "known", None, "substitution"],
        "novelty.new_framework": [True, False, None, True],
        "relaxed": [True, True, False, False],
        "empty": [None, None, None, None],
        "tokens": [np.array([1, 2]), np.array([3]), np.array([4]), np.array([5])],
        "mixed": ["a", 1.0, None, None],
    }
)
T, F, U = True, False, None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("band_gap > 1 and e_above_hull < 0.03", [T, T, F, U]),
        ("band_gap > 1 or e_above_hull < 0.03", [T, T, U, T]),
        ("bandgap.value > 1", [T, T, U, T]),
        ("not band_gap > 1", [F, F, U, F]),
        ("not (band_gap > 4 or n_sites == 10)", [T, F, U, F]),
        ("1 < band_gap <= 2", [T, F, U, T]),
        ("'O' in elements", [T, F, F, U]),
        ("'O' not in elements and n_sites < 9", [F, T, T, F]),
        ("tier in ['known', 'substitution']", [F, T, U, T]),
        ("tier != 'known'", [T, F, U, T]),
        ("n_sites in (2, -4)", [F, T, T, F]),
        ("formula == 'Si'", [F, F, T, F]),
        ("density < 3", [F, T, T, F]),
        ("validity.density == 9", [T, T, T, T]),
        ("relaxed and novelty.new_framework", [T, F, F, F]),
        ("relaxed == False", [F, F, T, T]),
        ("band_gap / e_above_hull > 100", [U, T, U, U]),
        ("-band_gap + 2*n_sites - 1 > 5", [T, F, U, T]),
        ("empty > 1", [U, U, U, U]),
        ("not empty", [U, U, U, U]),
        ("True", [T, T, T, T]),
        ("n_sites >\n 2", [T, F, F, T]),
    ],
)
def test_conditions_have_known_answers(text: str, expected: list[bool | None]) -> None:
    assert condition(text, TABLE).values == expected


def test_sort_keys_are_numbers_and_unknown_where_a_part_is() -> None:
    assert sort_key("-e_above_hull", TABLE).values == [0.0, -0.02, -0.3, None]
    assert sort_key("band_gap - 10*e_above_hull", TABLE).values == pytest.approx([1.2, 4.8, None, None])


def test_the_columns_that_are_named_are_told_in_order() -> None:
    text = "n_sites > 1 and band_gap > 1 and bandgap.value > 2 and 'O' in elements"
    assert condition(text, TABLE).columns == ("n_sites", "bandgap.value", "elements")


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("bandgp > 1", 0, "no column 'bandgp'; did you mean 'band_gap'?"),
        ("n_sites > 1 and novelty.teir == 'x'", 16, "did you mean 'novelty.tier'?"),
        ("novelty > 1", 0, "no column 'novelty'"),
        ("band_gap > ", 10, "cannot be read"),
        ("band_gap > 1 and", 16, "cannot be read"),
        ("band_gap", 0, "gives a number, expected true or false"),
        ("formula > 'A'", 10, "text is compared with == or !="),
        ("formula == 1", 11, "text cannot be compared with a number"),
        ("band_gap and relaxed", 0, "this is a number, expected true or false"),
        ("n_sites + formula > 1", 10, "this is text, expected a number"),
        ("'Li' in formula", 8, "expected [..., ...] or elements"),
        ("elements == 'O'", 12, "a set of elements cannot be compared with text"),
        ("n_sites in ['a']", 12, "this is text, expected a number"),
        ("n_sites in [n_sites]", 12, "a list holds numbers or texts only"),
        ("band_gap ** 2 > 1", 12, "only + - * /"),
        ("band_gap is None", 12, "'is' is not allowed"),
        ("band_gap == None", 12, "None is not allowed"),
        ("band_gap > 1e999", 11, "the number is not finite"),
        ("tokens == 1", 0, "holds neither numbers nor texts"),
        ("mixed == 'a'", 0, "holds neither numbers nor texts"),
        ("__import__('os').system('touch hacked')", 0, "a function call is not allowed"),
        ("(1).__class__ == 1", 1, "constant is not allowed"),
        ("n_sites[0] > 1", 0, "a subscript is not allowed"),
        ("(lambda: 1) == 1", 1, "a lambda is not allowed"),
        ("[x for x in n_sites]", 0, "listcomp is not allowed"),
        ("f'{formula}' == 'Si'", 0, "an f-string is not allowed"),
        ("(n_sites := 1) > 0", 1, ":= is not allowed"),
        ("formula == 'Å' and bandgp > 1", 19, "no column 'bandgp'"),
    ],
)
def test_wrong_filters_point_at_the_place(text: str, column: int, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        condition(text, TABLE)
    first, shown, caret = str(error.value).split("\n")
    assert first.startswith("wrong filter: ")
    assert reason in first
    assert shown == f"  {text.strip()}"
    assert caret == f"  {' ' * column}^"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the filter is empty"),
        ("   ", "the filter is empty"),
        ("1 > " + "0" * 4000, "longer than 4000"),
        (" or ".join(["relaxed"] * 3) + " and " + "not " * 200 + "relaxed", "nested more than 50 deep"),
        ("n_sites > " + "-" * 3000 + "1", r"nested|cannot read"),
        ("(" * 500 + "relaxed" + ")" * 500, "too many nested parentheses"),
    ],
)
def test_what_is_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        condition(text, TABLE)


def test_a_sort_key_is_no_condition() -> None:
    with pytest.raises(ConfigError, match="wrong sort key: gives true or false, expected a number"):
        sort_key("band_gap > 1", TABLE)
