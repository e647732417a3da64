"""The sentinel: every signal by hand, a recorded collapse is stopped, a healthy run is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from real_structures import rock_salt, rutile
from small_run import sample

from materium_rl.config import FinetuneConfig, SentinelConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.rewards.base import Outcome
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.term_scores import TermScorer
from materium_rl.rl import second_opinion
from materium_rl.rl.second_opinion import SecondOpinions, second_model
from materium_rl.rl.sentinel import Alarm, Sentinel, replay
from materium_rl.rl.signals import SIGNALS, Facts, distinct_share, facts_of, pooled

COMPOUNDS = ("NaCl", "MgO", "TiO2", "LaAlO3", "CaTiO3", "GaAs", "Fe2O3", "Al2CdSe4")
INTERMETALLICS = tuple(f"{a}{b}AlAu" for a in ("Tb", "Tm", "Er", "Dy") for b in ("Ho", "Lu", "Nd", "Sm"))
REFERENCE = Facts(
    formulas=["NaCl", "LaN", "CaTiO3", "CuAu"], prototypes=["a", "b", "c", "d"], n_sites=[2, 2, 5, 4]
)


def table(rng: np.random.Generator, collapsed: float, n: int = 60) -> pd.DataFrame:
    """Samples of a policy of which a share writes one prototype of two rare earths."""
    fallen = rng.random(n) < collapsed
    return pd.DataFrame(
        {
            "outcome": np.where(np.arange(n) % 10 == 0, "invalid", "ok"),
            "formula": [rng.choice(INTERMETALLICS if f else COMPOUNDS) for f in fallen],
            "prototype": ["ABCD_216" if f else f"prototype {rng.integers(200)}" for f in fallen],
            "n_sites": [4 if f else int(rng.integers(2, 15)) for f in fallen],
            "novelty.score": rng.random(n),
            "bandgap.score": rng.random(n),
        }
    )


def record(shares: list[float], config: SentinelConfig | None = None, **metrics: Any) -> list[Alarm]:
    """Alarms of a recorded run."""
    rng = np.random.default_rng(0)
    tables = [table(rng, share) for share in shares]
    rows = [metrics | {"step": step} for step in range(1, len(shares) + 1)]
    return replay(config or SentinelConfig(), tables, rows, {"novelty": 1.0, "bandgap": 1.0})[0]


def test_a_collapsing_run_is_stopped_and_the_cause_named() -> None:
    start = 20
    shares = [0.02] * start + [min(0.95, 0.1 * i) for i in range(1, 21)]
    alarms = record(shares)
    first_stop = next(alarm for alarm in alarms if alarm.response == "stop")
    assert first_stop.signal in ("top5", "prototype_unique")
    assert start < first_stop.since < first_stop.step <= start + 12
    assert f"since step {first_stop.since}" in first_stop.text
    assert "limit" in first_stop.text
    assert "reference" in first_stop.text
    causes = {alarm.signal for alarm in alarms}
    assert causes >= {"top5", "prototype_unique", "rare_earth", "anion", "mean_sites"}
    assert not causes & {"kl", "zero_spread", "second_opinion", "dominant_term"}


def test_a_run_that_does_not_collapse_is_left_alone() -> None:
    assert record([0.02] * 60, kl=0.3, frac_reward_zero_std=0.0) == []


def test_kl_is_judged_by_its_median_and_warned_of_once() -> None:
    config = SentinelConfig(window=3, patience=2)
    sentinel = Sentinel(config)
    sentinel.fit(REFERENCE)
    kls = [0.1, 0.1, 9.0, 0.1, 0.1, *[2.0] * 8]  # one leap is none, a stay is one
    raised = [sentinel.observe(step, Facts(kl=[kl]))[1] for step, kl in enumerate(kls, start=1)]
    assert [
        (a.step, a.signal, a.since, a.response) for a in [alarm for alarms in raised for alarm in alarms]
    ] == [(8, "kl", 7, "warn")]
    assert sentinel.records()[0]["text"].startswith(
        "kl: median KL divergence 2.00 nats per token (limit 1.00"
    )


def test_raised_again_while_it_lasts_and_forgotten_after() -> None:
    config = load_config(
        FinetuneConfig,
        sets=["sentinel.window=2", "sentinel.patience=1", "sentinel.responses.zero_spread=raise_kl"],
    ).sentinel
    sentinel = Sentinel(config)
    spreads = [1.0] * 6 + [0.0] * 3 + [1.0] * 3
    steps = [
        step
        for step, spread in enumerate(spreads, start=1)
        for _ in sentinel.observe(step, Facts(zero_spread=[spread]))[1]
    ]
    assert steps == [2, 4, 6, 11]


def test_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(1)
    steps = [facts_of(table(rng, share / 20), {"novelty": 1.0}, {}) for share in range(20)]
    whole, half, rest = (Sentinel(SentinelConfig()) for _ in range(3))
    for sentinel in (whole, half):
        sentinel.fit(pooled(steps[:5]))
    said = [whole.observe(i, facts) for i, facts in enumerate(steps)]
    for i in range(9):
        half.observe(i, steps[i])
    rest.load_state_dict(half.state_dict())
    assert [rest.observe(i, steps[i]) for i in range(9, 20)] == said[9:]
    assert rest.state_dict() == whole.state_dict()
    assert whole.alarms


def measured(name: str, facts: Facts) -> float | None:
    return SIGNALS[name].measure(facts, REFERENCE)


def test_signals_by_hand() -> None:
    facts = Facts(
        formulas=["NaCl", "NaCl", "LaNi5", "TbTmAlAu"],
        prototypes=["a", "a", "b", "c"],
        n_sites=[2, 2, 6, 4],
        energies=10,
        far_below=3,
        scores={"x": [0.0, 1.0, 0.0, 1.0], "y": [0.0, 0.0, 0.5, 0.5]},
        opinions={"x": (4.0, 1.0), "y": (2.0, 2.0), "z": (0.0, 0.0)},
        kl=[0.1, 5.0, 0.2],
        clip_fraction=[0.1, 0.3],
        zero_spread=[0.0, 0.5],
    )
    assert measured("top5", facts) == 1.0
    assert measured("unique", facts) == measured("prototype_unique", facts) == 0.75
    assert measured("rare_earth", facts) == measured("anion", facts) == 0.5
    assert measured("mean_sites", facts) == 3.5
    assert measured("mean_elements", facts) == 2.5
    assert measured("hull_tail", facts) == 0.3
    assert measured("second_opinion", facts) == 0.25
    assert measured("dominant_term", facts) == pytest.approx(0.8)  # variances 1/4 and 1/16
    assert measured("zero_spread", facts) == 0.25
    assert measured("kl", facts) == 0.2
    assert measured("clip_fraction", facts) == 0.2
    assert measured("element_divergence", REFERENCE) == pytest.approx(0.0, abs=1e-12)
    only_iron = Facts(formulas=["Fe"], prototypes=["a"], n_sites=[1])
    assert measured("element_divergence", only_iron) == pytest.approx(1.0)
    empty = Facts()
    assert {name for name in SIGNALS if measured(name, empty) is not None} == set()


def test_distinct_share_does_not_depend_on_the_number_of_samples() -> None:
    """Two of a, a, b, b: equal in one draw of three."""
    assert distinct_share(["a", "a", "b", "b"], 2) == pytest.approx((1 / 3 * 1 + 2 / 3 * 2) / 2)
    assert distinct_share(["a", "b", "c"], 3) == pytest.approx(1.0)


def test_facts_of_a_table() -> None:
    frame = table(np.random.default_rng(0), 0.0, n=4).assign(
        **{
            "outcome": ["ok", "failed", "invalid", "ok"],
            "prototype": ["a", "b", None, None],
            "stability.e_above_hull_raw": [-0.15, np.nan, np.nan, 0.3],
            "stability.reason": [
                "",
                "0.4 eV/atom below the hull, beyond the suspicious limit of 0.2",
                "",
                "",
            ],
            "bandgap.score": [0.5, np.nan, np.nan, 1.0],
        }
    )
    facts = facts_of(frame, {"novelty": 2.0, "bandgap": 1.0, "monitor": 0.0}, {"kl": 0.2})
    assert facts.formulas == [frame["formula"][i] for i in (0, 1, 3)]
    assert facts.prototypes == ["a", "b", frame["formula"][3]]
    assert (facts.energies, facts.far_below) == (3, 2)
    assert facts.scores["bandgap"] == [0.5, 1.0]
    assert facts.scores["novelty"] == (2 * frame["novelty.score"][[0, 3]]).tolist()
    assert (facts.kl, facts.zero_spread) == ([0.2], [])


def test_reason_of_stability_is_the_one_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from materium_rl.rewards.catalogue import stability

    class Hull:
        def formation_energy(self, *_: object) -> float:
            return -3.0

        def e_above_hull(self, *_: object) -> float:
            return -0.5

    monkeypatch.setattr(stability, "load_hull", Hull)
    failure = Stability()._result(rock_salt(), -5.0, {})
    frame = pd.DataFrame({"stability.e_above_hull_raw": [np.nan], "stability.reason": [failure.reason]})
    frame = frame.assign(outcome="failed", formula="NaCl", prototype="a", n_sites=8)
    assert facts_of(frame, {}, {}).far_below == 1


def test_second_model_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    other = second_model(BandGap(target=2.0))
    assert other == BandGap(target=2.0, members="evaluation")
    assert second_model(BandGap(members="all")) is None
    monkeypatch.setattr(second_opinion, "find_spec", lambda _: None)
    assert second_model(Stability()) is None
    monkeypatch.setattr(second_opinion, "find_spec", lambda _: object())
    assert second_model(Stability(half_score=0.06)) == Stability(half_score=0.06, calculator="sevenn")
    assert second_model(Stability(relax=10)) is None


def test_second_opinion_is_of_the_best_measured_samples() -> None:
    reward = BandGap(target=3.0, width=2.0)
    samples = [
        sample(0, rock_salt(), 0.9),
        sample(1, rutile(), 0.1),
        sample(2, rutile(), 0.95, outcome=Outcome.INVALID),
    ]
    rows = ScoreTable(tuple(row for row, _ in samples))
    asked = SecondOpinions({"bandgap": TermScorer(reward)}, 1)
    own, second = asked.ask([structure for _, structure in samples], rows)["bandgap"]
    other = BandGap(target=3.0, width=2.0, members="evaluation")
    assert own == rows.rows[0].terms["bandgap"].score
    assert second == pytest.approx(other.shaping()(other.measure([rock_salt()])[0].value))
    assert SecondOpinions({"bandgap": TermScorer(reward)}, 0).ask([], ScoreTable(())) == {}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["sentinel.limits.top6=0.3"], "did you mean 'top5'"),
        (["sentinel.responses.kl=halt"], "'ignore', 'warn', 'raise_kl', 'roll_back' or 'stop'"),
        (["sentinel.responses.kl=raise_kl", "rl.kl_coef=0"], "rl.kl_coef must be above 0"),
    ],
)
def test_wrong_settings_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, sets=sets)


def test_every_signal_has_a_limit_and_a_response() -> None:
    config = SentinelConfig()
    assert set(type(config.limits).model_fields) == set(type(config.responses).model_fields) == set(SIGNALS)
    assert {config.response_to(name) for name in ("top5", "unique", "prototype_unique")} == {"stop"}
    assert SentinelConfig(response="warn").response_to("top5") == "warn"
