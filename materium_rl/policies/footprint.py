"""How much memory training and sampling take, estimated before a GPU is rented.

Weights, gradients, optimizer, average and the sampler's cache are counted exactly. Activations are what
autograd keeps for the backward pass, counted over the operations of the Llama layers (in the manner of
Korthikanti et al., arXiv 2205.05198, section 4, for this layer: RMSNorm, rotary embedding, gated MLP, fp32
residuals). What is not counted: the kernels' own workspace, the allocator's fragmentation, the CUDA context
(about half a GB), the conditioner, and validation, which keeps nothing for a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pymatgen.core import Element

from materium_rl.config import ModelConfig, PretrainConfig
from materium_rl.policies.loading import build_model
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.token_layout import PROMPT_LENGTH, TokenLayout
from materium_rl.tokenizer import TokenizerSettings

FP32, BF16, BYTE = 4, 2, 1
ELEMENTS = tuple(Element.from_Z(z).symbol for z in range(1, 95))
"""All that a data set may hold; a few more embeddings than it needs."""
FIXED_SLOTS = 3
"""Lengths in a sequence, and angles."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device.

    Args:
        weights: fp32 parameters.
        gradients: fp32, the same again.
        optimizer: The two moments of AdamW.
        average: The exponential moving average of the weights.
        exchange: The joined gradients that several processes add up.
        activations: Kept for the backward pass of the longest batch, with the bf16 copies of the weights.
        cache: Keys and values of a batch that is sampled.
        joined_weights: The sampler's copies of the weights of joined products.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    exchange: int
    activations: int
    cache: int
    joined_weights: int

    @property
    def training(self) -> int:
        """At the peak of a training step."""
        states = self.weights + self.gradients + self.optimizer + self.average
        return states + max(self.exchange, self.activations)

    @property
    def sampling(self) -> int:
        """While a batch is sampled."""
        return self.weights + self.cache + self.joined_weights


def footprint(config: PretrainConfig, *, processes: int = 1, samples: int = 128) -> Footprint:
    """Memory of a pretraining on each device, at the longest sequence that the tokenizer writes.

    Args:
        config: Shape, batch of each process, arithmetic and token settings.
        processes: Processes that train together.
        samples: Sequences that are sampled at once.
    """
    settings = TokenizerSettings(species=ELEMENTS, **config.tokenizer.model_dump(exclude={"oxidation"}))
    layout = settings.layout()
    weights = FP32 * parameters(settings, config.model)
    return Footprint(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        average=weights,
        exchange=weights if processes > 1 else 0,
        activations=activation_bytes(
            config.model,
            layout,
            batch=config.training.batch_size,
            sites=layout.max_sites,
            bf16=config.training.bf16,
        ),
        cache=cache_bytes(config.model, samples, PROMPT_LENGTH + layout.max_completion_length),
        joined_weights=joined_bytes(config.model),
    )


def parameters(settings: TokenizerSettings, shape: ModelConfig) -> int:
    """Number of parameters of a policy; nothing is allocated."""
    with torch.device("meta"):
        model: CrystalForCausalLM = build_model(settings, shape.model_copy(update={"attention": "sdpa"}))
    return sum(p.numel() for p in model.parameters())


def cache_bytes(shape: ModelConfig, rows: int, length: int) -> int:
    """Keys and values of all layers, fp32."""
    return 2 * shape.layers * rows * length * shape.hidden_size * FP32


def joined_bytes(shape: ModelConfig) -> int:
    """The sampler's copies of the q, k, v weights and of the two gates, fp32."""
    hidden = shape.hidden_size
    return shape.layers * (3 * hidden + 2 * shape.intermediate_size) * hidden * FP32


def activation_bytes(shape: ModelConfig, layout: TokenLayout, *, batch: int, sites: int, bf16: bool) -> int:
    """What autograd keeps of a batch of structures of ``sites`` sites.

    With h the width, m that of the MLP, w bytes of a number in a product (2 in bf16, else 4), each token and
    layer keeps: two norms, each its input and the normed input in fp32, 16h; the inputs of q, k and v
    and of the two gates (each product makes its own bf16 copy, fp32 ones share one), 5wh or 2wh; q, k, v,
    the output of the attention and the input of its projection, 5wh; two masks of dropout, 2h; gate, its
    activation, the other gate and their product, 4wm. Eager attention keeps its (heads, T, T) weights as
    well. At the end each token keeps a normed vector, and each number its distribution: logarithm and
    exponential in fp32, and the grammar's mask. In bf16 the copies of the weights are kept too.
    """
    hidden, inner, tokens = shape.hidden_size, shape.intermediate_size, 4 * sites + 10
    width = BF16 if bf16 else FP32
    inputs = (5 if bf16 else 2) * width * hidden
    dropout = 2 * BYTE * hidden if shape.dropout else 0
    layer = 16 * hidden + inputs + 5 * width * hidden + dropout + 4 * width * inner
    if shape.attention == "eager":
        layer += shape.heads * tokens * (FP32 + (BYTE if shape.dropout else 0) + width)
    ends = (2 * FP32 + FP32 + width) * hidden
    scored = sites * (3 * layout.grid + layout.n_species) + FIXED_SLOTS * (layout.n_lengths + layout.n_angles)
    kept = batch * (tokens * (shape.layers * layer + ends) + scored * (2 * FP32 + BYTE))
    products = shape.layers * (4 * hidden + 3 * inner) * hidden
    vectors = 2 * layout.vocab_size * hidden
    return kept + BF16 * (products + vectors if bf16 else 0)
