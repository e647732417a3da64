"""A plugin from the first file to the installed package, as its author goes through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import Command, in_process

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.bench.isolation import HANG
from materium_rl.rewards.bench.report import CASES, check_here
from materium_rl.rewards.describe import draw, interesting
from materium_rl.rewards.expression import Term, parse_one
from materium_rl.rewards.scaffold import write_reward
from materium_rl.rewards.shaping import Identity, Interval, SoftStep, TargetWindow

EXAMPLE = Path(__file__).parents[2] / "examples" / "reward_plugin"
FAULTS = Path(__file__).parent / "plugins" / "faults.py"

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FROM_FILES", {})
    monkeypatch.setenv("COLUMNS", "200")
    return in_process(monkeypatch, capsys, "rewards")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """The example package, built and installed by pip into a folder of its own; runs Python with it."""
    folder = tmp_path_factory.mktemp("example")
    source, target = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _python([*pip, "--target", str(target), str(source)], folder)

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return _python(list(arguments), source, path=target)

    return python


def _python(arguments: list[str], folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, [str(path or ""), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_example_package_is_found_and_passes_the_bench(installed: Python) -> None:
    listed = installed("materium_rl.cli", "rewards", "list").stdout
    line = next(line for line in listed.splitlines() if line.startswith("cathode_capacity"))
    assert line.split()[1:] == ["mAh/g", "structure", "-", "battery-reward", "0.1.0"]
    checked = installed(
        "materium_rl.cli", "rewards", "check", "cathode_capacity(ion='Na')", "--json", "out.json"
    )
    assert f"pass ({len(CASES) + 1} pass, 0 warn, 0 fail)" in checked.stdout


def test_example_packages_own_tests_pass(installed: Python) -> None:
    assert "10 passed" in installed("pytest", "-q", "-p", "no:cacheprovider", "tests").stdout


def test_new_writes_a_reward_and_a_test_that_passes(run: Command, tmp_path: Path) -> None:
    code, out, _ = run("new", "cell_size", "--folder", "mine")
    assert code == 0
    assert "materium-rl rewards check cell_size --plugin mine/cell_size.py" in out
    done = _python(["pytest", "-q", "-p", "no:cacheprovider", "mine/test_cell_size.py"], tmp_path)
    assert "4 passed" in done.stdout
    assert registry.create(f"{tmp_path}/mine/cell_size.py:CellSize", {"target": 9}).shaping()(9.0) == 1.0
    before = {path: path.read_text() for path in (tmp_path / "mine").glob("*.py")}
    code, _, err = run("new", "cell_size", "--folder", "mine")
    assert code == 2
    assert "is there already" in err
    assert {path: path.read_text() for path in (tmp_path / "mine").glob("*.py")} == before


@pytest.mark.parametrize("name", ["Hardness", "2d", "lambda", "a-b", "", "_x", "../x", "bandgap"])
def test_new_refuses_wrong_and_taken_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot name a reward|is taken by materium-rl"):
        write_reward(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_check_prints_a_table_and_writes_json(run: Command, tmp_path: Path) -> None:
    """And the process of its own finds what this one does."""
    code, out, _ = run("check", "density(target=3)", "--json", "found.json")
    assert code == 0
    assert out.splitlines()[-1] == f"density(target=3): pass ({len(CASES) + 1} pass, 0 warn, 0 fail)"
    found = json.loads((tmp_path / "found.json").read_text())
    here = check_here("density(target=3)", lambda: registry.create("density", {"target": 3}))
    hang = {"case": HANG, "verdict": "pass", "reason": "stopped after 1 s; a new process measures the same"}
    assert found == {**here.as_dict(), "cases": [*here.as_dict()["cases"], hang]}


def test_check_of_a_broken_reward_exits_with_1(run: Command) -> None:
    code, out, _ = run("check", f"{FAULTS}:Fault(kind='load')")
    assert code == 1
    (row,) = [line for line in out.splitlines() if line.startswith("│ load")]
    assert "fail" in row
    assert "model.pt" in row


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "densiti"), "did you mean 'density'"),
        (("check", "density", "--plugin", "gone.py"), "--plugin: no file at gone.py"),
        (("check", "density + hhi"), "expected one reward without a weight"),
        (("show", "2*density"), "expected one reward without a weight"),
        (("show", "density(targe=2)"), "did you mean 'target'"),
        (("show", "gone.py:Hardness"), "gone.py does not exist"),
    ],
)
def test_wrong_targets_are_usage_errors(run: Command, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert said in err


def test_show_has_options_facts_and_the_curve(run: Command, tmp_path: Path) -> None:
    code, out, _ = run("show", "density(target=3, width=1)")
    assert code == 0
    assert out.startswith("density(target=3, width=1)\n")
    assert "  target: float = 5.0  wanted density, g/cm³" in out
    assert "unit: g/cm³\nscope: structure\nfrom: materium-rl " in out
    assert "score of the value in g/cm³:" in out
    assert "█" in out
    (tmp_path / "mine.py").write_text(
        "def light(structures, *, heaviest):\n    '''How light.'''\n    return [0.5 for _ in structures]\n"
    )
    code, out, _ = run("show", "mine.py:light")
    assert code == 0
    assert "How light." in out
    assert "from: mine.py" in out
    assert "heaviest: Any required" in out
    assert "add heaviest=... to see it" in out


def test_drawing_of_a_curve() -> None:
    rows = draw(SoftStep(full=0.0, zero=1.0)).splitlines()
    assert interesting(SoftStep(full=0.0, zero=1.0)) == (-1.0, 2.0)
    filled = [row.count("█") for row in rows[:8]]
    assert filled == sorted(filled)  # the lower the row, the more of it lies under the curve
    assert rows[0].startswith("  1 ┤" + "█" * 20)
    assert not rows[0].endswith("█" * 25)
    assert rows[-1].split() == ["-1", "0.5", "2"]


def test_drawing_finds_narrow_windows_and_single_values() -> None:
    low, high = interesting(TargetWindow(target=900.0, width=0.01))
    assert 899 < low < 900 < high < 901
    spike = draw(Interval(low=225, high=225)).splitlines()
    assert [row.count("█") for row in spike[:8]] == [1] * 8
    assert interesting(Identity()) == (0.0, 1.0)


def test_one_reward_with_and_without_quotes() -> None:
    expected = Term("a b/x.py:Hard", {"k": 1})
    assert parse_one("a b/x.py:Hard(k=1)") == parse_one('"a b/x.py:Hard"(k=1)') == expected
    assert parse_one("x.py:f") == Term("x.py:f")
    assert parse_one("density") == Term("density")
