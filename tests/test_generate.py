"""generate: deterministic, a complete folder or nothing; and policy folders that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from tiny import write_policy

import materium_rl.generate as generating
from materium_rl.config import GenerateConfig
from materium_rl.constraints import Constraints
from materium_rl.errors import PolicyError
from materium_rl.generate import generate
from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.structure_files import read_structures
from materium_rl.token_layout import TokenClass


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_policy(tmp_path / "policy")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_files(policy: Path, tmp_path: Path) -> None:
    one, two, other = (
        generate(GenerateConfig(policy=str(policy), n=6, seed=seed, out=tmp_path / name))
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert contents(one) == contents(two)
    assert contents(one)["generated.extxyz"] != contents(other)["generated.extxyz"]


def test_the_three_formats_hold_what_was_sampled(policy: Path, tmp_path: Path) -> None:
    out = generate(GenerateConfig(policy=str(policy), n=5, seed=1, batch_size=2, out=tmp_path / "out"))
    drawn = sample_many(load_policy(policy).model, 5, seed=1)
    table = pd.read_parquet(out / "generated.parquet")
    assert table["index"].tolist() == list(range(5))
    assert table["log_prob"].to_numpy() == pytest.approx(drawn.log_probs.sum(dim=1).numpy(), abs=1e-4)
    assert table["n_tokens"].tolist() == (drawn.ids != TokenClass.PAD).sum(dim=1).tolist()
    assert (table["n_tokens"] == 4 * table["n_sites"] + 8).all()
    expected = [load_policy(policy).codec.decode(row.tolist()).composition for row in drawn.ids]
    assert [row.structure.composition for row in read_structures(out / "generated.extxyz").rows] == expected
    assert sorted(p.name for p in (out / "cif").iterdir()) == [f"{i:06d}.cif" for i in range(5)]


def test_the_request_is_kept_beside_what_was_written(policy: Path, tmp_path: Path) -> None:
    constraints = Constraints(formula="CuAu", forbidden="Na,Cl", n_sites="3..4")
    out = generate(GenerateConfig(policy=str(policy), n=4, constraints=constraints, out=tmp_path / "out"))
    table = pd.read_parquet(out / "generated.parquet")
    assert table["requested_formula"].tolist() == ["CuAu"] * 4
    assert table["requested_n_sites"].tolist() == ["3..4"] * 4
    assert table["requested_forbidden"].tolist() == ["Na,Cl"] * 4
    assert "requested_allowed" not in table
    assert table["formula"].tolist() == ["CuAu"] * 4
    assert table["n_sites"].tolist() == [4] * 4
    for row in read_structures(out / "generated.extxyz").rows:
        assert row.properties["requested_formula"] == "CuAu"
        assert row.properties["requested_n_sites"] == "3..4"
        assert row.structure.composition.formula == "Cu2 Au2"


def test_interrupted_leaves_nothing_new(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(structures: object, path: Path, **_: object) -> None:
        if path.name == "cif":
            raise KeyboardInterrupt
        path.write_text("x")

    out = generate(GenerateConfig(policy=str(policy), n=2, out=tmp_path / "out"))
    before = contents(tmp_path)
    monkeypatch.setattr(generating, "write_structures", write)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            generate(GenerateConfig(policy=str(policy), n=2, out=folder))
    assert contents(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "policy"]


def no_tokenizer(policy: Path) -> None:
    (policy / "tokenizer_config.json").unlink()


def torn_tokenizer(policy: Path) -> None:
    (policy / "tokenizer_config.json").write_text('{"settings": {')


def foreign_tokenizer(policy: Path) -> None:
    (policy / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


def tokenizer_is_a_list(policy: Path) -> None:
    (policy / "tokenizer_config.json").write_text("[]")


def settings_of(policy: Path) -> dict[str, object]:
    return json.loads((policy / "tokenizer_config.json").read_text())


def another_version(policy: Path) -> None:
    tokenizer = settings_of(policy)
    tokenizer["settings"]["version"] = 99
    (policy / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def wrong_setting(policy: Path) -> None:
    tokenizer = settings_of(policy)
    tokenizer["settings"]["grid"] = 7
    (policy / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def another_tokenizer(policy: Path) -> None:
    tokenizer = settings_of(policy)
    tokenizer["settings"]["site_order"] = "xyz"
    (policy / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def truncated_weights(policy: Path) -> None:
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def empty_weights(policy: Path) -> None:
    (policy / "model.safetensors").write_bytes(b"")


def missing_weight(policy: Path) -> None:
    weights = load_file(policy / "model.safetensors")
    del weights["slot_embedding.weight"]
    save_file(weights, policy / "model.safetensors", metadata={"format": "pt"})


def other_shape(policy: Path) -> None:
    config = json.loads((policy / "config.json").read_text())
    config["intermediate_size"] = 96
    (policy / "config.json").write_text(json.dumps(config))


def torn_config(policy: Path) -> None:
    (policy / "config.json").write_text("{")


def foreign_config(policy: Path) -> None:
    (policy / "config.json").write_text('{"model_type": "llama"}')


DAMAGE = {
    no_tokenizer: "has no tokenizer_config.json",
    torn_tokenizer: "cannot load the policy",
    foreign_tokenizer: "no crystal tokenizer",
    tokenizer_is_a_list: "cannot load the policy",
    another_version: "tokenizer version 99, this program reads version 2",
    wrong_setting: "grid",
    another_tokenizer: "different token settings",
    truncated_weights: "cannot load the policy",
    empty_weights: "cannot load the policy",
    missing_weight: "lacks 1 weights .slot_embedding.weight.",
    other_shape: "cannot load the policy",
    torn_config: "cannot load the policy",
    foreign_config: "cannot load the policy",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_unusable_policy(policy: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(policy)
    with pytest.raises(PolicyError, match=DAMAGE[damage]) as caught:
        generate(GenerateConfig(policy=str(policy), n=2, out=tmp_path / "out"))
    assert str(policy) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]
