"""Scoring: N in, N rows out; weights, gates, and what is never turned into a number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards.base import Invalid, Outcome
from materium_rl.rewards.prototypes import Prototype
from materium_rl.rewards.scoring import Scorer

FAULTS = Path(__file__).parent / "plugins" / "faults.py"
LENGTH, ANGLE = f'"{FAULTS}:length"', f'"{FAULTS}:angle"'
MARK = 4.44


def cell(a: float, species: str = "Fe") -> Structure:
    return Structure(Lattice.cubic(a), [species, species], [[0, 0, 0], [0.5, 0.5, 0.5]])


def fault(kind: str) -> str:
    return f'"{FAULTS}:Fault"(kind="{kind}")'


def score(expression: str, structures: list[Any], **options: Any) -> Any:
    return Scorer(expression, **{"gates": ("validity",), **options}).score(structures)


def test_weighted_sum_known_answer() -> None:
    (row,) = score(f"3*{LENGTH} + {ANGLE}", [cell(4.0)])
    assert row.terms["length"].value == pytest.approx(0.4)
    assert row.terms["length"].contribution == pytest.approx(0.3)
    assert row.terms["angle"].contribution == pytest.approx(0.125)
    assert row.reward == pytest.approx(0.425)
    assert (row.outcome, row.reason) == (Outcome.OK, "")


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("geometric", (0.4**3 * 0.5) ** 0.25), ("minimum", 0.4)]
)
def test_other_aggregations(aggregation: Any, expected: float) -> None:
    table = score(f"3*{LENGTH} + {ANGLE}", [cell(4.0)], aggregation=aggregation)
    assert table.rewards == pytest.approx([expected])


def test_contributions_and_gated_scores_of_a_table() -> None:
    gate = f'"{FAULTS}:angle"(curve=window(target=1.0, width=0.5))'  # 1/2 for a cubic cell
    batch = [cell(4.0), None, cell(MARK)]
    table = score(f"3*{LENGTH} + {fault('raise')}", batch, gates=(gate,))
    first = table.rows[0].terms
    shares = [first[name].contribution for name in ("angle", "length", "fault")]
    assert shares == pytest.approx([0.0, 0.5 * 0.3, 0.5 * 0.125])
    assert sum(shares) == pytest.approx(table.rewards[0])
    assert math.isnan(table.rows[2].terms["length"].contribution)
    gated = table.gated_scores(["length", "fault"])
    np.testing.assert_allclose(gated, [[0.2, 0.25], [0.0, 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(table.to_frame()["gate"], [0.5, 0.0, np.nan])


def test_gates_multiply_and_a_term_that_is_a_gate_too_is_measured_once() -> None:
    table = score(f"{LENGTH} + {ANGLE}", [cell(4.0)], gates=("validity", LENGTH))
    assert table.rewards == pytest.approx([0.45 * 0.4])
    assert list(table.rows[0].terms) == ["validity", "length", "angle"]


def test_a_reward_that_is_term_and_gate_gets_its_options_in_either_place() -> None:
    for expression, gate in (("n_sites", "n_sites(target=8)"), ("n_sites(target=8)", "n_sites")):
        found = score(expression, [cell(3.0)], gates=[gate]).rows[0].terms["n_sites"]
        assert found.score == score("n_sites(target=8)", [cell(3.0)]).rows[0].terms["n_sites"].score < 1
    with pytest.raises(ConfigError, match="both a gate and a term, with different options"):
        Scorer("n_sites(target=8)", gates=["n_sites(target=4)"])


@pytest.mark.parametrize("gates", [(), ("none",)])
def test_gates_can_be_switched_off(gates: tuple[str, ...]) -> None:
    table = score(LENGTH, [cell(1.5)], gates=gates)
    assert table.rewards == pytest.approx([0.15])


def test_every_structure_gets_a_row_in_order() -> None:
    batch = [cell(3.0), None, cell(1.0), Invalid("no [EOS]"), cell(4.0)]
    table = score(LENGTH, batch)
    assert list(table.outcomes) == ["ok", "invalid", "invalid", "invalid", "ok"]
    assert table.rewards == pytest.approx([0.3, 0, 0, 0, 0.4])
    assert [row.index for row in table] == list(range(5))
    assert table.rows[2].reason.startswith("validity: volume per atom")
    assert table.rows[2].terms["length"].outcome == "skipped"
    assert math.isnan(table.rows[2].terms["length"].value)
    assert table.rows[3].reason == "no [EOS]"
    assert len(score(LENGTH, [])) == 0


def test_frame_has_flat_columns_and_labels() -> None:
    frame = score(LENGTH, [cell(2.87), None]).to_frame()
    assert len(frame) == 2
    first = frame.iloc[0]
    assert first["length.value"] == pytest.approx(0.287)
    assert first["length.outcome"] == "ok"
    assert first["validity.density"] == pytest.approx(7.85, abs=0.01)
    assert (first["formula"], first["n_sites"], first["prototype"]) == ("Fe", 2, "A_229_A:2(m-3m)")
    assert frame["length.outcome"][1] == "skipped"


def test_shared_labels_come_back() -> None:
    (row,) = score(LENGTH, [cell(2.87)])
    assert isinstance(row.shared["prototype"], Prototype)
    assert row.labels["framework"] == row.shared["prototype"].framework_label


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("raise", "ValueError: no such parameter"),
        ("leave", "SystemExit"),
        ("none", "NoneType"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("text", "expected a number"),
        ("uncertainty", "uncertainty"),
        ("detail", "detail 'x'"),
    ],
)
def test_only_the_culprit_fails(kind: str, said: str) -> None:
    table = score(fault(kind), [cell(3.0), cell(MARK), cell(3.5)])
    assert list(table.outcomes) == ["ok", "failed", "ok"]
    assert table.rows[1].reason.startswith("fault: ")
    assert said in table.rows[1].reason
    np.testing.assert_array_equal(table.rewards, [0.5, np.nan, 0.5])


def test_hang_fails_the_culprit_inline() -> None:
    table = score(fault("hang"), [cell(3.0), cell(MARK), cell(3.5)], timeout=0.5)
    assert list(table.outcomes) == ["ok", "failed", "ok"]
    assert "time limit of 0.5 s" in table.rows[1].reason


def test_wrong_number_of_answers_fails_the_culprit() -> None:
    table = score(fault("short"), [cell(3.0), cell(MARK), cell(3.1), cell(3.5)])
    assert list(table.outcomes) == ["ok", "failed", "ok", "ok"]
    assert "0 results for 1 structures" in table.rows[1].reason


def test_invalid_from_a_term_is_the_policys_fault() -> None:
    (row,) = score(fault("invalid"), [cell(MARK)])
    assert (row.outcome, row.reward, row.reason) == (Outcome.INVALID, 0.0, "fault: too strange")


def test_a_value_above_one_is_clipped_by_its_curve_only() -> None:
    (row,) = score(fault("above"), [cell(MARK)])
    assert (row.terms["fault"].value, row.terms["fault"].score) == (7.0, 1.0)


@pytest.mark.parametrize("kind", ["raise", "invalid"])
def test_a_monitor_never_touches_the_reward(kind: str) -> None:
    (row,) = score(f"{LENGTH} + 0*{fault(kind)}", [cell(MARK)])
    assert row.outcome is Outcome.OK
    assert row.reward == pytest.approx(0.444)
    assert row.terms["fault"].outcome != "ok"


def test_a_failed_gate_fails_the_row() -> None:
    (row,) = score(LENGTH, [cell(MARK)], gates=("validity", fault("raise")))
    assert row.outcome is Outcome.FAILED
    assert math.isnan(row.reward)


def test_too_many_failures_stop_the_run() -> None:
    batch = [cell(MARK)] * 9 + [cell(3.0)] * 7
    with pytest.raises(RewardError, match=r"9 of 16 .*9 times: fault: raised ValueError"):
        score(fault("raise"), batch)
    assert len(score(fault("raise"), batch[:15])) == 15
    assert len(score(fault("raise"), [*batch[1:], None])) == 16


def test_batch_scope_sees_valid_rows_once_in_order() -> None:
    history = f'"{FAULTS}:History"'
    scorer = Scorer(history, gates=("validity",))
    assert list(scorer.score([cell(3.0), cell(1.0), None, cell(3.2)]).values("history")[[0, 3]]) == [0.02] * 2
    resumed = Scorer(history, gates=("validity",))
    resumed.load_state_dict(json.loads(json.dumps(scorer.state_dict())))
    assert resumed.score([cell(3.0)]).rewards == pytest.approx([0.03])
    with pytest.raises(RewardError, match="resume with the expression"):
        Scorer(LENGTH, gates=()).load_state_dict(scorer.state_dict())
    broken = Scorer(f'"{FAULTS}:History"(broken=True)', gates=("validity",)).score([cell(3.0), cell(3.1)])
    assert list(broken.outcomes) == ["failed", "failed"]


def test_uniqueness_uses_the_labels_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from materium_rl.rewards import prototypes as module

    calls = []
    label = module._prototype
    monkeypatch.setattr(module, "_prototype", lambda s, *rest: calls.append(s) or label(s, *rest))
    scorer = Scorer(LENGTH, gates=("validity", "uniqueness"))
    table = scorer.score([cell(3.0), cell(3.0), cell(1.0)])
    assert len(calls) == 2
    assert list(table.scores("uniqueness")[:2]) == [0.5, 0.5]
    assert scorer.score([cell(3.0)]).rewards == pytest.approx([0.3 / 3])


def test_oxidation_states_make_no_difference() -> None:
    charged = Structure(Lattice.cubic(3.0), ["Fe2+", "Fe3+"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (row,) = score(LENGTH, [charged])
    assert row.labels["prototype"] == "A_229_A:2(m-3m)"
    assert charged[0].specie.oxi_state == 2


@pytest.mark.parametrize(
    ("expression", "options", "error", "said"),
    [
        ("noveltie", {}, ConfigError, "did you mean 'novelty'"),
        ("validity(max_gapp=3)", {}, ConfigError, "did you mean 'max_gap'"),
        ("0*validity", {}, ConfigError, "weight 0"),
        ("validity", {"gates": ("2*validity",)}, ConfigError, "without a weight"),
        ("validity", {"gates": ("validity", "validity")}, ConfigError, "twice"),
        ("validity(max_gap=3)", {"gates": ("validity(max_gap=4)",)}, ConfigError, "different options"),
        ("validity", {"aggregation": "harmonic"}, ConfigError, "aggregation"),
        ("validity", {"chunk_size": 0}, ConfigError, "chunk_size"),
        (f'"{FAULTS}:History" + history', {"plugins": (FAULTS,)}, ConfigError, "called 'history'"),
    ],
)
def test_wrong_settings(expression: str, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Scorer(expression, **options)


def test_a_reward_that_cannot_load_stops_at_the_start() -> None:
    with pytest.raises(RewardError, match=r"'fault' cannot be loaded: FileNotFoundError: model\.pt"):
        Scorer(fault("load"), gates=()).start()
    with pytest.raises(RewardError, match="unknown shared work 'energie'"):
        Scorer(LENGTH, gates=(), shared=("energie",)).start()
