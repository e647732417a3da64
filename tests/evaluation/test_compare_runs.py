"""``compare`` with runs of one recipe, controls, costs and trajectories, on small policies."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from compared_runs import BATCH, REWARD, STEPS, write_run, write_small_policy

from materium_rl.config import CompareConfig, ControlsConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.compare import compare
from materium_rl.evaluation.comparison.controls import best_of
from materium_rl.evaluation.comparison.entries import finetune_run
from materium_rl.evaluation.scored import sample_structures
from materium_rl.policies.loading import load_policy
from materium_rl.rewards.scoring import Scorer

N, FEW = 8, 2
CALLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    write_small_policy(folder / "base", seed=99)
    for seed in (0, 1):
        write_run(folder / f"run-{seed}", seed=seed)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> CompareConfig:
    return CompareConfig(
        policies=(str(folder / "base"), f"{folder / 'run-0'},{folder / 'run-1'}"),
        n=N,
        out=folder / "out",
        reward=REWARD,
        controls=ControlsConfig(enabled=True, max_calls=CALLS),
        trajectory=True,
    )


@pytest.fixture(scope="module")
def record(config: CompareConfig) -> dict[str, Any]:
    """``comparison.json``; made once."""
    with redirect_stdout(StringIO()):
        compare(config)
    found: dict[str, Any] = json.loads((config.out / "comparison.json").read_text())
    return found


def test_figures_of_a_recipe_are_the_means_over_its_runs(
    config: CompareConfig, record: dict[str, Any]
) -> None:
    recipe = record["policies"][1]
    assert (recipe["name"], recipe["training_seeds"], recipe["requested"]) == ("run", 2, N)
    frame = pd.read_parquet(config.out / recipe["samples"])
    runs = [own for _, own in frame.groupby("run", sort=False)]
    assert [len(own) for own in runs] == [N, N]
    assert frame["run"].unique().tolist() == config.policies[1].split(",")
    assert runs[0]["cif"].tolist() != runs[1]["cif"].tolist()
    shares = [own["valid"].mean() for own in runs]
    assert [run["figures"]["valid"]["value"] for run in recipe["runs"]] == shares
    assert recipe["figures"]["valid"]["value"] == pytest.approx(sum(shares) / 2)


def test_differences_are_from_the_baseline(record: dict[str, Any]) -> None:
    base, recipe = (policy["figures"]["unique"]["value"] for policy in record["policies"])
    found = record["differences"]["run"]
    assert found["runs"] == [1, 2]
    assert found["figures"]["unique"]["difference"]["value"] == pytest.approx(recipe - base)
    assert set(record["differences"]) == {"run", "base-hotter", "base-best-for-run"}


def test_curves_end_at_the_figures(record: dict[str, Any]) -> None:
    curves = record["rarefaction"]
    assert curves["sizes"] == list(range(1, N + 1))
    for policy in record["policies"]:
        end = curves["policies"][policy["name"]]["framework"]["expected"][-1]
        assert end == pytest.approx(policy["figures"]["sun_frameworks"]["value"] * N / 1024)


def test_controls_say_what_they_took(config: CompareConfig, record: dict[str, Any]) -> None:
    hotter, best = record["controls"]
    assert (hotter["kind"], hotter["temperature"], hotter["reward_calls"]) == ("hotter", 1.2, 0)
    assert (best["kind"], best["of"], best["temperature"]) == ("best-of-n", "run", 1.0)
    assert (best["reward_calls"], best["equal_reward_calls"]) == (CALLS, N + STEPS * BATCH)
    for control in (hotter, best):
        assert len(pd.read_parquet(config.out / control["samples"])) == N
        assert control["against"]["run"]["figures"]["valid"]["difference"]["value"] == pytest.approx(
            record["policies"][1]["figures"]["valid"]["value"] - control["figures"]["valid"]["value"]
        )
    report = (config.out / "report.md").read_text()
    assert "the baseline at temperature 1.2" in report
    assert (
        f"the best {N} of {CALLS} samples of the baseline by the reward of `run` (fewer than the 40" in report
    )


def test_cost_is_that_of_the_runs(record: dict[str, Any]) -> None:
    cost, gain = record["cost"]["run"], record["differences"]["run"]["figures"]["sun"]["difference"]["value"]
    assert (cost["reward_calls"], cost["hours"]) == (STEPS * BATCH, pytest.approx(0.1))
    assert cost["per_1000_reward_calls"]["sun"]["value"] == pytest.approx(gain / 0.032)
    assert cost["per_processor_hour"]["sun"]["value"] == pytest.approx(gain / cost["processor_hours"])
    assert record["cost"]["base-best-for-run"]["reward_calls"] == CALLS


def test_what_the_reward_calls_found(config: CompareConfig, record: dict[str, Any]) -> None:
    assert record["found"] == {}  # of runs and controls whose reward knows no energies


def test_trajectory_starts_at_the_baseline_and_ends_at_the_run(
    config: CompareConfig, record: dict[str, Any]
) -> None:
    assert [t["policy"] for t in record["trajectory"]] == config.policies[1].split(",")
    for i, trajectory in enumerate(record["trajectory"]):
        assert trajectory["n"] == FEW
        assert [point["step"] for point in trajectory["points"]] == [0, 2, STEPS]
        frame = pd.read_parquet(config.out / record["policies"][1]["samples"])
        own = frame.iloc[i * N : i * N + FEW]
        assert trajectory["points"][-1]["figures"]["valid"]["value"] == own["valid"].mean()
    assert (config.out / "trajectory.png").read_bytes().startswith(b"\x89PNG")


def test_best_of_keeps_what_the_reward_puts_highest(folder: Path, config: CompareConfig) -> None:
    policy, run = load_policy(folder / "base"), finetune_run(str(folder / "run-0"))
    assert run is not None
    told: list[tuple[int, int]] = []
    chosen = best_of(policy, run, config, CALLS, lambda done, total: told.append((done, total)))
    drawn = sample_structures(policy, CALLS)
    rewards = [row.reward for row in Scorer(**REWARD.model_dump()).score(drawn)]
    order = sorted(range(CALLS), key=lambda i: (-rewards[i], i))[:N]
    assert [s.frac_coords.tolist() for s in chosen.structures] == [
        drawn[i].frac_coords.tolist() for i in sorted(order)
    ]
    assert told == [(8, CALLS), (16, CALLS), (20, CALLS)]


def test_what_needs_a_run_says_so(folder: Path) -> None:
    policies = (str(folder / "base"), "nano")
    for changes, option in (
        ({"trajectory": True}, "--trajectory"),
        ({"controls": {"enabled": True}}, "--controls"),
    ):
        config = CompareConfig.model_validate({"policies": policies, "out": folder / "no", **changes})
        with pytest.raises(ConfigError, match=rf"{option} needs a fine-tuning run, but none of nano is one"):
            compare(config)
    with pytest.raises(ValueError, match="add --controls"):
        ControlsConfig(max_calls=5)
