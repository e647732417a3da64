"""Runs with prompts: drawn from the training structures, in every log-probability, as targets of rewards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_trainer import small_config
from tiny import MAX_SITES, SHAPE, small_structures

from materium_rl.conditions import Conditions
from materium_rl.config import FinetuneConfig, load_config
from materium_rl.constraints import Constraints
from materium_rl.errors import ConfigError
from materium_rl.labels import statistics
from materium_rl.policies.loading import build_model, load_policy, save_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.prompting import PromptSource, prompt_tensors
from materium_rl.prompts import Prompt, PromptsConfig
from materium_rl.rl.finetune import finetune
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.replay import ReplayBuffer
from materium_rl.rl.token_scores import log_probs_by_length
from materium_rl.runs import RunFolder
from materium_rl.structure_parsers import StructureRow
from materium_rl.tokenizer import TokenizerSettings, species_of
from materium_rl.training_index import write_training_index

BOTH = {"conditions": {"density": [2.0, 8.0]}, "constraints": {"n_sites": "training"}}


def labels() -> list[Conditions]:
    return [Conditions(density=float(s.density), n_sites=len(s)) for s in small_structures()]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that follows conditions, if at random, with an index of its training structures."""
    folder = tmp_path_factory.mktemp("policy") / "conditional"
    settings = TokenizerSettings(species=species_of(small_structures()), max_sites=MAX_SITES)
    torch.manual_seed(0)
    known = statistics(labels(), ["density", "n_sites"], ())
    model = build_model(settings, SHAPE, conditions=known)
    for parameter in model.conditioner.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_policy(model, settings, folder)
    rows = [StructureRow(s, f"row {i}", {}) for i, s in enumerate(small_structures())]
    write_training_index(rows, folder)
    return folder


def source(policy: Path, **prompts: Any) -> PromptSource:
    return PromptSource(PromptsConfig(**prompts), load_policy(policy), str(policy))


def test_training_prompts_are_those_of_training_structures(policy: Path) -> None:
    drawn = source(
        policy, constraints={"n_sites": "training", "chemical_system": "training", "n_elements": "training"}
    ).draw(400, seed=0, stream=1)
    known = Counter((tuple(sorted(e.symbol for e in s.elements)), len(s)) for s in small_structures())
    found = Counter((p.constraints.allowed, p.constraints.n_sites[0]) for p in drawn)
    assert set(found) <= set(known)
    assert len(found) > len(known) / 2
    commonest = max(known.values()) / sum(known.values())
    assert abs(max(found.values()) / 400 - commonest) < 0.06
    for prompt in drawn:
        assert prompt.constraints.required == prompt.constraints.allowed
        assert prompt.constraints.n_elements == (len(prompt.constraints.allowed),) * 2


def test_training_numbers_follow_their_quantiles(policy: Path) -> None:
    drawn = source(policy, conditions={"density": "training"}).draw(500, seed=0, stream=1)
    found = [prompt.conditions.density for prompt in drawn]
    true = [c.density for c in labels()]
    for share in (0.1, 0.5, 0.9):
        assert np.mean(np.array(found) <= np.quantile(true, share)) == pytest.approx(share, abs=0.06)


def test_draws_depend_on_seed_and_step_alone(policy: Path) -> None:
    one, other = source(policy, **BOTH), source(policy, **BOTH)
    assert one.draw(20, seed=3, stream=5) == other.draw(20, seed=3, stream=5)
    assert one.draw(20, seed=3, stream=5) != one.draw(20, seed=3, stream=6)
    assert one.draw(20, seed=3, stream=5) != one.draw(20, seed=4, stream=5)
    assert one.draw(20, seed=3, stream=5)[:7] == one.draw(7, seed=3, stream=5)


def test_what_cannot_be_met_is_drawn_again(policy: Path) -> None:
    binary = next(s.composition.chemical_system for s in small_structures() if len(s.elements) == 2)
    prompts = source(policy, constraints={"n_sites": [1, 2], "chemical_system": binary})
    assert {p.constraints.n_sites for p in prompts.draw(20, seed=0, stream=0)} == {(2, 2)}
    with pytest.raises(ConfigError, match=r"none of 100 draws can be met .* 2 elements required"):
        source(policy, constraints={"n_sites": 1, "chemical_system": binary})


def test_condition_and_constraint_of_a_name_are_one_draw(policy: Path) -> None:
    for wanted in ([1, 3], "training"):
        prompts = source(policy, conditions={"n_sites": wanted}, constraints={"n_sites": wanted})
        for prompt in prompts.draw(30, seed=0, stream=0):
            assert prompt.constraints.n_sites == (prompt.conditions.n_sites,) * 2
    with pytest.raises(ValueError, match="must list as many values"):
        PromptsConfig(conditions={"n_sites": [1, 3]}, constraints={"n_sites": [1]})
    with pytest.raises(ValueError, match="so in both"):
        PromptsConfig(conditions={"n_sites": "training"}, constraints={"n_sites": [1]})


