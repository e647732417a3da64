"""Constraints on the composition: the look-ahead against brute force, and exactness on every path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise, product
from math import gcd, inf

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from real_structures import aflow_structures
from tiny import random_model

from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError
from materium_rl.grammar import Grammar
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.policies.sampling import sample, sample_many, sequence_seeds
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalCodec, SiteOrder, TokenizerSettings, species_of

ORDERS: tuple[SiteOrder, ...] = ("electronegativity", "xyz")
FEW = ("Li", "O|-2", "O|-1", "Fe|+2", "Fe|+3")
FEW_SITES = 4
REQUESTS = (
    Constraints(allowed="Li,Fe,O,Na", required="Fe", n_sites="4..7", n_elements="2..3"),
    Constraints(formula="SrTiO3"),
    Constraints(forbidden="O,Na", n_sites=6),
    Constraints(required="O,Na,Ti,Fe,Cu", n_elements=5),
    Constraints(n_elements=1, n_sites="2..8"),
    Constraints(formula="Na2Cl2", n_sites="3..8"),
    Constraints(required="Cs", n_elements=3, n_sites=3),
    Constraints(density="3.9..4.1"),
    Constraints(formula="SrTiO3", density="4..6"),
    Constraints(),
)


def reduced(counts: Counter[str]) -> dict[str, int]:
    divisor = reduce(gcd, counts.values())
    return {element: n // divisor for element, n in counts.items()}


def meets(request: Constraints, symbols: Sequence[str]) -> bool:
    """What is asked for, counted atom by atom."""
    found = set(symbols)
    checks = [
        request.allowed is None or found <= set(request.allowed),
        found >= set(request.required),
        not found & set(request.forbidden),
        request.n_sites is None or request.n_sites[0] <= len(symbols) <= request.n_sites[1],
        request.n_elements is None or request.n_elements[0] <= len(found) <= request.n_elements[1],
        request.formula is None or reduced(Counter(symbols)) == request.formula_unit,
    ]
    return all(checks)


def few_codec(order: SiteOrder) -> CrystalCodec:
    return CrystalCodec(TokenizerSettings(species=FEW, max_sites=FEW_SITES, site_order=order, grid=24))


def compositions(codec: CrystalCodec) -> list[tuple[int, ...]]:
    """Every sequence of species that the site order allows."""
    rank = codec.layout.species_rank
    return [
        sequence
        for n in range(1, FEW_SITES + 1)
        for sequence in product(range(len(FEW)), repeat=n)
        if all(rank[a] <= rank[b] for a, b in pairwise(sequence))
    ]


def symbols_of(sequence: Sequence[int]) -> list[str]:
    return [FEW[i].split("|")[0] for i in sequence]


def random_fields(rng: np.random.Generator) -> dict[str, object]:
    def some(most: int) -> list[str]:
        return [str(e) for e in rng.permutation(["Li", "O", "Fe"])[: rng.integers(0, most + 1)]]

    def bounds(largest: int) -> str:
        low, high = sorted(rng.integers(1, largest + 1, 2).tolist())
        return f"{low}..{high}"

    formulas = ["Li", "LiO", "LiFeO2", "Li4O4", "FeO", "Li3Fe", "O2", "Fe3O2", "Fe2O"]
    fields: dict[str, object] = {
        "allowed": ["Li", "O", "Fe"][: rng.integers(1, 4)],
        "required": some(3),
        "forbidden": some(1),
        "n_sites": bounds(5),
        "n_elements": bounds(4),
        "formula": str(rng.choice(formulas)),
    }
    return {key: value for key, value in fields.items() if rng.random() < 0.45}


@pytest.mark.parametrize("order", ORDERS)
def test_look_ahead_is_exact(order: SiteOrder) -> None:
    """After every prefix of a composition that meets the request: those tokens that lead to another one."""
    codec = few_codec(order)
    grammar, every = Grammar(codec.layout), compositions(codec)
    start, rng = codec.layout.species_start, np.random.default_rng(0)
    requests: list[Constraints] = []
    successors: dict[tuple[int, tuple[int, ...]], set[int]] = {}
    impossible = 0
    for _ in range(250):
        fields = random_fields(rng)
        try:
            request = Constraints(**fields)
            grammar.rules(request)
        except (ValidationError, ConfigError):
            request = None
        wanted = Constraints.model_construct(**{**fields, **_parsed(fields)})
        good = [sequence for sequence in every if meets(wanted, symbols_of(sequence))]
        assert (request is not None) == bool(good), fields
        impossible += not good
        for sequence in good:
            for n in range(len(sequence) + 1):
                token = start + sequence[n] if n < len(sequence) else int(TokenClass.LATTICE)
                successors.setdefault((len(requests), sequence[:n]), set()).add(token)
        if request is not None:
            requests.append(request)
    for n in range(FEW_SITES + 1):
        keys = [key for key in successors if len(key[1]) == n]
        ids = torch.tensor([[1, 2, *(start + i for i in prefix)] for _, prefix in keys])
        rules = grammar.rules(requests, row=torch.tensor([row for row, _ in keys]))
        mask = grammar.mask(ids, n + 1, rules)[:, 0]
        for key, allowed in zip(keys, mask, strict=True):
            assert set(allowed.nonzero()[:, 0].tolist()) == successors[key], (requests[key[0]], key[1])
    assert len(successors) > 1_000
    assert 30 < impossible < 200


def _parsed(fields: dict[str, object]) -> dict[str, object]:
    """Fields that hold texts, read by themselves: contradictions between them are for the test to find."""
    return {key: getattr(Constraints(**{key: value}), key) for key, value in fields.items()}


@pytest.fixture(scope="module", params=ORDERS)
def codec(request: pytest.FixtureRequest) -> CrystalCodec:
    species = species_of(aflow_structures())
    return CrystalCodec(
        TokenizerSettings(
            species=species,
            max_sites=8,
            site_order=request.param,
            grid=120,
            length_range=(1.0, 60.0),
            min_distance=0.3,
        )
    )


@pytest.fixture(scope="module")
def model(codec: CrystalCodec) -> CrystalForCausalLM:
    return random_model(codec)


def whole(codec: CrystalCodec, ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.tensor(codec.prompt).expand(len(ids), 2), ids], dim=1)


def elements_of(codec: CrystalCodec, row: torch.Tensor) -> list[str]:
    return [site.specie.symbol for site in codec.decode(row.tolist())]


def test_samples_meet_the_request_and_all_paths_agree(codec, model) -> None:
    """A batch of rows with different constraints: sampled, grouped and teacher-forced log-probabilities."""
    n = 12 * len(REQUESTS)
    row = torch.arange(n) % len(REQUESTS)
    rules = model.grammar.rules(REQUESTS, row=row)
    drawn = sample(model, sequence_seeds(1, n), temperature=0.8, rules=rules)
    sequences = whole(codec, drawn.ids)
    for i, ids in enumerate(drawn.ids):
        assert meets(REQUESTS[row[i]], elements_of(codec, ids)), (REQUESTS[row[i]], i)
        low, high = REQUESTS[row[i]].density or (0.0, inf)
        assert low <= float(codec.decode(ids.tolist()).density) <= high
        complete = sequences[i, : int((sequences[i] != 0).sum())]
        assert model.grammar.accepts(complete, rules.at(torch.tensor([i])))
        assert model.grammar.accepts(complete)
    with torch.inference_mode():
        grouped, entropies = model.token_log_probs(sequences, temperature=0.8, first=2, rules=rules)
        distribution = (model(sequences, rules=rules).logits[:, 1:-1] / 0.8).log_softmax(-1)
        free, _ = model.token_log_probs(sequences, temperature=0.8, first=2)
    forced = distribution.gather(2, sequences[:, 2:, None])[..., 0]
    real = sequences[:, 2:] != 0
    assert (drawn.log_probs - grouped)[real].abs().max() < 1e-4
    assert (drawn.log_probs - forced)[real].abs().max() < 1e-4
    assert (entropies + (distribution.exp() * distribution).sum(-1))[real].abs().max() < 1e-4
    gained = (grouped - free).sum(dim=1)  # the policy cannot be less likely to write what it must
    assert gained.min() > -1e-3
    assert gained[row < len(REQUESTS) - 1].median() > 1.0
    assert gained[row == len(REQUESTS) - 1].abs().max() < 1e-4


def test_a_constraint_for_all_is_that_constraint_for_each(codec, model) -> None:
    request = REQUESTS[0]
    one = sample_many(model, 10, seed=4, batch_size=4, rules=model.grammar.rules(request))
    each = sample_many(model, 10, seed=4, batch_size=4, rules=model.grammar.rules([request] * 10))
    assert torch.equal(one.ids, each.ids)
    assert torch.equal(one.log_probs, each.log_probs)
    none = sample_many(model, 10, seed=4, batch_size=4, rules=model.grammar.rules(Constraints()))
    assert torch.equal(none.ids, sample_many(model, 10, seed=4, batch_size=4).ids)


@pytest.mark.parametrize("wanted", [(0.5, 0.6), (2.0, 2.4), (5.0, 5.05), (9.0, 11.0), (15.0, 25.0)])
def test_density_always(codec, model, wanted: tuple[float, float]) -> None:
    """Of a policy that knows nothing of lengths, too, for light and heavy crystals."""
    for request in (Constraints(density=wanted), Constraints(density=wanted, required="Cs")):
        drawn = sample(model, sequence_seeds(3, 32), rules=model.grammar.rules(request))
        found = np.array([float(codec.decode(ids.tolist()).density) for ids in drawn.ids])
        assert ((found >= wanted[0]) & (found <= wanted[1])).all(), found


def test_a_density_closes_off_no_real_crystal(codec) -> None:
    grammar = Grammar(codec.layout)
    structures = [s for s in aflow_structures() if len(s) <= codec.settings.max_sites]
    accepted = 0
    for structure in structures:
        ids = torch.tensor(codec.encode(structure))
        assert grammar.accepts(ids)
        density = float(codec.decode(ids.tolist()[len(codec.prompt) :]).density)
        near = Constraints(density=(0.999 * density, 1.001 * density))
        assert grammar.accepts(ids, grammar.rules(near)), structure.composition
        off = Constraints(density=(1.02 * density, 1.04 * density))
        assert not grammar.accepts(ids, grammar.rules(off))
        accepted += 1
    assert accepted > 100


def test_a_density_that_the_distances_rule_out_leaves_the_cell_free(codec, model) -> None:
    request = Constraints(allowed="Li", density="20..22")
    drawn = sample(model, sequence_seeds(0, 8), rules=model.grammar.rules(request))
    assert all(elements_of(codec, ids) for ids in drawn.ids)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        ("4", r"expected a range such as 3.5..4.5"),
        (4.5, r"expected a range such as 3.5..4.5"),
        ("5..3", r"an empty range: 5..3"),
        ("0..3", r"expected 0 < lowest"),
        ("a..b", r"valid number"),
        ((1.0, inf), r"expected 0 < lowest"),
    ],
)
def test_a_wrong_density_is_refused(density: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Constraints(density=density)


def test_exact_formula_always(codec, model) -> None:
    """Formulas of real crystals, each asked for by reduced formula alone."""
    formulas = sorted({s.composition.reduced_formula for s in aflow_structures(8)})[:100]
    requests = [Constraints(formula=formula) for formula in formulas]
    drawn = sample(model, sequence_seeds(0, len(requests)), rules=model.grammar.rules(requests))
    written = [reduced(Counter(elements_of(codec, ids))) for ids in drawn.ids]
    assert written == [request.formula_unit for request in requests]
    assert len(written) > 60


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "fields", [{"required": "Fe", "n_elements": "2..3"}, {"formula": "FeO"}, {"n_sites": 3}]
)
def test_probabilities_of_all_that_meets_the_request_sum_to_one(
    order: SiteOrder, fields: dict[str, object]
) -> None:
    codec, request = few_codec(order), Constraints(**fields)
    model, start = random_model(codec), codec.layout.species_start
    total = 0.0
    for n in range(1, FEW_SITES + 1):
        good = [s for s in compositions(codec) if len(s) == n and meets(request, symbols_of(s))]
        if not good:
            continue
        ids = torch.tensor([[1, 2, *(start + i for i in s), TokenClass.LATTICE] for s in good])
        with torch.inference_mode():
            logits = model(ids, rules=model.grammar.rules(request)).logits[:, 1:-1]
        log_probs = logits.log_softmax(-1).gather(2, ids[:, 2:, None])[..., 0]
        sites = logits.softmax(-1)[..., TokenClass.LATTICE : codec.layout.coordinate_start]
        assert torch.allclose(sites.sum(-1), torch.ones(log_probs.shape), atol=1e-5)
        total += float(log_probs.sum(dim=1).exp().sum())
    assert total == pytest.approx(1.0, abs=1e-4)


def test_huggingface_generate_obeys_the_constraint(codec, model) -> None:
    torch.manual_seed(0)
    rules = model.grammar.rules(REQUESTS[1])
    prompt = torch.tensor([codec.prompt] * 4)
    out = model.generate(prompt, max_new_tokens=40, do_sample=True, rules=rules)
    assert all(meets(REQUESTS[1], elements_of(codec, ids)) for ids in out)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"required": "Fe,Pu"}, r"this policy cannot write Pu; its 3 elements are Li, O, Fe"),
        ({"allowed": "Fe,Xe"}, r"cannot write Xe"),
        ({"formula": "NaCl"}, r"cannot write Cl, Na"),
        ({"n_sites": "5..9"}, r"n_sites of at least 5, but this policy writes 4 at most"),
        ({"formula": "Fe2O3"}, r"Fe2O3 takes 5 sites or a multiple, but this policy writes 4 at most"),
        ({"formula": "FeO", "n_sites": "3..3"}, r"no multiple of the 2 sites"),
        ({"n_elements": 3, "forbidden": "Li"}, r"no composition of this policy meets forbidden Li, n_el"),
        ({"n_elements": "4..5"}, r"no composition of this policy meets n_elements 4..5"),
    ],
)  # fmt: skip
def test_what_a_policy_cannot_meet_is_refused(fields: dict[str, object], message: str) -> None:
    grammar = Grammar(few_codec("electronegativity").layout)
    with pytest.raises((ConfigError, ValidationError), match=message):
        grammar.rules([Constraints(), Constraints(**fields)])


def test_forbidding_what_the_policy_cannot_write_is_no_error() -> None:
    Grammar(few_codec("xyz").layout).rules(Constraints(forbidden="Pu,Xe"))


def test_texts_are_read_and_written_back() -> None:
    request = Constraints(
        allowed=" Li, Fe,O,O", n_sites="4..12", n_elements="3", formula="Li2Fe2O4", density="3.5 .. 4"
    )
    assert request.allowed == ("Li", "Fe", "O")
    assert (request.n_sites, request.n_elements) == ((4, 12), (3, 3))
    assert request.formula_unit == {"Li": 1, "Fe": 1, "O": 2}
    assert [*request.units(20)] == [1, 2, 3]
    assert request.request() == {
        "requested_allowed": "Li,Fe,O",
        "requested_n_sites": "4..12",
        "requested_n_elements": "3",
        "requested_formula": "Li2Fe2O4",
        "requested_density": "3.5..4",
    }
    assert Constraints.model_validate(request.model_dump(mode="json")) == request
    assert Constraints().request() == {}
