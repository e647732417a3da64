"""The memory estimate against tensors that exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from real_structures import aflow_structures
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention
from typer.testing import CliRunner

from materium_rl import cli
from materium_rl.config import ModelConfig, PretrainConfig, load_config
from materium_rl.datasets import pad
from materium_rl.policies.footprint import (
    ELEMENTS,
    activation_bytes,
    cache_bytes,
    footprint,
    joined_bytes,
    parameters,
)
from materium_rl.policies.kv_cache import KeyValueCache
from materium_rl.policies.loading import build_model
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings

SETTINGS = TokenizerSettings(species=ELEMENTS, max_sites=20, min_distance=0)
SMALL = ModelConfig(hidden_size=64, layers=4, heads=4, intermediate_size=160, dropout=0.1)
WIDE = ModelConfig(hidden_size=128, layers=2, heads=4, intermediate_size=344, dropout=0.0)
SITES, BATCH = 8, 12


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def kept_for_backward(model: CrystalForCausalLM, tokens: Tensor, *, bf16: bool) -> int:
    """Bytes of the distinct storages that autograd keeps of a loss, without the parameters."""
    model.token_vectors()  # makes the constant features, which belong to the model
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), model._features)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        loss = -model.token_log_probs(tokens)[0].sum()
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


@pytest.mark.parametrize("shape", [SMALL, WIDE])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bf16", [True, False])
def test_activations(shape: ModelConfig, attention: str, bf16: bool) -> None:
    shape = shape.model_copy(update={"attention": attention})
    torch.manual_seed(0)
    model = build_model(SETTINGS, shape).train()
    for module in model.modules():
        if isinstance(module, LlamaAttention) and attention == "sdpa":
            module.attention_dropout = 0.0  # with dropout, sdpa has no fused kernel on CPU
    codec = CrystalCodec(SETTINGS)
    structures = [s for s in aflow_structures(SITES) if len(s) == SITES]
    rows = [np.array(codec.encode(s)) for s in structures]
    rows = [row for row in rows if len(row) == 4 * SITES + 10][:BATCH]
    assert len(rows) == BATCH
    measured = kept_for_backward(model, pad(rows), bf16=bf16)
    found = activation_bytes(shape, SETTINGS.layout(), batch=BATCH, sites=SITES, bf16=bf16)
    assert found == pytest.approx(measured, rel=0.15)


def test_weights_and_states_are_those_of_a_real_training() -> None:
    model = build_model(SETTINGS, SMALL)
    sets = [f"model.{key}={value}" for key, value in SMALL.model_dump().items()]
    estimate = footprint(load_config(PretrainConfig, [], {"data": "x"}, sets), processes=2)
    assert estimate.weights == bytes_of(list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    moments = [m for state in optimizer.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    assert estimate.optimizer == bytes_of(moments)
    assert estimate.gradients == estimate.average == estimate.exchange == estimate.weights


@pytest.mark.parametrize("rows", [3, 128])
def test_cache_of_the_sampler(rows: int) -> None:
    cache = KeyValueCache(build_model(SETTINGS, SMALL), rows, 90)
    assert cache_bytes(SMALL, rows, 90) == bytes_of([*cache.keys, *cache.values])
    assert joined_bytes(SMALL) == bytes_of([*cache.qkv, *cache.gate_up])


@pytest.mark.parametrize(("size", "millions"), [("nano", 6.5), ("base", 44), ("large", 175)])
def test_presets(size: str, millions: float) -> None:
    config = load_config(PretrainConfig, [f"pretrain_{size}"], {"data": "x"})
    assert parameters(SETTINGS, config.model) == pytest.approx(millions * 1e6, rel=0.02)
    once, twice = (
        footprint(load_config(PretrainConfig, [f"pretrain_{size}"], {"data": "x", "training.batch_size": b}))
        for b in (64, 128)
    )
    # twice the batch: twice the activations, but for the bf16 copies of the weights
    assert twice.activations == pytest.approx(2 * once.activations - once.weights / 2, rel=0.01)
    assert twice.weights == once.weights


def test_command() -> None:
    runner = CliRunner()

    def table(*arguments: str) -> dict[str, float]:
        done = runner.invoke(cli.app, ["policies", "memory", *arguments], catch_exceptions=False)
        rows = (line.rsplit(maxsplit=2) for line in done.stdout.splitlines())
        return {name.strip(): float(value.replace(",", "")) for name, value, _ in rows}

    base = table("base", "--batch-size", "32")
    assert base["weights"] == pytest.approx(44.3e6 * 4 / 2**20, rel=0.01)
    parts = ("weights", "gradients", "optimizer", "average", "activations")
    assert base["training, at the peak"] == pytest.approx(sum(base[part] for part in parts), abs=1)
    assert base["exchange"] == 0
    assert table("base", "--processes", "2")["exchange"] == base["weights"]
    assert table("base", "--samples", "64")["cache"] == base["cache"] / 2
    longer = table("base", "--batch-size", "32", "--set", "tokenizer.max_sites=40")
    assert longer["activations"] > 1.8 * base["activations"]
    flash = table("large", "--set", "model.attention=flash_attention_2")
    assert flash["activations"] == table("large")["activations"]


def test_table_of_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    done = CliRunner().invoke(cli.app, ["policies", "memory", "base", "--batch-size", "128"])
    assert f"```text\n{done.stdout}```" in page
