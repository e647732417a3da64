"""What the README and the documentation say: commands parse, the reward works, names and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from comparison_folder import write_comparison
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt
from small_run import write_run
from typer.testing import CliRunner

from materium_rl import cli
from materium_rl.config import (
    CompareConfig,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    Section,
    load_config,
    save_config,
)
from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries import export
from materium_rl.evaluation.report.page import write_report
from materium_rl.resources import POLICY_FILES, bundled_policies
from materium_rl.rewards import registry
from materium_rl.rewards.base import Measurement
from materium_rl.rewards.expression import parse
from materium_rl.structure_files import write_structures

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
DRY = ("pretrain", "finetune", "generate", "evaluate", "compare")
WRITE = ("discoveries", "export")
CONFIGS: dict[type[Section], dict[str, object]] = {
    FinetuneConfig: {},
    PretrainConfig: {"data": "x"},
    CompareConfig: {"policies": ("nano", "runs/x")},
    EvaluateConfig: {"source": "nano"},
}
"""Configs, and what each cannot do without."""
BUILT_IN = (
    "validity", "stability", "bandgap", "novelty", "uniqueness", "density", "hhi", "formation_energy",
    "magnetic_density", "bulk_modulus", "shear_modulus", "space_group", "force", "stress",
    "displacement", "matgl", "crystal_system", "symmetry_order", "n_sites", "n_elements", "volume_per_atom",
    "energy_per_atom", "composition", "composition_similarity", "structure_similarity", "prototype_novelty",
    "charge_neutrality", "smact_validity", "abundance",
)  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a page in one language ("" for none)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def commands() -> list[tuple[str, str]]:
    """Every ``materium-rl`` line of the fenced blocks: page name, arguments."""
    return [
        (page.name, line.removeprefix("materium-rl "))
        for page in PAGES
        for block in blocks(page, "")
        for line in block.splitlines()
        if line.startswith("materium-rl ")
    ]


def plugin(page: Path, folder: Path) -> Path:
    """The page's ``my_rewards.py``."""
    path = folder / "my_rewards.py"
    path.write_text(blocks(page, "python")[0], encoding="utf-8")
    return path


def test_reward_of_the_readme_measures_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FROM_FILES", {})
    assert registry.load_plugin(plugin(REPOSITORY / "README.md", tmp_path)) == ["volume"]
    (term,) = parse("volume(target=11)")
    reward = registry.create(term.name, term.options)
    iron = Structure(Lattice.cubic(2.866), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (result,) = reward.measure([iron])
    assert isinstance(result, Measurement)
    assert result.value == pytest.approx(11.77, abs=0.01)  # Å³, two atoms in 2.866³
    assert reward.shaping()(11.0) == 1.0
    assert reward.shaping()(12.0) == pytest.approx(0.5)  # one width off


def test_function_of_the_docs_measures_and_scores(tmp_path: Path) -> None:
    path = plugin(REPOSITORY / "docs" / "rewards.md", tmp_path)
    (term,) = parse(f'"{path}:lightness"(heaviest=8)')
    reward = registry.create(term.name, term.options)
    iron = Structure(Lattice.cubic(2.866), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (value,) = reward.measure([iron])
    assert value == pytest.approx(1 - 7.88 / 8, abs=0.002)
    assert reward.shaping()(value) == value


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_of_the_documentation_parses(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = shlex.split(line, comments=True)
    if arguments[0] in DRY[1:] and "nano" not in bundled_policies():
        pytest.skip("the bundled policy nano is not there yet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FROM_FILES", {})
    source = REPOSITORY / "docs" / page if (REPOSITORY / "docs" / page).is_file() else REPOSITORY / page
    if "my_rewards.py" in line:
        plugin(source, tmp_path)
    for name in ("train.csv.gz", "val.csv.gz"):
        (tmp_path / name).touch()
    if arguments[0] in WRITE:
        (tmp_path / "runs").mkdir()
        write_run(tmp_path).rename(tmp_path / "runs" / "x")
        write_structures([rock_salt()] * 3, tmp_path / "crystals")
        monkeypatch.setattr(export, "LEMAT_SAMPLES", 3)
    elif arguments[0] in ("generate", "compare", "evaluate"):
        if arguments[0] == "evaluate":
            write_structures([rock_salt()], tmp_path / "crystals")
        for seed, run in enumerate(("x", "a0", "a1", "a2", "b")):
            policy = tmp_path / "runs" / run / "checkpoints" / "step_000001" / "policy"
            policy.mkdir(parents=True)
            for name in POLICY_FILES:
                (policy / name).touch()
            (tmp_path / "runs" / run / "checkpoints" / "latest").write_text("step_000001")
            save_config(FinetuneConfig(seed=seed), tmp_path / "runs" / run / "config.yaml")
    elif arguments[0] == "report":
        write_report(write_comparison(tmp_path / "comparison"))
    before = sorted(tmp_path.rglob("*.*"))
    done = CliRunner().invoke(cli.app, [*arguments, *(["--dry-run"] if arguments[0] in DRY else [])])
    assert done.exception is None, f"{page}: {line}: {done.exception} {done.output}"
    assert done.output
    after = [path for path in sorted(tmp_path.rglob("*.*")) if "__pycache__" not in path.parts]
    assert after != before if "--out" in arguments and arguments[0] in WRITE else after == before


def test_settings_of_the_documentation_exist() -> None:
    found = [
        text.strip('"')
        for p in PAGES
        for text in re.findall(r"--set (\"[^\"]+\"|[^\s`]+=[^\s`]+)", p.read_text())
    ]
    found = [text for text in found if text != "key=value"]
    assert len(found) >= 3
    for text in found:
        errors = []
        for config, needed in CONFIGS.items():
            try:
                load_config(config, overrides=needed, sets=[text])
            except ConfigError as error:
                errors.append(str(error))
        assert len(errors) < len(CONFIGS), errors


def test_every_option_of_a_built_in_reward_is_described() -> None:
    text = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    for name in BUILT_IN:
        section = text.split(f"### {name}\n")[1].split("\n##")[0]
        for option in registry.options_of(registry.find(name)):
            assert f"`{option}`" in section, f"docs/rewards.md does not mention {option} of {name}"


def test_definitions_of_the_docs_are_those_of_the_reports() -> None:
    from materium_rl.evaluation.table import markdown_definitions

    assert markdown_definitions() in (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_links_and_make_targets_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            made_at_the_end = link.endswith("novelty_before_after.png") and "nano" not in bundled_policies()
            if not link.startswith("http") and not made_at_the_end:
                assert (page.parent / link).is_file(), f"{page.name}: {link}"
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        for target in re.findall(r"^(?:\$ )?make (\w+)|`make (\w+)`", text, re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
