"""The three paths to a log-probability agree, every sample parses, seeds do not see the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_structures import aflow_structures
from tiny import random_model
from transformers import AutoModelForCausalLM

from materium_rl.constraints import Constraints
from materium_rl.datasets import equivalent, pad
from materium_rl.policies.loading import load_policy, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM, crystal_config
from materium_rl.policies.sampling import sample, sample_many, sequence_seeds
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of


@pytest.fixture(scope="module")
def codec() -> CrystalCodec:
    return CrystalCodec(
        TokenizerSettings(species=species_of(aflow_structures()), length_range=(1.0, 60.0), min_distance=0.3)
    )


@pytest.fixture(scope="module")
def model(codec: CrystalCodec) -> CrystalForCausalLM:
    return random_model(codec)


@pytest.fixture(scope="module")
def short_codec(codec: CrystalCodec) -> CrystalCodec:
    """Few sites on a coarse grid, where thousands of samples take seconds."""
    return CrystalCodec(codec.settings.model_copy(update={"max_sites": 5, "grid": 120}))


@pytest.fixture(scope="module")
def short_model(short_codec: CrystalCodec) -> CrystalForCausalLM:
    return random_model(short_codec)


def whole(codec: CrystalCodec, ids: torch.Tensor) -> torch.Tensor:
    prompt = torch.tensor(codec.prompt).expand(len(ids), 2)
    return torch.cat([prompt, ids], dim=1)


def test_cached_teacher_forced_and_grouped_log_probs_agree(codec, model) -> None:
    drawn = sample_many(model, 64, seed=1, temperature=0.8)
    sequences = whole(codec, drawn.ids)
    with torch.inference_mode():
        grouped, entropies = model.token_log_probs(sequences, temperature=0.8, first=2)
        logits = model(sequences).logits[:, 1:-1] / 0.8
    distribution = logits.log_softmax(-1)
    forced = distribution.gather(2, sequences[:, 2:, None])[..., 0]
    real = sequences[:, 2:] != 0
    assert (drawn.log_probs - grouped)[real].abs().max() < 1e-4
    assert (drawn.log_probs - forced)[real].abs().max() < 1e-4
    assert (entropies + (distribution.exp() * distribution).sum(-1))[real].abs().max() < 1e-4


def test_huggingface_cache_agrees(codec, model) -> None:
    sequences = whole(codec, sample_many(model, 2, seed=5).ids)[:, :14]
    with torch.inference_mode():
        full = model(sequences).logits
        first = model(sequences[:, :9], use_cache=True)
        rest = model(sequences[:, 9:], past_key_values=first.past_key_values, history=sequences).logits
    assert (full[:, 9:] - rest).abs().max() < 1e-4


def test_huggingface_generate_obeys_the_grammar(model) -> None:
    torch.manual_seed(0)
    out = model.generate(torch.tensor([[1, 2]] * 8), max_new_tokens=88, do_sample=True)
    assert all(model.grammar.accepts(row[: int((row == 4).nonzero()[0, 0]) + 1]) for row in out)


def test_ten_thousand_samples_from_random_weights_parse(short_codec, short_model) -> None:
    drawn = sample_many(short_model, 10_000, seed=2, batch_size=2_000)
    structures = [short_codec.decode(row.tolist()) for row in drawn.ids]
    assert len(structures) == 10_000
    assert all(s.volume > 0 for s in structures)
    assert {len(s) for s in structures} == {1, 2, 3, 4, 5}


def test_same_seed_same_crystal_whatever_the_batch(model) -> None:
    one = sample_many(model, 60, seed=3, batch_size=60).ids
    other = sample_many(model, 60, seed=3, batch_size=7).ids
    width = max(one.shape[1], other.shape[1])
    one, other = (torch.nn.functional.pad(ids, (0, width - ids.shape[1])) for ids in (one, other))
    same = (one == other).all(dim=1)
    assert int(same.sum()) >= 59  # (sums in batches of another size round elsewhere: 1e-4 a token)


def test_rows_that_leave_do_not_disturb_the_others(short_model) -> None:
    """Rows of 1 to 5 sites, mixed: they end at five places and are sorted before they do."""
    row = torch.arange(200) % 5
    rules = short_model.grammar.rules([Constraints(n_sites=(n, n)) for n in range(1, 6)], row=row)
    drawn = sample_many(short_model, 200, seed=4, batch_size=200, rules=rules)
    sequences = torch.cat([torch.tensor([[1, 2]]).expand(200, 2), drawn.ids], dim=1)
    with torch.inference_mode():
        forced, _ = short_model.token_log_probs(sequences, first=2, rules=rules)
    assert torch.equal((drawn.ids != 0).sum(dim=1), 4 * row + 12)
    assert (forced - drawn.log_probs).abs().max() < 1e-4
    assert all(short_model.grammar.accepts(sequence[sequence != 0]) for sequence in sequences)


def test_queries_may_share_keys(codec) -> None:
    torch.manual_seed(0)
    config = crystal_config(
        codec.settings,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    model = CrystalForCausalLM(config).eval()
    for rows in (3, 20):  # the fused attention, the two products
        drawn = sample_many(model, rows, seed=1)
        with torch.inference_mode():
            forced, _ = model.token_log_probs(whole(codec, drawn.ids), first=2)
        assert (drawn.log_probs - forced).abs().max() < 1e-4


def test_a_policy_in_bf16_obeys_the_grammar(codec) -> None:
    model = random_model(codec).to(torch.bfloat16)
    for rows in (2, 20):
        ids = whole(codec, sample_many(model, rows, seed=0).ids)
        assert all(model.grammar.accepts(row[row != 0]) for row in ids)


def test_other_seed_or_stream_other_crystals(model) -> None:
    a = sample(model, sequence_seeds(0, 8, stream=1)).ids
    b = sample(model, sequence_seeds(0, 8, stream=2)).ids
    c = sample(model, sequence_seeds(1, 8, stream=1)).ids
    assert not torch.equal(a[:, :8], b[:, :8])
    assert not torch.equal(a[:, :8], c[:, :8])


def test_sampler_follows_the_distribution(short_model) -> None:
    """First species of many samples against the policy's own probabilities (chi-squared)."""
    n = 4_000
    ids = sample(short_model, sequence_seeds(11, n)).ids[:, 0]
    with torch.inference_mode():
        expected = short_model(torch.tensor([[1, 2]])).logits[0, -1].softmax(-1) * n
    counts = torch.bincount(ids, minlength=len(expected)).float()
    usual = expected > 5
    statistic = ((counts - expected)[usual] ** 2 / expected[usual]).sum().item()
    degrees = int(usual.sum()) - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


