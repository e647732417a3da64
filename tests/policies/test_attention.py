"""Which attention, arithmetic and optimizer a training uses; flash attention with a stand-in kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny import OPTIONS, SHAPE, small_structures, tiny_codec, write_data
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as flash_utils
from transformers.models.llama import modeling_llama

from materium_rl.config import PretrainConfig, TrainingConfig, load_config
from materium_rl.datasets import pad
from materium_rl.errors import ConfigError
from materium_rl.policies.loading import build_model
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.pretrain import pretrain
from materium_rl.runs import RunFolder
from materium_rl.trainer import optimizer_options


class Calls:
    """What the attention functions were called with."""

    def __init__(self) -> None:
        self.sdpa: list[dict[str, Any]] = []
        self.eager: list[Tensor | None] = []
        self.flash: list[dict[str, Any]] = []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Listen to the two attentions that are always there."""
    seen = Calls()
    sdpa, eager = functional.scaled_dot_product_attention, modeling_llama.eager_attention_forward

    def listen_sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.sdpa.append(options)
        return sdpa(q, k, v, **options)

    def listen_eager(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any
    ) -> Any:
        seen.eager.append(mask)
        return eager(module, q, k, v, mask, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", listen_sdpa)
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", listen_eager)
    return seen


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Iterator[Calls]:
    """A machine where flash attention seems installed; its kernel refuses what the real one refuses."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
    ) -> Tensor:
        assert {q.dtype, k.dtype, v.dtype} == {torch.bfloat16}, "FlashAttention only support fp16 and bf16"
        calls.flash.append({"causal": causal, "dropout_p": dropout_p})
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # from (batch, length, heads, width)
        weights = (q @ k.transpose(2, 3) * (softmax_scale or q.shape[-1] ** -0.5)).float()
        future = torch.ones(weights.shape[-2:], dtype=torch.bool).triu(1)
        return (weights.masked_fill(future, -torch.inf).softmax(-1).to(v.dtype) @ v).transpose(1, 2)

    def unexpected(
        *_: Any, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False
    ) -> Tensor:
        raise AssertionError("padding or packing: the model passes neither masks nor packed sequences")

    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.flash_attn_func = flash_attn_func
    package.flash_attn_varlen_func = package.flash_attn_with_kvcache = unexpected
    padding.pad_input = padding.unpad_input = unexpected
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(flash_utils, "is_flash_attn_2_available", lambda: True)
    matrix = flash_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]
    monkeypatch.setitem(matrix, "general_availability_check", lambda: True)
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_import_error", lambda *_, **__: None)
    yield calls
    flash_utils._loaded_implementation = None  # so that nothing loads the stand-in later


def model_with(attention: str) -> CrystalForCausalLM:
    torch.manual_seed(0)
    shape = SHAPE.model_copy(update={"attention": attention, "dropout": 0.0})
    return build_model(tiny_codec().settings, shape).eval()


def batch() -> Tensor:
    """Sequences of several lengths, so with padding."""
    tokens = pad([np.array(tiny_codec().encode(s)) for s in small_structures()[:9]])
    assert (tokens == 0).any()
    return tokens


def test_sdpa_is_the_default_and_gets_no_mask(calls: Calls) -> None:
    model = build_model(tiny_codec().settings, SHAPE)
    assert model.config._attn_implementation == "sdpa"
    model.token_log_probs(batch())
    assert len(calls.sdpa) == SHAPE.layers
    assert calls.eager == []
    # with a mask the flash kernel inside sdpa would be refused on a GPU
    assert all(options.get("attn_mask") is None and options["is_causal"] for options in calls.sdpa)


def test_eager_is_eager_and_equal(calls: Calls) -> None:
    expected = model_with("sdpa").token_log_probs(batch())[0]
    calls.sdpa.clear()
    found = model_with("eager").token_log_probs(batch())[0]
    assert len(calls.eager) == SHAPE.layers
    assert calls.sdpa == []
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_flash_attention_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"flash_attention_2 is not installed.*flash extra.*sdpa"):
        model_with("flash_attention_2")


def test_flash_attention_in_fp32_is_refused() -> None:
    sets = ["model.attention=flash_attention_2", "training.bf16=false"]
    with pytest.raises(ConfigError, match=r"flash_attention_2 has no fp32.*training.bf16.*sdpa"):
        load_config(PretrainConfig, [], {"data": "x"}, sets)


def test_flash_attention_gets_bf16_without_a_mask(flash: Calls) -> None:
    """Queries and keys leave the rotary embedding in fp32; transformers casts them to the autocast type."""
    model = model_with("flash_attention_2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.token_log_probs(batch())[0]
        expected = model_with("sdpa").token_log_probs(batch())[0]
    assert [call["causal"] for call in flash.flash] == [True] * SHAPE.layers
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    with pytest.raises(AssertionError, match="only support"):
        model.token_log_probs(batch())


def test_flash_attention_through_a_whole_pretraining(flash: Calls, tmp_path: Path) -> None:
    """Training steps use it, with dropout; validation and sampling, in fp32, do not."""
    data = write_data(tmp_path / "data.json", 16)
    sets = [*OPTIONS, "training.epochs=1", "model.attention=flash_attention_2"]
    config = load_config(PretrainConfig, [], {"data": data, "validation_data": data}, sets)
    run = pretrain(config, tmp_path / "run")
    assert len(flash.flash) == 2 * SHAPE.layers
    assert {call["dropout_p"] for call in flash.flash} == {SHAPE.dropout}
    assert [row["step"] for row in RunFolder(run).read_metrics()] == [2]
    assert "flash" not in (run / "policy" / "config.json").read_text()


def test_the_fused_optimizer_is_for_gpus() -> None:
    settings = TrainingConfig()
    options = {name: optimizer_options(settings, torch.device(name)) for name in ("cpu", "cuda", "mps")}
    assert {name: chosen.pop("fused") for name, chosen in options.items()} == {
        "cpu": False,
        "cuda": True,
        "mps": False,
    }
    assert options["cpu"] == options["cuda"] == {"lr": settings.learning_rate, "betas": (0.9, 0.95)}


@pytest.mark.parametrize("bf16", [True, False])
def test_autocast_follows_the_setting(bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs under autocast of the device of the weights if asked for, validation never."""
    seen: dict[bool, set[tuple[bool, torch.dtype]]] = {True: set(), False: set()}
    log_probs = CrystalForCausalLM.token_log_probs

    def listen(self: CrystalForCausalLM, *args: Any, **options: Any) -> Any:
        device = self.number_embedding.weight.device.type
        seen[self.training].add((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)))
        return log_probs(self, *args, **options)

    monkeypatch.setattr(CrystalForCausalLM, "token_log_probs", listen)
    data = write_data(tmp_path / "data.json", 8)
    sets = [*OPTIONS, "training.epochs=1", f"training.bf16={str(bf16).lower()}"]
    config = load_config(PretrainConfig, [], {"data": data, "validation_data": data}, sets)
    pretrain(config, tmp_path / "run")
    assert {on for on, _ in seen[True]} == {bf16}
    assert {dtype for _, dtype in seen[True]} == {torch.bfloat16}
    assert {on for on, _ in seen[False]} == {False}
