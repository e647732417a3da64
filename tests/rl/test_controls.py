"""Controls at equal reward calls: what they learn from, what they do not, what they end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from real_structures import rock_salt, rutile
from safetensors.torch import load_file
from small_trainer import small_config
from tiny import SHAPE, write_policy

from materium_rl.config import RLConfig
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.policies.run_sampling import RunSampling
from materium_rl.resources import policy_path
from materium_rl.rl.algorithms import ALGORITHMS
from materium_rl.rl.finetune import finetune
from materium_rl.rl.sft_accept import accepted
from materium_rl.rl.temperature import Tried
from materium_rl.runs import RunFolder
from materium_rl.tokenizer import TokenizerSettings, species_of

BANDIT = {"rl.steps": 12, "rl.batch_size": 32, "rl.group_size": 32, "rl.num_iterations": 2}
BANDIT |= {"rl.learning_rate": 1e-2, "rl.kl_coef": 0.0}


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of one site and four species."""
    folder = tmp_path_factory.mktemp("policy") / "arms"
    settings = TokenizerSettings(species=species_of([rock_salt(), rutile()]), max_sites=1)
    torch.manual_seed(0)
    save_policy(build_model(settings, SHAPE), settings, folder)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


def titanium(folder: Path) -> str:
    """Expression of a bandit: of four species one earns 1, the others nothing."""
    plugin = folder / "plugin.py"
    plugin.write_text(
        'def titanium(structures):\n    """1 for titanium."""\n'
        '    return [float(s.composition.reduced_formula == "Ti") for s in structures]\n'
    )
    return f'"{plugin}:titanium"'


def run_of(policy: Path, folder: Path, algorithm: str, **values: Any) -> RunFolder:
    return RunFolder(finetune(small_config(policy, {"rl.algorithm": algorithm} | values), folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(policy_path(folder) / "model.safetensors")
    return found


def test_every_algorithm_of_the_config_is_there() -> None:
    names = RLConfig.model_fields["algorithm"].annotation.__args__  # type: ignore[union-attr]
    assert set(names) == set(ALGORITHMS)


def test_sft_solves_the_bandit(arms: Path, tmp_path: Path) -> None:
    rows = run_of(arms, tmp_path / "run", "sft-accept", **BANDIT, **{"reward.expression": titanium(tmp_path)})
    found = [row["reward"] for row in rows.read_metrics()]
    assert found[0] < 0.5
    assert found[-1] > 0.9


def test_shuffled_rewards_do_not_solve_it(arms: Path, tmp_path: Path) -> None:
    """With replay on, which must not see the true rewards either."""
    values = BANDIT | {"reward.expression": titanium(tmp_path), "replay.batch_size": 8, "replay.coef": 0.5}
    run = run_of(arms, tmp_path / "run", "shuffled-reward", **values)
    found = [row["reward"] for row in run.read_metrics()]
    assert np.mean(found[-3:]) < 0.6
    frames = [pd.read_parquet(path) for path in run.sample_tables().values()]
    for frame in frames:
        assert sorted(frame["credited_reward"]) == sorted(frame["reward"])
        moved = frame["advantage"] * (frame["credited_reward"] - frame["credited_reward"].mean())
        assert (moved >= 0).all()
    both = pd.concat(frames)
    assert abs(both["credited_reward"].corr(both["reward"])) < 0.2


@pytest.mark.parametrize("algorithm", ["best-of-n", "temperature"])
def test_what_does_not_learn_keeps_its_weights(policy: Path, tmp_path: Path, algorithm: str) -> None:
    values = {"rl.steps": 7, "rl.learning_rate": 1e-2, "replay.batch_size": 4}
    run = run_of(policy, tmp_path / "run", algorithm, **values)
    before, after = weights(policy), weights(run.path)
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    frames = {step: pd.read_parquet(path) for step, path in run.sample_tables().items()}
    assert list(frames) == list(range(1, 8))
    assert {len(frame) for frame in frames.values()} == {16}


def test_best_of_n_says_that_its_samples_count(policy: Path, tmp_path: Path) -> None:
    run = run_of(policy, tmp_path / "run", "best-of-n", **{"rl.steps": 1})
    assert RunSampling.read(policy_path(run.path)) == RunSampling(best_of_samples=True)
    assert RunSampling.read(policy) == RunSampling()


def test_the_temperature_of_the_best_reward_stays(policy: Path, tmp_path: Path) -> None:
    """At temperatures so far apart that the hot one writes every length and the cold one a single one."""
    values = {"rl.steps": 6, "rl.temperatures": [0.05, 1.0, 8.0], "rl.batch_size": 64}
    values["reward.expression"] = "n_sites(target=2, width=0.2)"
    run = run_of(policy, tmp_path / "run", "temperature", **values)
    rows = run.read_metrics()
    assert [row["temperature"] for row in rows] == [0.05, 1.0, 8.0] * 2
    means = {t: np.mean([r["reward"] for r in rows if r["temperature"] == t]) for t in (0.05, 1.0, 8.0)}
    best = max(means, key=lambda t: means[t])
    assert rows[-1]["temperature/best"] == best
    assert RunSampling.read(policy_path(run.path)).temperature == best


def test_temperatures_are_judged_by_what_was_measured() -> None:
    tried = Tried((0.5, 1.0, 2.0))
    assert tried.best == 1.0
    tried.add(0.5, np.array([0.2, np.nan, 0.4]))
    tried.add(2.0, np.array([0.9, np.nan, np.nan, 0.1, 0.2]))
    assert tried.best == 2.0  # 0.4 against 0.3
    restored = Tried((0.5, 1.0, 2.0))
    restored.load_state_dict(tried.state_dict())
    assert (restored.best, restored.mean(0.5)) == (2.0, pytest.approx(0.3))


@pytest.mark.parametrize(
    ("rewards", "share", "expected"),
    [
        ([0.1, 0.4, 0.2, 0.3], 0.5, [0, 1, 0, 1]),
        ([0.1, 0.4, 0.4, 0.3], 0.25, [0, 1, 1, 0]),
        ([0.0, 0.0, 0.0, 0.3], 0.5, [0, 0, 0, 1]),
        ([np.nan, 0.2, np.nan, 0.0], 0.5, [0, 1, 0, 0]),
        ([0.1, 0.2, 0.8, 0.9], 0.01, [0, 0, 0, 1]),
    ],
)
def test_the_best_of_each_group_is_accepted(rewards: list[float], share: float, expected: list[int]) -> None:
    both = np.array([*rewards, 0.0, 0.0, 0.0, 0.0])
    assert accepted(both, 4, share).astype(int).tolist() == [*expected, 0, 0, 0, 0]
