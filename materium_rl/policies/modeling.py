"""The crystal policy: Llama layers, numeric token embeddings, the grammar inside forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
)

from materium_rl.composition import CompositionRules
from materium_rl.conditions import Conditions
from materium_rl.errors import PolicyError
from materium_rl.grammar import Grammar, Group, Places, Slot
from materium_rl.policies.conditioning import (
    ConditionBatch,
    Conditioner,
    condition_names,
    encode_conditions,
)
from materium_rl.resources import pretrained_folder
from materium_rl.token_layout import PROMPT_LENGTH, TokenLayout
from materium_rl.tokenizer import TokenizerSettings, read_settings

MASKED_LOGIT = -1e4
"""Logit of a token that the grammar forbids; finite, since 0 * -inf is NaN in an entropy."""


class CrystalConfig(LlamaConfig):
    """Llama configuration with the token settings and the dropout of the crystal policy.

    Args:
        token_settings: ``TokenizerSettings`` as a dict; fixes the grammar and the vocabulary.
        dropout: Dropout after the embedding, each attention block and each MLP.
        condition_statistics: Training values of each condition that the policy knows; None for none.
    """

    model_type = "crystal"
    auto_map: ClassVar[dict[str, str]] = {}
    """TRL reads this class attribute of every config."""

    token_settings: dict[str, Any] | None = None
    dropout: float = 0.0
    condition_statistics: dict[str, dict[str, Any]] | None = None

    def layout(self) -> TokenLayout:
        """Token id ranges of this policy.

        Raises:
            PolicyError: It was written with another tokenizer version, or is no crystal policy's.
        """
        if self.token_settings is None:
            raise PolicyError(
                "cannot load the policy: its config.json has no token_settings; expected one written by this "
                "program"
            )
        return read_settings(self.token_settings).layout()


def crystal_config(settings: TokenizerSettings, **llama: Any) -> CrystalConfig:
    """Build a configuration whose vocabulary and length limit follow the token settings."""
    layout = settings.layout()
    return CrystalConfig(
        token_settings=settings.model_dump(mode="json"),
        vocab_size=layout.vocab_size,
        max_position_embeddings=2 + layout.max_completion_length,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
        tie_word_embeddings=True,
        **llama,
    )


class _Attention(LlamaAttention):
    def __init__(self, config: CrystalConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        output, weights = super().forward(*args, **kwargs)
        return self.dropout(output), weights


class _MLP(LlamaMLP):
    def __init__(self, config: CrystalConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.dropout(super().forward(x)))


class _DecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: CrystalConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = _Attention(config, layer_idx)
        self.mlp = _MLP(config)


class _CrystalModel(LlamaModel):
    config_class = CrystalConfig

    def __init__(self, config: CrystalConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([_DecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()


def _waves(values: Tensor, shortest: float, longest: float, count: int) -> Tensor:
    """Sines and cosines of (n,) values at ``count`` wavelengths in geometric steps: (n, 2 * count)."""
    wavelengths = torch.logspace(math.log10(shortest), math.log10(longest), count, dtype=torch.float64)
    phase = 2 * math.pi * values.double()[:, None] / wavelengths[None, :]
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def numeric_features(layout: TokenLayout) -> Tensor:
    """Fourier features of the number behind each numeric token: (V, F), zero for other tokens."""
    fraction = torch.arange(layout.grid, dtype=torch.float64) / layout.grid
    harmonics = torch.tensor([*range(1, 13), 16, 20, 24, 32, 48], dtype=torch.float64)
    phase = 2 * math.pi * fraction[:, None] * harmonics[None, :]
    length = layout.length_min + layout.length_step * torch.arange(layout.n_lengths)
    angle = layout.angle_min + layout.angle_step * torch.arange(layout.n_angles)
    blocks = [
        torch.cat([phase.cos(), phase.sin()], dim=1),
        _waves(length, shortest=0.1, longest=80.0, count=20),
        _waves(angle, shortest=1.0, longest=120.0, count=12),
    ]
    numeric = torch.block_diag(*blocks)
    other = torch.zeros((layout.coordinate_start, numeric.shape[1]), dtype=torch.float64)
    return torch.cat([other, numeric]).float()


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) on last hidden states.

    Logits are linear in them, so this is guidance of the logits: 1 is the conditional policy, 0 the
    unconditional one.
    """
    return unconditional + scale * (conditional - unconditional)


