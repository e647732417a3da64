"""Every loss of the config against its formula written out, on tokens of a real (tiny) policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_trainer import small_trainer

from materium_rl.policies.sampling import sample_many
from materium_rl.token_layout import TokenClass

N = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("losses")


def drawn(trainer: Any) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Inputs of the loss for samples whose policy and reference were others, and the same as arrays."""
    policy, prompt = trainer.model, trainer.codec.prompt
    ids = sample_many(policy, N, seed=0).ids
    generator = torch.Generator().manual_seed(0)
    whole = torch.cat([torch.tensor([prompt] * N), ids], dim=1)
    log_probs = policy.token_log_probs(whole, first=len(prompt))[0].detach()

    def other(spread: float) -> torch.Tensor:
        moved = log_probs + spread * torch.randn(log_probs.shape, generator=generator)
        return torch.where(ids != TokenClass.PAD, moved, 0.0)

    mask = (ids != TokenClass.PAD).long()
    inputs = {
        "row": torch.arange(N),
        "prompt_ids": whole[:, : len(prompt)],
        "prompt_mask": torch.ones(N, len(prompt), dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.randn(N, generator=generator),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": other(0.3),
        "ref_per_token_logps": other(0.2),
    }
    arrays = {name: tensor.double().numpy() for name, tensor in inputs.items()}
    return inputs, arrays | {"log_probs": log_probs.double().numpy()}


def ratios(level: str, a: dict[str, np.ndarray]) -> np.ndarray:
    """Of each token, (B, T), or of its sequence: the geometric mean over the tokens."""
    mask = a["completion_mask"]
    log_ratio = (a["log_probs"] - a["old_per_token_logps"]) * mask
    if level == "sequence":
        log_ratio = np.repeat((log_ratio.sum(1) / mask.sum(1))[:, None], mask.shape[1], axis=1)
    return np.exp(log_ratio)


def kl_terms(level: str, a: dict[str, np.ndarray]) -> np.ndarray:
    """KL penalty of each token: estimator k3, weighted by the ratio, as another policy drew the samples."""
    difference = a["ref_per_token_logps"] - a["log_probs"]
    return 0.05 * (np.exp(difference) - difference - 1) * ratios(level, a)


def token_terms(loss_type: str, level: str, a: dict[str, np.ndarray], clip: float, high: float) -> np.ndarray:
    """Loss of each token, (B, T)."""
    mask, advantage = a["completion_mask"], a["advantages"].reshape(N, -1)
    ratio = ratios(level, a)
    if loss_type == "cispo":
        return -np.minimum(ratio, high) * advantage * a["log_probs"]
    if loss_type == "sapo":
        temperature = np.where(advantage > 0, 1.0, 1.05)
        return -advantage * 4 / temperature / (1 + np.exp(-temperature * (ratio - 1)))
    if loss_type == "vespo":
        weight = np.prod(np.where(mask == 1, ratio, 1.0), axis=1, keepdims=True)
        power, rate = np.where(advantage >= 0, 2.0, 3.0), np.where(advantage >= 0, 3.0, 2.0)
        gamma = np.exp(rate) * weight**power * np.exp(-rate * weight)
        return -gamma * advantage * a["log_probs"]
    return -np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + high) * advantage)


def expected_loss(loss_type: str, terms: np.ndarray, mask: np.ndarray, longest: int) -> float:
    if loss_type in ("grpo", "sapo"):
        return float(((terms * mask).sum(1) / mask.sum(1)).mean())
    total = float((terms * mask).sum())
    if loss_type == "dr_grpo":
        return total / (N * longest)
    return total / N if loss_type == "luspo" else total / mask.sum()


@pytest.mark.parametrize(
    ("loss_type", "level", "high"),
    [
        ("grpo", "token", None),
        ("grpo", "sequence", None),
        ("bnpo", "token", None),
        ("dr_grpo", "token", None),
        ("dapo", "token", 0.28),
        ("cispo", "token", 1.2),
        ("sapo", "token", None),
        ("luspo", "sequence", None),
        ("vespo", "token", None),
    ],
)
def test_loss_by_hand(folder: Path, loss_type: str, level: str, high: float | None) -> None:
    values = {"rl.loss_type": loss_type, "rl.importance_sampling_level": level, "rl.clip_range_high": high}
    with small_trainer(folder, values) as trainer:
        inputs, arrays = drawn(trainer)
        found = float(trainer._compute_loss(trainer.model, inputs).detach())
        longest = trainer.model.config.layout().max_completion_length
    terms = token_terms(loss_type, level, arrays, 0.2, high or 0.2) + kl_terms(level, arrays)
    assert found == pytest.approx(
        expected_loss(loss_type, terms, arrays["completion_mask"], longest), rel=1e-4
    )


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_ppo_loss_by_hand(folder: Path, kl_in: str) -> None:
    """Advantages of single tokens, and the KL penalty only where it is counted."""
    with small_trainer(folder, {"rl.algorithm": "ppo", "rl.kl_in": kl_in}) as trainer:
        inputs, arrays = drawn(trainer)
        generator = torch.Generator().manual_seed(1)
        inputs["advantages"] = torch.randn(inputs["completion_mask"].shape, generator=generator)
        found = float(trainer._compute_loss(trainer.model, inputs).detach())
    arrays["advantages"] = inputs["advantages"].double().numpy()
    terms = token_terms("dapo", "token", arrays, 0.2, 0.2)
    if kl_in == "loss":
        terms = terms + kl_terms("token", arrays)
    assert found == pytest.approx(expected_loss("dapo", terms, arrays["completion_mask"], 0), rel=1e-4)


def test_kl_in_the_reward_costs_each_token(folder: Path) -> None:
    with small_trainer(folder, {"rl.algorithm": "ppo", "rl.kl_in": "reward"}) as trainer:
        inputs, arrays = drawn(trainer)
        penalties = trainer._penalties(inputs).numpy()
    expected = 0.05 * (arrays["old_per_token_logps"] - arrays["ref_per_token_logps"])
    np.testing.assert_allclose(penalties, expected, atol=1e-6)


def test_groups_without_a_difference_are_left_out(folder: Path) -> None:
    """Pairs of crystals of one to four sites, where one site more or less is a difference or none."""
    values = {"rl.group_size": 2, "rl.batch_size": 32, "reward.expression": "n_sites(target=1, width=0.1)"}
    with small_trainer(folder, values) as trainer:
        inputs = trainer._generate_and_score_completions(None)
        skipped = trainer._metrics["train"]["frac_groups_skipped"]
        table = pd.read_parquet(trainer.run.sample_tables()[1])
    equal = np.ptp(table["reward"].to_numpy().reshape(-1, 2), axis=1) <= 1e-9
    assert 0 < equal.sum() < 16
    assert skipped == [equal.mean()]
    kept = ~equal.repeat(2)
    written = (inputs["completion_ids"] != TokenClass.PAD).numpy()
    np.testing.assert_array_equal(inputs["completion_mask"].numpy(), written * kept[:, None])
    assert int(inputs["num_items_in_batch"]) == written[kept].sum()
