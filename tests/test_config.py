"""The config tree: precedence, messages, presets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from materium_rl.config import (
    CONFIGS,
    CompareConfig,
    FinetuneConfig,
    GenerateConfig,
    PretrainConfig,
    TokenizerConfig,
    dump_config,
    load_config,
    preset,
    save_config,
)
from materium_rl.errors import ConfigError
from materium_rl.tokenizer import TokenizerSettings

PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
ROOTS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}


def load_preset(name: str) -> PretrainConfig | FinetuneConfig:
    overrides = {"data": "train.csv"} if name.startswith("pretrain") else {}
    return load_config(ROOTS[name.split("_")[0]], [name], overrides)


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_loads_and_says_what_it_is_for(name: str) -> None:
    load_preset(name)
    assert preset(name).read_text().startswith("# ")


def test_presets_spell_out_the_defaults() -> None:
    """The class is the source of the defaults; the shipped files must not drift from it."""
    assert load_preset("finetune") == FinetuneConfig()
    assert load_preset("pretrain_nano") == PretrainConfig(data=Path("train.csv"))


def test_tokenizer_section_has_the_fields_and_defaults_of_the_tokenizer() -> None:
    settings = TokenizerSettings(species=("Fe",)).model_dump(exclude={"species", "version"})
    assert TokenizerConfig().model_dump(exclude={"oxidation"}) == settings


def test_precedence(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 1\nrl: {steps: 1, kl_coef: 1.0}\n")
    second.write_text("rl: {steps: 2}\n")
    files = [first, second]
    assert load_config(FinetuneConfig).rl.steps == FinetuneConfig().rl.steps
    config = load_config(FinetuneConfig, files)
    assert (config.seed, config.rl.steps, config.rl.kl_coef) == (1, 2, 1.0)
    assert load_config(FinetuneConfig, files, {"rl.steps": 3, "seed": None}).rl.steps == 3
    assert load_config(FinetuneConfig, files, {"rl.steps": 3, "seed": None}).seed == 1
    assert load_config(FinetuneConfig, files, {"rl.steps": 3}, ["rl.steps=4"]).rl.steps == 4


def test_values_are_yaml_1_2() -> None:
    """YAML 1.1 would read 1e-5 as a text and nobelium, No, as false."""
    sets = ["rl.learning_rate=1e-5", "policy=No", "reward.gates=[]", "reward.ray_address=null"]
    config = load_config(FinetuneConfig, sets=sets)
    assert config.rl.learning_rate == 1e-5
    assert config.policy == "No"
    assert config.reward.gates == ()
    assert config.reward.ray_address is None


def test_saved_config_loads_equal(tmp_path: Path) -> None:
    config = load_config(
        FinetuneConfig,
        overrides={"policy": "yes", "reward.plugins": [tmp_path / "a: b.py"]},
        sets=[
            "rl.learning_rate=1e-5",
            "reward.ray_address='123'",
            "reward.workers=1",
            "reward.expression='0.5*novelty + x(a=\"#\")'",
        ],
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(FinetuneConfig, [tmp_path / "config.yaml"]) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_dump_shows_every_field() -> None:
    text = dump_config(GenerateConfig())
    fields = [line.split(":")[0] for line in text.splitlines()]
    assert [field for field in fields if not field.startswith(" ")] == list(GenerateConfig.model_fields)
    nested = [field.strip() for field in fields if field.startswith(" ")]
    assert nested == list(GenerateConfig().constraints.model_dump())


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["rl.lerning_rate=1"], r"unknown key 'rl.lerning_rate'; did you mean 'learning_rate'\?"),
        (["sed=1"], r"unknown key 'sed'; did you mean 'seed'\?"),
        (["quux=1"], r"^unknown key 'quux'$"),
        (["seed"], r"--set 'seed': expected key=value"),
        (["=1"], r"--set '=1': expected key=value"),
        (["seed=[1"], r"--set 'seed=\[1'.*malformed YAML"),
        (["seed=-1"], r"seed: .*greater than or equal to 0 \(found -1\)"),
        (["seed=true_ish"], r"seed: .*integer.*\(found 'true_ish'\)"),
        (["rl.kl_coef=.nan"], r"rl.kl_coef: .*finite"),
        (["rl.batch_size=33", "rl.group_size=32"], r"rl: batch_size 33 must be a multiple of group_size 32"),
        (["rl=3", "rl.steps=4"], r"cannot set 'rl.steps': 'rl' is a value"),
    ],
)
def test_wrong_values_are_named(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, sets=sets)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(FinetuneConfig, sets=["seed=-1", "rl.stepps=3"])
    assert len(str(caught.value).splitlines()) == 2


def test_missing_data_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match=r"'data' is required.*--set data="):
        load_config(PretrainConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\n", r"bad\.yaml, line 2, column 1: malformed YAML"),
        ("seed: 1\nseed: 2\n", r"bad\.yaml, line 2.*duplicate key"),
        ("- 1\n", r"bad\.yaml: expected keys and values at the top, found list"),
        ("rl:\n  step: 3\n", r"unknown key 'rl.step'; did you mean 'steps'"),
        ("!!python/object/apply:os.system ['true']\n", r"bad\.yaml.*malformed YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, [path])


def test_unknown_files_and_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*gone\.yaml"):
        load_config(FinetuneConfig, [tmp_path / "gone.yaml"])
    with pytest.raises(ConfigError, match=r"did you mean 'finetune'"):
        load_config(FinetuneConfig, ["finetun"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read the config file .*binary\.yaml"):
        load_config(FinetuneConfig, [tmp_path / "binary.yaml"])


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(FinetuneConfig, [tmp_path / "empty.yaml"]) == FinetuneConfig()


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        FinetuneConfig().seed = 3


def test_compare_needs_two_policies() -> None:
    with pytest.raises(ConfigError, match=r"policies: .*at least 2"):
        load_config(CompareConfig, overrides={"policies": ["nano"]})


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"model: hidden_size 250 must be a multiple"):
        load_config(PretrainConfig, overrides={"data": "x"}, sets=["model.hidden_size=250"])
