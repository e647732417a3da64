"""What S.U.N. samples are apart from exchanged elements, counted on the fingers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sample_tables import row, table

from materium_rl.evaluation.comparison.rarefaction import rarefaction
from materium_rl.evaluation.metrics import figures, statistics
from materium_rl.evaluation.variety import sun_kinds, swap_columns

HEUSLER = ("ABC2_225", "A_229")
ROWS = [
    (("LaCuAu2", *HEUSLER, "substitution"), "rare earth", "rare earth"),  # NdCuAu2 is known
    (("CeCuAu2", *HEUSLER, "substitution"), "rare earth", "rare earth"),
    (("LaAgAu2", *HEUSLER, "substitution"), "family", "family"),  # silver for copper
    (("NdAgAu2", *HEUSLER, "substitution"), "family", "rare earth"),  # of the one before
    (("MgTiHg2", *HEUSLER, "known_prototype"), "colouring", "colouring"),
    (("CaZrHg2", *HEUSLER, "known_prototype"), "colouring", "family"),  # of the one before
    (("K2TiF6", "AB2C6_new", "A_new", "new_prototype"), None, "none"),
    (("Rb2ZrF6", "AB2C6_new", "A_new", "new_prototype"), None, "family"),
    (("Ba2SiO6", "AB2C6_new", "A_new", "new_prototype"), None, "colouring"),
    (("La2TiO5", "AB2C5_new", "B_new", "new_prototype"), None, "none"),
    (("Nd2TiO5", "AB2C5_new", "B_new", "new_prototype"), None, "rare earth"),
    (
        ("NdLaTiO5", "ABCD5_new", "B_new", "new_prototype"),
        None,
        "rare earth",
    ),
]
N = 20


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    rows = [row(*fields) for fields, _, _ in ROWS]
    unstable = row("BaTiO5", "ABC5_new", "C_new", "new_prototype", e_above_hull=1.0)
    return table([*rows, unstable], N, rare_earth_formulas=frozenset({"Au2 Cu1 R1"}))


def test_each_sample_is_called_what_it_is(verdicts: pd.DataFrame) -> None:
    rest = [None] * (N - len(ROWS))
    found = verdicts[["swap_of_training", "swap"]].astype(object).where(verdicts.notna(), None)
    assert found["swap_of_training"].tolist() == [known for _, known, _ in ROWS] + rest
    assert found["swap"].tolist() == [swap for _, _, swap in ROWS] + rest


def test_figures_count_the_column(verdicts: pd.DataFrame) -> None:
    found = figures(verdicts, {"Na": 1})
    names = {
        "sun_new": "none",
        "sun_colourings": "colouring",
        "sun_family_swaps": "family",
        "sun_rare_earth_swaps": "rare earth",
    }
    for key, swap in names.items():
        assert found[key].value == pytest.approx((verdicts["swap"] == swap).sum() / N)
    assert sum(found[key].value for key in names) == pytest.approx(found["sun"].value)
    assert found["sun_merged_formulas"].value == pytest.approx(1024 * 8 / N)


def test_order_of_the_samples_changes_no_count(verdicts: pd.DataFrame) -> None:
    mixed = verdicts.sample(frac=1, random_state=1).reset_index(drop=True)
    mixed = mixed.assign(**swap_columns(mixed, {"Au2 Cu1 R1"}))
    assert mixed["swap"].value_counts().to_dict() == verdicts["swap"].value_counts().to_dict()
    again, before = statistics(mixed, {"Na": 1}), statistics(verdicts, {"Na": 1})
    assert {k: s.value for k, s in again.items()} == pytest.approx({k: s.value for k, s in before.items()})


def test_curves_end_at_the_figures(verdicts: pd.DataFrame) -> None:
    found = figures(verdicts, {"Na": 1})
    ends = {kind: rarefaction(codes, [N])[0][0] for kind, codes in sun_kinds(verdicts).items()}
    assert ends["structure"] == pytest.approx(N * found["sun"].value)
    assert ends["prototype"] == pytest.approx(N * found["sun_prototypes"].value / 1024)
    assert ends["framework"] == pytest.approx(N * found["sun_frameworks"].value / 1024)


def test_equal_structures_count_as_the_first() -> None:
    rows = [row("K2TiF6", label, "A_new", "new_prototype") for label in ("first label", "second label")]
    frame = table(rows, 4)
    frame["group"] = [0, 0, 1, 1]
    assert [len(np.unique(codes[codes >= 0])) for codes in sun_kinds(frame).values()] == [1] * 5
