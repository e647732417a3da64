"""Keys and values of the rows that are being sampled, and the layers as one-token steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from materium_rl.policies.modeling import CrystalForCausalLM

MATMUL_ROWS = 16
"""From so many rows on, two batched products are faster than the fused attention on CPU (one query a row)."""


class KeyValueCache:
    """Static cache of all layers; its rows are narrowed from the end without a copy.

    The q, k, v projections and the two gates of a layer are joined into one product each.

    Args:
        model: Policy whose layers are stepped.
        rows: Sequences in the batch.
        length: Tokens that fit in a row.
    """

    def __init__(self, model: CrystalForCausalLM, rows: int, length: int) -> None:
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_dim
        self.layers: list[Any] = list(model.model.layers)  # of transformers' decoder layers, untyped
        self.norm = model.model.norm
        self.filled = 0
        device, dtype = model.device, model.dtype
        shape = (rows, self.kv_heads, length, self.width)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in self.layers]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in self.layers]
        attentions = [layer.self_attn for layer in self.layers]
        self.qkv = [torch.cat([x.q_proj.weight, x.k_proj.weight, x.v_proj.weight]) for x in attentions]
        self.gate_up = [torch.cat([x.mlp.gate_proj.weight, x.mlp.up_proj.weight]) for x in self.layers]
        self.cos, self.sin = model.model.rotary_emb(self.keys[0], torch.arange(length, device=device)[None])

    def reorder(self, order: Tensor) -> None:
        """Put the rows in another order; ``order`` names each of them once."""
        for store in (*self.keys, *self.values):
            written = store[:, :, : self.filled]
            written.copy_(written[order])

    def narrow(self, rows: int) -> None:
        """Keep the first rows only."""
        self.keys = [store[:rows] for store in self.keys]
        self.values = [store[:rows] for store in self.values]

    def step(self, x: Tensor) -> Tensor:
        """Feed the next tokens of every row: several at once at the start, then one by one.

        Args:
            x: Input vectors (R, L, hidden), or (1, L, hidden) at the start where all rows begin alike.

        Returns:
            Last hidden states, (R, hidden) or (1, hidden).
        """
        rows, length, _ = x.shape
        begin, end = self.filled, self.filled + length
        cos, sin = self.cos[:, begin:end], self.sin[:, begin:end]
        turned = self.heads + self.kv_heads
        for i, layer in enumerate(self.layers):
            qkv = nn.functional.linear(layer.input_layernorm(x), self.qkv[i])
            qkv = qkv.view(rows, length, -1, self.width).transpose(1, 2)
            qk, v = qkv[:, :turned], qkv[:, turned:]
            qk = qk * cos + rotate_half(qk) * sin
            q, k = qk[:, : self.heads], qk[:, self.heads :]
            self.keys[i][:, :, begin:end] = k
            self.values[i][:, :, begin:end] = v
            if begin > 0:
                k, v = self.keys[i][:, :, :end], self.values[i][:, :, :end]
            attended = self._attend(q, k, v).transpose(1, 2).reshape(rows, length, -1)
            x = x + layer.self_attn.o_proj(attended)
            normed = layer.post_attention_layernorm(x)
            gate, up = nn.functional.linear(normed, self.gate_up[i]).chunk(2, dim=-1)
            x = x + layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)
        self.filled = end
        last: Tensor = self.norm(x[:, -1])
        return last

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of (R, heads, L, width) over (R, kv_heads, T, width)."""
        rows, _, length, _ = q.shape
        if length > 1 or rows < MATMUL_ROWS or q.device.type != "cpu":
            return nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=length > 1, enable_gqa=self.heads != self.kv_heads
            )
        q = q.reshape(rows, self.kv_heads, -1, self.width) * self.width**-0.5
        weights = (q @ k.transpose(2, 3)).softmax(dim=-1)
        return (weights @ v).view(rows, self.heads, 1, self.width)
