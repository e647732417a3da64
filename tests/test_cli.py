"""The command line: what it resolves, and that wrong input ends in one message, exit code 2 and no files."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny import Command, in_process

from materium_rl import __version__
from materium_rl.config import FinetuneConfig
from materium_rl.errors import PolicyError, RewardError
from materium_rl.resources import POLICY_FILES
from materium_rl.rewards import registry
from materium_rl.runs import RunFolder

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGIN = '''
from typing import ClassVar
from materium_rl.rewards.base import Measurement, Reward
from materium_rl.rewards.shaping import Identity

class Sites(Reward):
    """Number of sites."""
    name: ClassVar[str] = "sites"
    unit: ClassVar[str] = "sites"
    scale: float = 1.0
    def measure(self, structures):
        return [Measurement(len(s) * self.scale) for s in structures]
    def shaping(self):
        return Identity()
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a policy ``pol``, a plugin, a data file, a run ``old`` and faulty files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FROM_FILES", {})
    (tmp_path / "pol").mkdir()
    for name in POLICY_FILES:
        (tmp_path / "pol" / name).write_text("{}")
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "data.csv").write_text("cif\n")
    (tmp_path / "bad.yaml").write_text("seed: [1\n")
    (tmp_path / "bad_key.yaml").write_text("rl:\n  lerning_rate: 1e-5\n")
    RunFolder.create(tmp_path / "old", FinetuneConfig(policy="pol", seed=5))
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``materium-rl`` in this process: (exit code, stdout, stderr)."""

    return in_process(monkeypatch, capsys)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}


FINETUNE = ("finetune", "--policy", "pol", "--run", "new", "--gate", "none")
PRETRAIN = ("pretrain", "--data", "data.csv")
GENERATE = ("generate", "--policy", "pol", "--out", "new")
SITES = ("--reward", "sites", "--plugin", "plugin.py")


def test_help_is_fast_and_lists_every_command() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "materium_rl.cli", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for name in (
        "pretrain", "finetune", "generate", "compare", "discoveries", "export", "rewards", "version",
    ):  # fmt: skip
        assert f"  {name} " in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = {"torch", "numpy", "pandas", "pydantic", "pymatgen", "ray", "transformers", "matgl", "chgnet"}
    code = "import sys, json, materium_rl.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(json.loads(done.stdout))


def test_dry_run_of_finetune_loads_no_torch(folder: Path) -> None:
    code = "import sys; from materium_rl import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *FINETUNE, *SITES, "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_version(run: Command) -> None:
    assert run("version") == (0, f"materium-rl {__version__}\n", "")


def test_algorithm_brings_its_preset(run: Command, folder: Path) -> None:
    def tree(*options: str) -> dict[str, object]:
        code, out, err = run(*FINETUNE, *SITES, *options, "--dry-run")
        assert (code, err) == (0, "")
        return YAML(typ="safe", pure=True).load(out)

    assert tree("--algorithm", "ppo") == tree("--config", "finetune_ppo")
    assert tree("--algorithm", "grpo") == tree()
    assert tree("--algorithm", "ppo", "--set", "rl.minibatches=2")["rl"]["minibatches"] == 2
    assert run(*FINETUNE, *SITES, "--algorithm", "pppo", "--dry-run")[0] == 2


