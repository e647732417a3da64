"""What ``compare`` takes as its entries, and what a run cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compared_runs import BATCH, REWARD, STEPS, write_run
from tiny import write_policy

from materium_rl.config import CompareConfig, RewardConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.costs import Cost, gain_per, mean_cost, run_cost
from materium_rl.evaluation.comparison.differences import Change, Changes
from materium_rl.evaluation.comparison.entries import entries, finetune_run, with_reward_of_runs
from materium_rl.evaluation.metrics import Figure


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder / f"a{seed}", seed=seed)
    write_run(folder / "again", seed=1)
    write_run(folder / "other", seed=2, reward=RewardConfig(expression="bandgap", gates=("validity",)))
    return folder


def test_a_recipe_of_two_seeds(runs: Path) -> None:
    text = f"{runs / 'a0'}, {runs / 'a1'}"
    base, recipe = entries(["nano", text])
    assert (base.name, base.policies) == ("nano", ("nano",))
    assert (recipe.name, recipe.text) == ("a", text)
    assert recipe.policies == (str(runs / "a0"), str(runs / "a1"))


def test_names_are_short_and_distinct(tmp_path: Path) -> None:
    folders = [write_policy(tmp_path / name) for name in ("a/x", "b/x", "x-2", "y")]
    assert [e.name for e in entries([str(f) for f in folders])] == ["x", "x-2", "x-2-2", "y"]


def test_a_folder_with_a_comma_is_one_policy(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "one,two")
    assert [e.policies for e in entries([str(folder)])] == [(str(folder),)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a1", "again"), r"a1 and .*again have the same training seed 1"),
        (("a0", "other"), r"a0 and .*other are no runs of one recipe: they differ in reward.expression"),
        (("a0", "a1/checkpoints/step_000002"), r"a0 is at step 4, .*step_000002 at step 2"),
        (("a0", "nano"), r"'nano' is no fine-tuning run"),
        (("a0", "gone"), r"no policy '.*gone'"),
        (("a0", ""), r"expected policies between the commas"),
    ],
)
def test_what_is_no_recipe_is_refused(runs: Path, names: tuple[str, str], message: str) -> None:
    places = [name if name in ("nano", "") else str(runs / name) for name in names]
    with pytest.raises(ConfigError, match=message):
        entries(["nano", ",".join(places)])


def test_the_run_of_a_policy(runs: Path) -> None:
    for place, step in {
        "a0": 4,
        "a0/checkpoints/step_000002": 2,
        "a0/checkpoints/step_000002/policy": 2,
    }.items():
        run = finetune_run(str(runs / place))
        assert run is not None
        assert (run.folder.path, run.step) == ((runs / "a0").resolve(), step)
    assert finetune_run("nano") is None


def test_cost_counts_every_call_up_to_the_checkpoint(runs: Path) -> None:
    whole, half = (finetune_run(str(runs / place)) for place in ("a0", "a0/checkpoints/step_000002"))
    assert whole is not None
    assert half is not None
    usable = json.loads((runs / "a0/environment.json").read_text())[0]["usable_processors"]
    assert run_cost(whole) == Cost(STEPS * BATCH, 0.1, usable)
    assert run_cost(half) == Cost(2 * BATCH, 0.05, usable)


def test_mean_cost_and_what_a_gain_costs() -> None:
    cost = mean_cost([Cost(1000, 1.0, 2), Cost(3000, 2.0, 2)])
    assert (cost.reward_calls, cost.hours, cost.processor_hours) == (2000, 1.5, 3.0)
    gain = Change(Figure(0.2, 0.1, 0.3), Figure(3.0))
    found = gain_per(Changes({"sun": gain}, {}, (1, 1)), cost.reward_calls / 1000)
    assert found == {"sun": Figure(0.1, 0.05, 0.15)}
    assert gain_per(Changes({"sun": gain}, {}, (1, 1)), 0.0) == {}


def test_runs_are_judged_by_what_they_were_trained_on(runs: Path) -> None:
    first, second = str(runs / "a0"), str(runs / "a1")
    found, note = with_reward_of_runs(CompareConfig(policies=("nano", first, second)))
    assert (found.reward.expression, found.reward.gates, note) == (REWARD.expression, REWARD.gates, "")
    assert found.reward.workers == 0
    own = CompareConfig(policies=("nano", first), reward=RewardConfig(expression="bandgap(target=3)"))
    assert with_reward_of_runs(own) == (own, "")
    mixed = CompareConfig(policies=("nano", first, str(runs / "other")))
    found, note = with_reward_of_runs(mixed)
    assert found == mixed
    assert "was trained on novelty" in note
    assert "other on bandgap: all are judged by novelty+bandgap; --reward" in note
    assert with_reward_of_runs(CompareConfig(policies=("nano", "nano"))) == (
        CompareConfig(policies=("nano", "nano")),
        "",
    )
