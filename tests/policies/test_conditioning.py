"""Conditions: what is missing is counted right, silent rows stay as they are, log-probabilities are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from tiny import SHAPE, small_structures, tiny_codec

from materium_rl.conditions import CONDITIONS, NUMBERS, Conditions
from materium_rl.errors import ConfigError
from materium_rl.grammar import Group
from materium_rl.policies.conditioning import WAVES, ConditionBatch
from materium_rl.policies.loading import build_model, load_policy, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import Completions, sample, sample_many, sequence_seeds

KNOWN = {
    name: {"mean": 1.0, "std": 2.0, "low": 0.0, "high": 5.0} if name in NUMBERS else {} for name in CONDITIONS
}
ASKED = [
    Conditions(formula="ZnS", density=4.1),
    Conditions(space_group=225, n_sites=2, band_gap=1.5),
    Conditions(chemical_system="Cu-Au"),
    Conditions(),
]


@pytest.fixture(scope="module")
def model() -> CrystalForCausalLM:
    torch.manual_seed(0)
    model = build_model(tiny_codec().settings, SHAPE, KNOWN)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    assert model.conditioner is not None
    torch.nn.init.normal_(model.conditioner.outer.weight)
    return model.eval()


def whole(drawn: Completions) -> torch.Tensor:
    return torch.cat([torch.tensor([[1, 2]]).expand(len(drawn.ids), -1), drawn.ids], dim=1).clone()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_log_probs_of_the_sampler_and_teacher_forced_agree(
    model: CrystalForCausalLM, guidance: float
) -> None:
    conditions = model.encode_conditions(ASKED * 8)
    drawn = sample(model, sequence_seeds(1, 32), conditions=conditions, guidance=guidance, temperature=0.9)
    with torch.inference_mode():
        forced, _ = model.token_log_probs(
            whole(drawn), first=2, conditions=conditions, guidance=guidance, temperature=0.9
        )
    assert (forced - drawn.log_probs).abs().max() < 1e-4


def test_forward_is_the_same_policy(model: CrystalForCausalLM) -> None:
    conditions = model.encode_conditions(ASKED)
    drawn = sample(model, sequence_seeds(2, 4), conditions=conditions)
    ids = whole(drawn)
    with torch.inference_mode():
        logits = model(ids, conditions=conditions).logits[:, 1:-1].log_softmax(-1)
    found = logits.gather(2, ids[:, 2:, None])[..., 0]
    assert ((found - drawn.log_probs) * (ids[:, 2:] != 0)).abs().max() < 1e-4


def test_a_row_without_conditions_is_the_plain_policy(model: CrystalForCausalLM) -> None:
    plain = sample(model, sequence_seeds(3, 4))
    for guidance in (1.0, 3.0):
        drawn = sample(
            model, sequence_seeds(3, 4), conditions=model.encode_conditions(ASKED), guidance=guidance
        )
        length = int((plain.ids[3] != 0).sum())
        assert torch.equal(drawn.ids[3, :length], plain.ids[3, :length])
        assert not torch.equal(drawn.ids[0], plain.ids[0, : drawn.ids.shape[1]])


def test_guidance_of_zero_is_the_plain_policy(model: CrystalForCausalLM) -> None:
    plain = sample(model, sequence_seeds(4, 4))
    drawn = sample(model, sequence_seeds(4, 4), conditions=model.encode_conditions(ASKED), guidance=0.0)
    assert torch.equal(drawn.ids, plain.ids)


def test_guidance_moves_the_logits_along_a_line(model: CrystalForCausalLM) -> None:
    conditions = model.encode_conditions(ASKED[:1])
    ids = whole(sample(model, sequence_seeds(5, 1)))
    low, high = model.grammar.token_range(Group.SITE)
    plain, told = (model(ids, conditions=c).logits[0, 1, low:high] for c in (None, conditions))
    expected = (plain + 2.0 * (told - plain)).log_softmax(-1)[ids[0, 2] - low]
    found, _ = model.token_log_probs(ids, first=2, conditions=conditions, guidance=2.0)
    assert found[0, 0].item() == pytest.approx(expected.item(), abs=1e-4)


def test_same_crystals_in_batches_of_another_size(model: CrystalForCausalLM) -> None:
    conditions = model.encode_conditions(ASKED * 5)
    one, other = (
        sample_many(model, 20, seed=6, batch_size=size, conditions=conditions, guidance=2.0)
        for size in (20, 7)
    )
    assert (one.ids == other.ids).all(dim=1).float().mean() >= 0.95


def seen(model: CrystalForCausalLM, monkeypatch: pytest.MonkeyPatch, part: str) -> list[torch.Tensor]:
    """What a linear map of the conditioner is given."""
    inputs: list[torch.Tensor] = []
    layer = getattr(model.conditioner, part)
    handle = layer.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    monkeypatch.setattr(layer, "_removed_by_test", handle.remove, raising=False)
    return inputs


def encoded(structure: Structure) -> torch.Tensor:
    return torch.tensor([tiny_codec().encode(structure)])


def rock_salt_like() -> Structure:
    """A real crystal of two elements and at least four sites."""
    return next(s for s in small_structures() if len(s.composition) == 2 and len(s) == 4)


def test_missing_atoms_are_counted_down(model: CrystalForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = rock_salt_like()
    ids = encoded(structure)
    formula = structure.composition.reduced_formula
    conditions = model.encode_conditions([Conditions(formula=formula, n_sites=len(structure))])
    inputs = seen(model, monkeypatch, "elements")
    model.token_log_probs(ids, conditions=conditions)
    assert model.conditioner is not None
    n = model.conditioner.n_elements
    missing = inputs[0][0, :, 3 * n : 4 * n] * 4  # (T, E)
    unit = conditions.unit[0].float()
    assert torch.equal(missing[1], unit)  # nothing is written yet
    assert missing[1 + len(structure)].sum() == 0  # all are written
    assert missing[2].sum() == unit.sum() - 1
    assert missing[2 + len(structure) :].sum() == 0  # not shown beside the cell


def test_the_rest_of_the_volume_gives_the_density(
    model: CrystalForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure = rock_salt_like()
    ids = encoded(structure)
    decoded = tiny_codec().decode(ids[0].tolist())
    conditions = model.encode_conditions([Conditions(density=decoded.density)])
    inputs = seen(model, monkeypatch, "volume")
    model.token_log_probs(ids, conditions=conditions)
    left = inputs[0][0, :, 0].exp()
    start = 2 + len(structure)  # [LATTICE], which a follows
    a, b, c = decoded.lattice.abc
    assert float(left[start]) == pytest.approx(decoded.volume, rel=1e-4)
    assert float(left[start + 1]) == pytest.approx(decoded.volume / a, rel=1e-4)
    assert float(left[start + 2]) == pytest.approx(decoded.volume / (a * b), rel=1e-4)
    assert float(left[start + 5]) == pytest.approx(decoded.volume / (a * b * c), rel=1e-4)
    assert inputs[0].shape[-1] == 1 + 2 * WAVES


def test_numbers_are_standardised_and_logarithms_where_they_should_be(model: CrystalForCausalLM) -> None:
    batch = model.encode_conditions([Conditions(density=math.e, band_gap=3.0)])
    names = [name for name in CONDITIONS if name in NUMBERS]
    assert float(batch.numbers[0, names.index("density")]) == pytest.approx(0.0)
    assert float(batch.numbers[0, names.index("band_gap")]) == pytest.approx(1.0)


def test_dropped_conditions_are_not_seen(model: CrystalForCausalLM) -> None:
    ids = whole(sample(model, sequence_seeds(7, 4)))
    batch = model.encode_conditions(ASKED)
    nothing = batch.keep(torch.zeros_like(batch.given))
    only = batch.keep(torch.tensor([[name == "formula" for name in CONDITIONS]] * 4))
    told, plain = model.token_log_probs(ids, conditions=nothing)[0], model.token_log_probs(ids)[0]
    assert torch.equal(told, plain)
    formula = model.encode_conditions([Conditions(formula="ZnS"), *[Conditions()] * 3])
    one, other = (model.token_log_probs(ids, conditions=c)[0] for c in (only, formula))
    assert torch.allclose(one, other, atol=1e-6)


def test_a_new_conditional_policy_starts_as_the_plain_one() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_codec().settings, SHAPE, KNOWN).eval()
    plain = sample(model, sequence_seeds(8, 4))
    assert torch.equal(
        sample(model, sequence_seeds(8, 4), conditions=model.encode_conditions(ASKED)).ids, plain.ids
    )


def test_survives_saving(model: CrystalForCausalLM, tmp_path) -> None:
    save_policy(model, tiny_codec().settings, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy").model
    seeds = sequence_seeds(9, 4)
    one, other = (sample(m, seeds, conditions=m.encode_conditions(ASKED)) for m in (model, loaded))
    assert torch.equal(one.ids, other.ids)


def test_refuses_what_it_has_not_learnt() -> None:
    known = {"density": KNOWN["density"]}
    model = build_model(tiny_codec().settings, SHAPE, known)
    with pytest.raises(ConfigError, match=r"not learnt the condition band_gap; it knows: density"):
        model.encode_conditions([Conditions(band_gap=1.0)])
    with pytest.raises(ConfigError, match="knows: none"):
        build_model(tiny_codec().settings, SHAPE).encode_conditions([Conditions(band_gap=1.0)])


def test_refuses_an_element_and_a_number_of_sites_that_it_cannot_write(model: CrystalForCausalLM) -> None:
    with pytest.raises(ConfigError, match="cannot write Og"):
        model.encode_conditions([Conditions(formula="OgF2")])
    with pytest.raises(ConfigError, match="n_sites=40, but this policy writes 4 at most"):
        model.encode_conditions([Conditions(n_sites=40)])


def test_rows_can_be_taken(model: CrystalForCausalLM) -> None:
    batch = model.encode_conditions(ASKED)
    part: ConditionBatch = batch.at(torch.tensor([2, 0]))
    assert np.array_equal(part.given.numpy(), batch.given.numpy()[[2, 0]])