def test_density_ranges_are_drawn_and_told(policy: Path) -> None:
    prompts = source(policy, constraints={"density": "2..3, 4..6"}).draw(40, seed=0, stream=0)
    assert {p.constraints.density for p in prompts} == {(2.0, 3.0), (4.0, 6.0)}
    both = source(policy, conditions={"density": [2.5, 5]}, constraints={"density": ["2..3", "4..6"]})
    pairs = {(p.conditions.density, p.constraints.density) for p in both.draw(40, seed=0, stream=0)}
    assert pairs == {(2.5, (2.0, 3.0)), (5.0, (4.0, 6.0))}
    with pytest.raises(ValueError, match=r"expected a range such as 3.5..4.5"):
        PromptsConfig(constraints={"density": "training"})


def test_a_prompt_survives_its_data() -> None:
    prompt = Prompt(Conditions(density=2.0, chemical_system="Na-Cl"), Constraints(n_sites=4, allowed="Na,Cl"))
    assert Prompt.from_data(prompt.as_data()) == prompt
    assert prompt.targets() == {"n_sites": 4, "chemical_system": ("Cl", "Na"), "density": 2.0}


def test_every_log_probability_knows_the_prompt(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour, first update, reference policy and replay, over shuffled parts of the batch."""
    gaps: list[float] = []
    loss = CrystalGRPOTrainer._compute_loss

    def listen(self: CrystalGRPOTrainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self._rows = inputs["row"]
        whole = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        with torch.no_grad():
            now = self._get_per_token_logps_and_entropies(
                model, whole, None, inputs["completion_ids"].shape[1]
            )
            blind = log_probs_by_length(model, whole, 1.0, 2)[0]
        gaps.append(float((now[0] - inputs["old_per_token_logps"]).abs().max()))
        if self.state.global_step == 0:
            # The policy is its own reference, and without its prompt another one.
            torch.testing.assert_close(
                inputs["ref_per_token_logps"], inputs["old_per_token_logps"], atol=1e-4, rtol=0
            )
            assert (blind - inputs["old_per_token_logps"]).abs().max() > 0.01
        return loss(self, model, inputs)

    monkeypatch.setattr(CrystalGRPOTrainer, "_compute_loss", listen)
    values = {"prompts": BOTH, "rl.group_size": 4, "rl.minibatches": 2, "rl.num_iterations": 2, "rl.steps": 3}
    values |= {"replay.batch_size": 6, "reward.expression": "density(target=prompt)"}
    run = RunFolder(finetune(small_config(policy, values), tmp_path / "run"))
    assert max(gaps[::4]) < 1e-4  # the first update of each batch
    likelihoods = [row["replay/nll"] for row in run.read_metrics()]
    state = torch.load(run.latest_checkpoint() / "rollout_state.pt", weights_only=False)["replay"]
    replay = ReplayBuffer(512, 4)
    replay.load_state_dict(state)
    assert all(m.prompt["constraints"]["n_sites"] for m in replay.draw(6, np.random.default_rng(0)))
    assert np.isfinite(likelihoods).all()
    check_tables(run)


def check_tables(run: RunFolder) -> None:
    """Groups share a prompt, constraints are met, the target of each reward is that of its sample."""
    frames = [pd.read_parquet(path) for path in run.sample_tables().values()]
    for frame in frames:
        assert frame["prompt"].tolist() == [i // 4 for i in range(16)]
        wanted = frame.groupby("prompt")[["condition_density", "requested_n_sites"]]
        assert (wanted.nunique() == 1).all(axis=None)
        assert (frame["requested_n_sites"].astype(int) == frame["n_sites"]).all()
        distance = frame["density.value"] - frame["condition_density"]
        np.testing.assert_allclose(frame["density.score"], 1 / (1 + distance**2))
    assert pd.concat(frames)["condition_density"].nunique() == 2


def test_a_policy_is_told_what_the_constraints_settle(policy: Path) -> None:
    model = load_policy(policy).model  # knows density and n_sites
    exact = Constraints(n_sites=4, formula="CaO")
    told = prompt_tensors(model, [Prompt(constraints=exact), Prompt(Conditions(n_sites=2), exact)]).conditions
    by_hand = [Prompt(Conditions(n_sites=4)), Prompt(Conditions(n_sites=2))]  # a condition counts first
    expected = prompt_tensors(model, by_hand).conditions
    assert told is not None
    assert expected is not None
    for name, values in vars(expected).items():
        assert torch.equal(getattr(told, name), values), name
    ranges = Constraints(n_sites=(2, 4), required=("Ca",), allowed=("Ca", "O"))
    assert prompt_tensors(model, [Prompt(constraints=ranges)]).conditions is None
    assert Prompt(constraints=exact).told(["formula"]) == Conditions(formula="CaO")
    system = Constraints(allowed=("Na", "O", "Cl"), required=("Na", "Cl"), forbidden=("O",))
    assert Prompt(constraints=system).told(["chemical_system"]) == Conditions(chemical_system="Cl-Na")
    dense = Prompt(constraints=Constraints(density="3.6..4.4"))
    assert dense.told(["density"]) == Conditions(density=4.0)
    assert dense.told(["n_sites"]) == Conditions()
    assert (
        Prompt(constraints=Constraints(density="2..6")).told(["density"]) == Conditions()
    )  # anything in it will do
    assert Prompt.from_data(json.loads(json.dumps(dense.as_data()))) == dense


def test_a_bare_policy_can_be_asked_for_sites(tmp_path: Path) -> None:
    """By construction, whatever it has learnt; and without the prompt it writes something else."""
    settings = TokenizerSettings(species=species_of(small_structures()), max_sites=MAX_SITES)
    torch.manual_seed(0)
    save_policy(build_model(settings, SHAPE), settings, tmp_path / "bare")
    loaded = load_policy(tmp_path / "bare")
    prompts = [Prompt(constraints=Constraints(n_sites=n)) for n in (1, 4) for _ in range(8)]
    asked = prompt_tensors(loaded.model, prompts)
    drawn = sample_many(loaded.model, 16, seed=0, batch_size=5, **asked.keywords)
    sizes = [len(loaded.codec.decode(row.tolist())) for row in drawn.ids]
    assert sizes == [1] * 8 + [4] * 8
    assert asked.conditions is None


def test_ppo_asks_each_completion_apart(policy: Path, tmp_path: Path) -> None:
    values = {"prompts": BOTH, "rl.algorithm": "ppo", "rl.steps": 1}
    run = RunFolder(finetune(small_config(policy, values), tmp_path / "run"))
    assert pd.read_parquet(run.sample_tables()[1])["prompt"].tolist() == list(range(16))


def test_a_run_with_prompts_has_several_groups() -> None:
    sets = ["prompts.constraints.n_sites=training"]
    assert load_config(FinetuneConfig).rl.group_size == 128
    assert load_config(FinetuneConfig, sets=sets).rl.group_size == 16
    assert load_config(FinetuneConfig, sets=[*sets, "rl.group_size=32"]).rl.group_size == 32
    assert load_config(FinetuneConfig, sets=[*sets, "rl.batch_size=8"]).rl.group_size == 8
    assert load_config(FinetuneConfig, sets=["prompts.constraints.n_sites=null"]).rl.group_size == 128


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts.conditions": {"band_gap": [1.0]}}, "has not learnt the condition band_gap"),
        ({"prompts.conditions": {"band_gap": "training"}}, "has not learnt the condition band_gap"),
        ({"prompts.conditions": {"gap": [1]}}, "unknown condition 'gap'"),
        ({"prompts.conditions": {"density": [-1]}}, "density=-1: Input should be greater than 0"),
        ({"prompts.constraints": {"n_sites": [9]}}, "but this policy writes 4 at most"),
        ({"prompts.constraints": {"n_sites": "all"}}, "expected a number such as 8 or a range"),
        ({"prompts.constraints": {"formula": ["Xy2"]}}, "not a formula"),
        ({"reward.expression": "density(target=prompt)"}, r"density\(target=prompt\) needs .* for nothing"),
        (
            {"reward.expression": "bandgap(target=prompt)", "prompts": BOTH},
            r"asked for band_gap, but they are asked for density, n_sites",
        ),
        ({"reward.expression": "novelty(target=prompt)", "prompts": BOTH}, "no prompt says what"),
        ({"reward.expression": "density(width=prompt)", "prompts": BOTH}, "not allowed"),
        ({"reward.expression": "density(target=prompt, curve=identity)"}, "no effect beside a curve"),
    ],
)
def test_wrong_prompts_end_before_the_run(
    policy: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune(small_config(policy, values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_policy_without_training_structures_says_what_to_do(policy: Path, tmp_path: Path) -> None:
    settings = TokenizerSettings(species=species_of(small_structures()), max_sites=MAX_SITES)
    save_policy(build_model(settings, SHAPE), settings, tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"policies index .*; or give values in place of training"):
        source(tmp_path / "bare", constraints={"n_sites": "training"})


def test_a_fine_tuned_policy_draws_from_the_same_structures(policy: Path, tmp_path: Path) -> None:
    run = finetune(small_config(policy, {"rl.steps": 1}), tmp_path / "run")
    ours = source(run, constraints={"n_sites": "training"}).draw(9, seed=0, stream=0)
    assert ours == source(policy, constraints={"n_sites": "training"}).draw(9, seed=0, stream=0)