def test_policy_survives_saving(tmp_path, codec, model) -> None:
    save_policy(model, codec.settings, tmp_path / "p")
    ids = sample_many(model, 4, seed=0).ids
    loaded = load_policy(tmp_path / "p")
    auto = AutoModelForCausalLM.from_pretrained(tmp_path / "p").eval()
    with torch.inference_mode():
        expected = model(whole(codec, ids)).logits
        assert torch.equal(expected, loaded.model(whole(codec, ids)).logits)
        assert torch.equal(expected, auto(whole(codec, ids)).logits)
    assert loaded.codec.settings == codec.settings
    assert {f.suffix for f in (tmp_path / "p").iterdir()} >= {".safetensors", ".json"}


def test_equivalent_descriptions_are_the_same_crystal(codec) -> None:
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    rng = np.random.default_rng(0)
    matcher = StructureMatcher(comparator=ElementComparator())
    changed = 0
    for structure in aflow_structures()[:40]:
        ids = np.array(codec.encode(structure), dtype=np.int32)
        other = equivalent(ids, codec, rng)
        changed += not np.array_equal(ids, other)
        assert matcher.fit(codec.decode(ids.tolist()), codec.decode(other.tolist()))
    assert changed > 20


def test_padding_does_not_change_log_probs(codec, model) -> None:
    rows = [np.array(codec.encode(s)) for s in aflow_structures()[:6]]
    with torch.inference_mode():
        together, _ = model.token_log_probs(pad(rows))
        alone = [model.token_log_probs(pad([row]))[0].sum() for row in rows]
    assert torch.allclose(together.sum(dim=1), torch.stack(alone), atol=1e-3)