def test_finetune_options_reach_the_config(run: Command, folder: Path) -> None:
    before = files(folder)
    code, out, err = run(
        *FINETUNE, "--reward", "0.5*sites(scale=2)", "--plugin", "plugin.py", "--steps", "3", "--seed", "4",
        "--workers", "2", "--ray-address", "auto", "--cache", "kept",
        "--set", "rl.learning_rate=1e-5", "--dry-run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    tree = YAML(typ="safe", pure=True).load(out)
    assert tree["policy"] == "pol"
    assert tree["seed"] == 4
    assert tree["rl"]["steps"] == 3
    assert tree["rl"]["learning_rate"] == 1e-5
    assert tree["reward"] | {"timeout": 0, "worker_memory": 0, "max_failed": 0} == {
        "expression": "0.5*sites(scale=2)",
        "gates": [],
        "aggregation": "geometric",
        "plugins": ["plugin.py"],
        "cache": "kept",
        "cache_limit": 1.0,
        "workers": 2,
        "timeout": 0,
        "worker_memory": 0,
        "max_failed": 0,
        "ray_address": "auto",
    }
    assert files(folder) == before


def test_dry_run_output_is_a_config_file(run: Command, folder: Path) -> None:
    _, out, _ = run(*FINETUNE, *SITES, "--steps", "3", "--dry-run")
    (folder / "again.yaml").write_text(out)
    assert run("finetune", "--run", "new", "--config", "again.yaml", "--dry-run") == (0, out, "")


def test_pretrain_preset_and_overrides(run: Command) -> None:
    code, out, _ = run(
        "pretrain", "--data", "data.csv", "--validation", "data.csv", "--preset", "base", "--run", "new",
        "--set", "model.layers=3", "--dry-run",
    )  # fmt: skip
    tree = YAML(typ="safe", pure=True).load(out)
    assert code == 0
    assert tree["model"]["hidden_size"] == 512
    assert tree["model"]["layers"] == 3
    assert tree["validation_data"] == "data.csv"


def test_generate_and_compare_dry_runs(run: Command, folder: Path) -> None:
    before = files(folder)
    code, out, _ = run("generate", "--policy", "pol", "-n", "5", "--temperature", "1.2", "--dry-run")
    assert (code, YAML(typ="safe", pure=True).load(out)["n"]) == (0, 5)
    code, out, _ = run(
        "generate", "--policy", "pol", "--elements", "Li,Fe,O", "--require", "Fe", "--forbid", "Pb",
        "--sites", "4..12", "--n-elements", "3", "--formula", "LiFeO2", "--density", "3.5..4.5",
        "--dry-run",
    )  # fmt: skip
    assert code == 0
    assert YAML(typ="safe", pure=True).load(out)["constraints"] == {
        "allowed": ["Li", "Fe", "O"],
        "required": ["Fe"],
        "forbidden": ["Pb"],
        "n_sites": [4, 12],
        "n_elements": [3, 3],
        "formula": "LiFeO2",
        "density": [3.5, 4.5],
    }
    (folder / "request.yaml").write_text(out)
    assert run("generate", "--config", "request.yaml", "--dry-run") == (0, out, "")
    (folder / "request.yaml").unlink()
    code, out, _ = run("compare", "pol", "./pol", "-n", "7", *SITES, "--set", "reward.gates=[]", "--dry-run")
    assert code == 0
    assert YAML(typ="safe", pure=True).load(out)["policies"] == ["pol", "./pol"]
    code, out, _ = run(
        "compare", "pol", "./pol", "--controls", "--max-calls", "9", "--trajectory", *SITES, "--dry-run"
    )
    tree = YAML(typ="safe", pure=True).load(out)
    assert (code, tree["trajectory"]) == (0, True)
    assert tree["controls"] == {"enabled": True, "temperature": 1.2, "max_calls": 9}
    assert files(folder) == before


def test_resume_takes_the_config_of_the_run(run: Command) -> None:
    code, out, _ = run(
        "finetune", "--run", "old", "--resume", *SITES, "--gate", "none", "--steps", "90", "--dry-run"
    )
    tree = YAML(typ="safe", pure=True).load(out)
    assert (code, tree["seed"], tree["rl"]["steps"]) == (0, 5, 90)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("pretrain", "--data", "gone.csv", "--run", "new"), r"--data: no file or folder at gone.csv"),
        ((*PRETRAIN, "--validation", "gone", "--run", "new"), r"--validation: no file"),
        (("pretrain", "--run", "new"), r"'data' is required"),
        ((*PRETRAIN, "--run", "new", "--preset", "tiny"), r"'tiny' is not one of 'nano'"),
        ((*PRETRAIN, "--run", "old"), r"run folder old already exists"),
        ((*FINETUNE, *SITES, "--config", "bad.yaml"), r"bad.yaml, line 2.*malformed YAML"),
        ((*FINETUNE, *SITES, "--config", "bad_key.yaml"), r"'rl.lerning_rate'; did you mean 'learning_rate'"),
        ((*FINETUNE, *SITES, "--config", "gone.yaml"), r"no config file at gone.yaml"),
        ((*FINETUNE, *SITES, "--config", "finetune_demoo"), r"did you mean 'finetune_demo'"),
        ((*FINETUNE, *SITES, "--set", "seed"), r"--set 'seed': expected key=value"),
        ((*FINETUNE, *SITES, "--steps", "0"), r"rl.steps: .*greater than or equal to 1"),
        ((*FINETUNE, *SITES, "--steps", "many"), r"--steps"),
        ((*FINETUNE, *SITES, "--setps", "3"), r"(?i)no such option.*--setps"),
        ((*FINETUNE, *SITES, "--reward", "sitess"), r"unknown reward 'sitess'; did you mean 'sites'"),
        ((*FINETUNE, "--reward", "sites(scal=1)", "--plugin", "plugin.py"), r"unknown option 'scal'"),
        ((*FINETUNE, "--reward", "__import__('os').system('touch hacked')"), r"wrong reward expression"),
        ((*FINETUNE, *SITES, "--ray-address", "auto"), r"reward: ray_address needs workers"),
        ((*FINETUNE, *SITES, "--gate", "bandgap"), r"--gate none cannot be combined"),
        ((*FINETUNE, *SITES, "--plugin", "gone.py"), r"gone.py does not exist"),
        (("finetune", "--policy", "poll", "--run", "new"), r"no policy 'poll'"),
        (("finetune", "--policy", "old", "--run", "new"), r"no policy in old"),
        (("finetune", "--policy", "pol", *SITES, "--gate", "sites", "--run", "old"), r"add --resume"),
        ((*FINETUNE, *SITES, "--resume"), r"nothing to resume at new"),
        (("finetune", "--policy", "pol"), r"Missing option '--run'"),
        (("generate", "--policy", "pol", "-n", "0", "--out", "new"), r"n: .*greater than or equal to 1"),
        (("generate", "--policy", "pol", "--out", "old"), r"folder old is not empty; add --overwrite"),
        (("generate", "--policy", "pol", "--out", "data.csv"), r"data.csv is a file"),
        ((*GENERATE, "--elements", "Li,fe"), r"'fe' is not an element: .*did you mean 'Fe'"),
        ((*GENERATE, "--elements", ""), r"constraints.allowed: '' is not an element"),
        ((*GENERATE, "--require", "Fe", "--forbid", "Fe,Pb"), r"constraints: Fe both required and forbidden"),
        ((*GENERATE, "--require", "Fe", "--elements", "Li,O"), r"Fe required but not among the allowed"),
        ((*GENERATE, "--elements", "Li,O", "--forbid", "Li,O"), r"every allowed element is also forbidden"),
        ((*GENERATE, "--sites", "12..4"), r"constraints.n_sites: an empty range: 12..4"),
        ((*GENERATE, "--sites", "0"), r"constraints.n_sites: an empty range: 0..0"),
        ((*GENERATE, "--sites", "few"), r"constraints.n_sites: expected a number such as 8 or a range"),
        ((*GENERATE, "--sites", "4-12"), r"a range such as 4..12 .found '4-12'"),
        ((*GENERATE, "--require", "Li,Fe,O", "--n-elements", "2"), r"3 elements required, but n_elements is"),
        ((*GENERATE, "--require", "Li,Fe,O", "--sites", "1..2"), r"3 elements required, but n_sites is at"),
        ((*GENERATE, "--n-elements", "3", "--sites", "2"), r"at least 3, but n_sites is at most 2"),
        ((*GENERATE, "--n-elements", "3", "--elements", "Li,O"), r"at least 3, but only 2 may occur"),
        ((*GENERATE, "--formula", "LiFeO2", "--sites", "5..7"), r"no multiple of the 4 sites of LiFeO2"),
        ((*GENERATE, "--formula", "LiFeO2", "--forbid", "O"), r"formula LiFeO2 holds O, which may not occur"),
        ((*GENERATE, "--formula", "LiFeO2", "--require", "Cl"), r"Cl required but not in the formula LiFeO2"),
        ((*GENERATE, "--formula", "LiFeO2", "--n-elements", "2"), r"has 3 elements, outside n_elements 2..2"),
        ((*GENERATE, "--formula", "LiFeO2.5"), r"'LiFeO2.5' is not a formula: expected elements and whole"),
        ((*GENERATE, "--formula", "rust"), r"'rust' is not a formula"),
        ((*GENERATE, "--formula", ""), r"'' is not a formula"),
        ((*GENERATE, "--set", "constraints.sites=4"), r"'constraints.sites'; did you mean 'n_sites'"),
        (("compare", "pol", "--out", "new"), r"policies: .*at least 2"),
        (("compare", "pol", "gone", "--out", "new"), r"no policy 'gone'"),
        (("compare", "pol", "pol,./pol", "--out", "new"), r"'pol' is no fine-tuning run; only runs of one"),
        (("compare", "pol", "./pol", "--max-calls", "9"), r"controls: max_calls .* add --controls"),
        (("rewards", "show", "quux"), r"unknown reward 'quux'"),
        (("trane",), r"No such command 'trane'"),
    ],
)  # fmt: skip
def test_wrong_input(run: Command, folder: Path, args: tuple[str, ...], message: str) -> None:
    before = files(folder)
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (PolicyError("pol has no tokenizer"), 2, "error: pol has no tokenizer\n"),
        (RewardError("the hull is gone"), 1, "error: the hull is gone\n"),
        (
            OSError(28, "No space left on device", "new/x"),
            1,
            "error: [Errno 28] No space left on device: 'new/x'\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    run: Command, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, message: str
) -> None:
    def finetune(*args: object, **flags: object) -> None:
        raise raised

    module = types.ModuleType("materium_rl.rl.finetune")
    module.finetune = finetune
    monkeypatch.setitem(sys.modules, "materium_rl.rl.finetune", module)
    assert run(*FINETUNE, *SITES) == (code, "", message)


def test_command_passes_everything_on(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    module = types.ModuleType("materium_rl.rl.finetune")
    module.finetune = lambda *args, **flags: calls.append((*args, flags))
    monkeypatch.setitem(sys.modules, "materium_rl.rl.finetune", module)
    assert run("finetune", "--run", "old", "--overwrite", *SITES, "--gate", "none", "--policy", "pol")[0] == 0
    ((config, path, flags),) = calls
    assert (config.policy, config.reward.gates, path) == ("pol", (), Path("old"))
    assert flags == {"resume": False, "overwrite": True}


def test_rewards_list_and_show(run: Command) -> None:
    code, out, _ = run("rewards", "list", "--plugin", "plugin.py")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("sites"))
    assert line.split()[1:3] == ["sites", "structure"]
    code, out, _ = run("rewards", "show", "sites", "--plugin", "plugin.py")
    assert code == 0
    assert "Number of sites." in out
    assert "scale: float = 1.0" in out


def test_reward_of_the_readme_works(run: Command, folder: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (folder / "my_rewards.py").write_text(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1])
    code, _, err = run(
        *FINETUNE, "--plugin", "my_rewards.py", "--reward", "novelty + volume(target=9)", "--dry-run"
    )
    assert (code, err) == (0, "")
