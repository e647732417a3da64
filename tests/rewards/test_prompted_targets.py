"""``target=prompt``: each sample has a target of its own, which no measurement depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_structures import rock_salt, rutile

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.expression import Placeholder, format_expression, parse
from materium_rl.rewards.scoring import Scorer

TEXT = "density(target=prompt, width=0.5) + n_sites(target=prompt)"
STRUCTURES = [rock_salt(), rutile(), rock_salt()]
ASKED = [{"density": d, "n_sites": 2} for d in (2.0, 4.0, 3.0)]


def test_expression_round_trip() -> None:
    terms = parse(TEXT)
    assert terms[0].options == {"target": Placeholder.PROMPT, "width": 0.5}
    assert all(term.prompted for term in terms)
    assert parse(format_expression(terms)) == terms
    assert not parse("density(target=2)")[0].prompted


@pytest.mark.parametrize("workers", [0, 1])
def test_each_sample_is_scored_by_its_own_target(workers: int, tmp_path: Path) -> None:
    """Equal structures with different targets, from the cache too."""
    for _ in range(2):
        with Scorer(TEXT, gates=["none"], workers=workers, cache=tmp_path / "cache") as scorer:
            table = scorer.score(STRUCTURES, asked=ASKED)
        for row, structure, wish in zip(table, STRUCTURES, ASKED, strict=True):
            alone = Scorer(f"density(target={wish['density']}, width=0.5)", gates=["none"]).score([structure])
            assert row.terms["density"].score == pytest.approx(alone.rewards[0])
        assert table.values("density")[0] == table.values("density")[2]
        assert table.scores("density")[0] != table.scores("density")[2]


def test_a_risk_counts_from_the_target_of_the_sample() -> None:
    with Scorer("bandgap(target=prompt, width=0.3, risk=1)", gates=["none"]) as scorer:
        row = scorer.score([rutile()], asked=[{"band_gap": 2.5}]).rows[0].terms["bandgap"]
    ends = [row.value - row.uncertainty, row.value + row.uncertainty]
    assert row.score == pytest.approx(min(1 / (1 + ((end - 2.5) / 0.3) ** 2) for end in ends))


def test_a_crystal_system_is_a_target_of_space_group() -> None:
    scorer = Scorer("space_group(target=prompt)", gates=["none"])
    asked = [{"crystal_system": "cubic"}, {"crystal_system": "cubic"}, {"space_group": 225}]
    assert scorer.score(STRUCTURES, asked=asked).rewards.tolist() == [1.0, 0.0, 1.0]


def test_a_missing_prompt_ends_before_anything_is_measured() -> None:
    scorer = Scorer(TEXT, gates=["none"])
    with pytest.raises(
        ConfigError, match=r"density\(target=prompt\) needs samples that are asked for density"
    ):
        scorer.score(STRUCTURES)
    with pytest.raises(ConfigError, match=r"n_sites\(target=prompt\).* are asked for density"):
        scorer.score(STRUCTURES, asked=[{"density": 2.0}] * 3)


def test_every_reward_that_a_prompt_can_steer_has_a_target() -> None:
    rewards = [registry.find(info.name) for info in registry.available() if not info.error]
    able = [reward for reward in rewards if reward.prompted_by]
    assert len(able) >= 8
    for reward in able:
        assert "target" in registry.options_of(reward)
        registry.create(reward.name, {"target": 1})


def test_gate_and_term_must_mean_the_same_target() -> None:
    with pytest.raises(ConfigError, match="different options"):
        Scorer("density(target=prompt)", gates=["density(target=1)"])