class CrystalForCausalLM(LlamaPreTrainedModel, GenerationMixin):
    """Autoregressive crystal policy.

    A token's embedding is a free vector plus a linear map of the Fourier features of its number; the
    output layer uses the same vectors. To each input are added an embedding of the next slot (species, a,
    ..., x, y, z) and, where that is a coordinate, one of the species whose coordinate it is. Forward masks
    every token that the grammar forbids, so log-probabilities are those of the constrained policy on every
    path: teacher-forced, cached, sampled.
    """

    config_class = CrystalConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 (the output layer is computed, not stored)

    def __init__(self, config: CrystalConfig) -> None:
        super().__init__(config)
        self.model = _CrystalModel(config)
        layout = config.layout()
        self._features: Tensor | None = None
        self._grammar: Grammar | None = None
        self.number_embedding = nn.Linear(numeric_features(layout).shape[1], config.hidden_size, bias=False)
        self.slot_embedding = nn.Embedding(len(Slot), config.hidden_size)
        self.site_embedding = nn.Embedding(layout.n_species, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.dropout)
        names = condition_names(config.condition_statistics or {})
        self.conditioner = Conditioner(layout, names, config.hidden_size) if names else None
        self.post_init()
        if self.conditioner is not None:
            self.conditioner.start_silent()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a policy by bundled name, policy folder, run folder or hub id.

        Further arguments and the result are those of transformers. ``loading.load_policy`` also checks
        that weights and tokenizer belong together.

        Raises:
            PolicyError: It is of another tokenizer version, or cannot be had from the hub.
            ConfigError: Nothing of that name.
        """
        folder = pretrained_folder(pretrained_model_name_or_path, "config.json", kwargs)
        return super().from_pretrained(folder, *args, **kwargs)

    @property
    def grammar(self) -> Grammar:
        """The grammar of this policy, on the device of its weights."""
        device = self.number_embedding.weight.device  # ``self.device`` walks over all parameters
        if self._grammar is None or self._grammar.group.device != device:
            with torch.inference_mode(mode=False):  # kept, so it must not be an inference tensor
                self._grammar = Grammar(self.config.layout()).to(device)
        return self._grammar

    def token_vectors(self) -> Tensor:
        """Embedding of every token, shape (V, hidden)."""
        weight = self.number_embedding.weight
        if self._features is None or self._features.device != weight.device:
            with torch.inference_mode(mode=False):
                self._features = numeric_features(self.config.layout()).to(weight.device)
        vectors: Tensor = self.model.embed_tokens.weight + self.number_embedding(
            self._features.to(weight.dtype)
        )
        return vectors

    def encode_conditions(self, conditions: Sequence[Conditions]) -> ConditionBatch:
        """Tensors of the conditions of B sequences, on the device of the weights.

        Raises:
            ConfigError: A condition that this policy does not know.
        """
        known = self.config.condition_statistics or {}
        batch = encode_conditions(conditions, self.config.layout(), known)
        return batch.to(self.number_embedding.weight.device)

    def embed(
        self, ids: Tensor, places: Places, vectors: Tensor, conditions: ConditionBatch | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Input vectors of the last tokens of sequences, and what conditions add to their last hidden states.

        Args:
            ids: Sequences from ``[SOS]``, (B, T).
            places: What follows each of the last L tokens, (B, L).
            vectors: Token vectors (V, hidden).
            conditions: Conditions of the B sequences.

        Returns:
            (B, L, hidden) each, the second None without conditions.
        """
        length = places.slot.shape[1]
        tokens = nn.functional.embedding(ids[:, -length:], vectors) + self.slot_embedding(places.slot)
        columns = (PROMPT_LENGTH + places.site).clamp(max=ids.shape[1] - 1)
        species = ids.gather(1, columns) - self.grammar.layout.species_start
        written = self.grammar.group[places.slot] == Group.COORDINATE
        x = tokens + self.site_embedding(torch.where(written, species, 0)) * written[..., None]
        after = None
        if conditions is not None and self.conditioner is not None:
            before, after = self.conditioner(conditions, ids, places)
            x = x + before
        return self.embedding_dropout(x), after

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        history: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        rules: CompositionRules | None = None,
        conditions: ConditionBatch | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Masked logits of the next token.

        Args:
            input_ids: Token ids (B, T); without ``history`` they must start at ``[SOS]``.
            attention_mask: 1 for tokens to attend to, (B, T).
            history: Sequences from ``[SOS]`` whose last T tokens are the input, for a cache that holds the
                rest.
            labels: Targets (B, T), -100 ignored; gives the mean loss in nats per token.
            logits_to_keep: Number of last positions whose logits are wanted, 0 for all.
            rules: Constraints on the composition of the B sequences (``grammar.rules``).
            conditions: Conditions of the B sequences (``encode_conditions``).
            **kwargs: Passed to the Llama layers (``past_key_values``, ``use_cache``, ``position_ids``).

        Returns:
            Logits (B, T, V), fp32, forbidden tokens at ``MASKED_LOGIT``.
        """
        ids = input_ids if history is None else history
        first = ids.shape[1] - input_ids.shape[1]
        vectors = self.token_vectors()
        x, after = self.embed(ids, self.grammar.places(ids, first), vectors, conditions)
        outputs = self.model(inputs_embeds=x, attention_mask=attention_mask, **kwargs)
        hidden = outputs.last_hidden_state
        hidden = hidden if after is None else hidden + after
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = (hidden[:, keep] @ vectors.T).float()
        logits = logits.masked_fill(~self.grammar.mask(ids, first, rules)[:, keep], MASKED_LOGIT)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Add the whole sequences, which the grammar reads."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        inputs["history"] = input_ids
        return inputs

    def group_logits(
        self,
        hidden: Tensor,
        ids: Tensor,
        positions: Tensor,
        group: Group,
        vectors: Tensor,
        rules: CompositionRules | None = None,
    ) -> Tensor:
        """Masked logits over the range of one group; a softmax over it equals the full one.

        Args:
            hidden: Last hidden states (R, hidden).
            ids: The sequence of each row from ``[SOS]``, (R, T).
            positions: Index of the token that is followed, (R,).
            group: The group that follows in every row.
            vectors: Token vectors (V, hidden).
            rules: Constraints on the composition of these R rows.

        Returns:
            fp32 (R, size of the group's range).
        """
        low, high = self.grammar.token_range(group)
        logits = (hidden @ vectors[low:high].T).float()
        allowed = self.grammar.group_mask(ids, positions, group, rules)
        return logits.masked_fill(~allowed, MASKED_LOGIT)

    def token_log_probs(
        self,
        input_ids: Tensor,
        *,
        temperature: float = 1.0,
        first: int = 1,
        rules: CompositionRules | None = None,
        conditions: ConditionBatch | None = None,
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of given tokens and entropies of their distributions.

        Works group by group (species, coordinate, length, angle), so that no (B, T, V) tensor is made.

        Args:
            input_ids: Whole sequences (B, T) from ``[SOS]``, right-padded.
            temperature: Sampling temperature that the logits are divided by.
            first: Index of the first token that is scored, at least 1.
            rules: Constraints that the B sequences were sampled under (``grammar.rules``).
            conditions: Conditions that they were sampled with (``encode_conditions``).
            guidance: Scale of classifier-free guidance that they were sampled with.

        Returns:
            Log-probabilities and entropies in nats, each (B, T - first); 0 for forced and pad tokens.
        """
        return self.token_scores(
            input_ids,
            temperature=temperature,
            first=first,
            rules=rules,
            conditions=conditions,
            guidance=guidance,
        )[:2]

    def token_scores(
        self,
        input_ids: Tensor,
        *,
        temperature: float = 1.0,
        first: int = 1,
        rules: CompositionRules | None = None,
        conditions: ConditionBatch | None = None,
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``token_log_probs``, and the last hidden states that the tokens follow: (B, T - first, hidden)."""
        places, vectors = self.grammar.places(input_ids), self.token_vectors()
        x, after = self.embed(input_ids, places, vectors, conditions)
        if guided := after is not None and guidance != 1.0:
            x = torch.cat([x, self.embed(input_ids, places, vectors)[0]])
        hidden = self.model(inputs_embeds=x, use_cache=False).last_hidden_state
        told, *untold = hidden.chunk(2) if guided else (hidden,)
        hidden = told if after is None else told + after
        if guided:
            hidden = guide(hidden, untold[0], guidance)
        hidden = hidden[:, first - 1 : -1]
        groups, targets = self.grammar.group[places.slot[:, first - 1 : -1]], input_ids[:, first:]
        log_probs = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        entropies = torch.zeros_like(log_probs)
        for group in Group:
            chosen_places = groups == group
            if group is Group.FORCED or not bool(chosen_places.any()):
                continue
            rows, columns = chosen_places.nonzero(as_tuple=True)
            positions = columns + (first - 1)
            these = rules and rules.at(rows)
            logits = self.group_logits(
                hidden[chosen_places], input_ids[rows], positions, group, vectors, these
            )
            distribution = torch.log_softmax(logits / temperature, dim=-1)
            low, _ = self.grammar.token_range(group)
            chosen = distribution.gather(1, (targets[chosen_places] - low)[:, None])[:, 0]
            log_probs = log_probs.masked_scatter(chosen_places, chosen)
            entropies = entropies.masked_scatter(chosen_places, -(distribution.exp() * distribution).sum(-1))
        return log_probs, entropies, hidden


AutoConfig.register("crystal", CrystalConfig)
AutoModelForCausalLM.register(CrystalConfig, CrystalForCausalLM)
