"""What the one line says of tables made by hand: it praises what is new, unmasks what is not, and doubts."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd
import pytest
from sample_tables import row, table

from materium_rl.evaluation.comparison.differences import changes
from materium_rl.evaluation.comparison.verdict_line import verdict
from materium_rl.evaluation.metrics import figures, statistics
from materium_rl.evaluation.statistics import Bootstrap

N = 200
TRAINING = {"Na": 1, "Cl": 1}
RARE = ("La", "Ce", "Pr", "Nd", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Lu")
CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu")


def different(n: int) -> list[dict[str, Any]]:
    """n compounds with nothing in common: an arrangement of its own for each."""
    metals = list(product(CATIONS, ("Si", "Ge", "Sn")))[:n]
    return [
        row(f"{a}2{b}O{i + 2}", f"prototype {i}", f"framework {i}", "new_prototype", n_sites=6)
        for i, (a, b) in enumerate(metals)
    ]


def heuslers(n: int) -> list[dict[str, Any]]:
    """n colourings of one cubic framework with two rare earths each."""
    pairs = [(a, b, c) for c in ("Au", "Ag") for i, a in enumerate(RARE) for b in RARE[:i]][:n]
    return [row(f"{a}{b}Al{c}", "ABCD_216", "A_229", "known_prototype", n_sites=4) for a, b, c in pairs]


def swaps(n: int) -> list[dict[str, Any]]:
    """n compounds of as many known arrangements, each a training structure with another element."""
    return [
        {**new, "prototype": f"known {i}", "framework": f"known {i}", "novelty.tier": "substitution"}
        for i, new in enumerate(different(n))
    ]


BASE = [*different(8), *swaps(4)]


def line(after: list[dict[str, Any]], before: list[dict[str, Any]] = BASE, **options: Any) -> str:
    old, new = table(before, N), table(after, N)
    counted = [statistics(frame, TRAINING) for frame in (old, new)]
    found = changes(counted[:1], counted[1:], Bootstrap(N, n_boot=2000, seed=0))
    return verdict(*(figures(frame, TRAINING) for frame in (old, new)), found, **options)


def test_honest_gain() -> None:
    said = line([*different(45), *swaps(5)], seeds=1)
    assert said.startswith("S.U.N. 6.0 -> 25.0 % (+19.0, 95 % CI ")
    assert "; 4.2x as many distinct S.U.N. prototypes (" in said
    assert (
        "; none of the gain is rare-earth substitution, 3 % other substitution in a family, none other "
        "colouring, 97 % new arrangements; "
    ) in said
    assert said.endswith("; one training seed")
    for word in ("collapse", "uncertainty; 4", "substitution only"):
        assert word not in said


def test_collapse_is_unmasked_whatever_the_gain() -> None:
    said = line(heuslers(120))
    assert said.startswith(
        "substitution only, 100 % of the gain: novelty by collapse: 100 % of samples in five prototypes, "
        "60 % with rare earths (before 0 %), fewer distinct prototypes among S.U.N.; S.U.N. 6.0 -> 60.0 % ("
    )
    assert "0.08x as many distinct S.U.N. prototypes" in said


def test_collapse_is_mostly_rare_earth_substitution() -> None:
    found = changes(
        [statistics(table(BASE, N), TRAINING)],
        [statistics(table(heuslers(120), N), TRAINING)],
        Bootstrap(N, n_boot=500, seed=0),
    )
    # Gold or silver on one framework: two merged formulas, and 118 samples that repeat them.
    assert found.gain["rare earth"].value == pytest.approx(118 / 108)
    assert found.gain["none"].value == pytest.approx(-8 / 108)


def test_gain_by_substitution_says_so_first() -> None:
    said = line([*different(8), *swaps(40)])
    assert said.startswith("substitution only, 100 % of the gain: S.U.N. 6.0 -> 24.0 % (")
    assert "collapse" not in said


def test_small_gain_is_within_the_uncertainty() -> None:
    said = line([*different(12), *swaps(4)])
    assert said.startswith("within the uncertainty: S.U.N. 6.0 -> 8.0 % (+2.0, 95 % CI 0.0..")
    assert "1.33x as many distinct S.U.N. prototypes (" in said
    assert said.count("within the uncertainty") == 4  # S.U.N., prototypes, frameworks, on target
    assert "of the gain" not in said


def test_small_loss_too_and_a_large_one_is_a_loss() -> None:
    assert line(different(8)).startswith("within the uncertainty: S.U.N. 6.0 -> 4.0 % (-2.0")
    assert "; loss: S.U.N. 15.0 -> 0.0 % (-15.0" in line([], different(30))


def test_uncertain_part_of_a_certain_gain() -> None:
    said = line([*different(11), *swaps(30)])
    assert said.startswith("S.U.N. 6.0 -> 20.5 %")
    assert "10 % new arrangements, within the uncertainty; " in said


def test_drift_and_seeds() -> None:
    plain = [
        row(f"{a}3{b}", f"p {a}{b}", f"f {a}{b}", "new_prototype", n_sites=4)
        for a, b in product(CATIONS, "BC")
    ]
    said = line(plain, different(30), seeds=3)
    assert "; drifted: anion formers 100 -> 83 %" not in said  # the known rest has one
    assert said.endswith("; 3 training seeds")
    old = table(different(45), 45)
    few = [row("Ti3Al", "x", "y", "known", n_sites=2)] * 40
    gone = pd.concat([table(few, 40), table(different(5), 5)], ignore_index=True)
    counted = [statistics(frame, TRAINING) for frame in (old, gone)]
    found = changes(counted[:1], counted[1:], Bootstrap(45, n_boot=2000, seed=0))
    said = verdict(figures(old, TRAINING), figures(gone, TRAINING), found)
    assert "; drifted: anion formers 100 -> 11 %, mean sites 6.0 -> 2.4" in said


def test_what_was_not_measured_cannot_be_compared() -> None:
    frame = table(BASE, N).drop(columns=["stability.outcome", "stability.value"])
    counted = [statistics(frame, TRAINING)]
    found = changes(counted, counted, Bootstrap(N, n_boot=100, seed=0))
    assert verdict(figures(frame, TRAINING), figures(frame, TRAINING), found) == "S.U.N.: nothing to compare"
