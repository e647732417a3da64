"""``curve`` and ``risk`` of a term: any curve on any reward, and the worst score that a value may have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from materium_rl.cli import app
from materium_rl.config import FinetuneConfig, load_config
from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards.scoring import Scorer

PLUGIN = '''
from typing import ClassVar
from materium_rl.rewards.base import Measurement, Reward
from materium_rl.rewards.shaping import TargetWindow


def edge(structures):
    """Lattice length a."""
    return [s.lattice.a for s in structures]


def doubtful(structures, *, sigma=0.5):
    """Lattice length a, but only half of them with an uncertainty."""
    return [Measurement(s.lattice.a, sigma if s.lattice.a < 4.1 else None) for s in structures]


class Guess(Reward):
    """Lattice length a, uncertain by sigma."""

    name: ClassVar[str] = "guess"
    sigma: float = 0.5

    def shaping(self):
        return TargetWindow(target=4.0, width=1.0)

    def measure(self, structures):
        return [Measurement(s.lattice.a, self.sigma) for s in structures]


class Own(Guess):
    """A curve of its own kind."""

    name: ClassVar[str] = "own"

    def shaping(self):
        return lambda value: 0.25


class Curved(Guess):
    name: ClassVar[str] = "curved"
    curve: str = "no"


def risky(structures, *, risk=1.0):
    return [risk for _ in structures]
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "lengths.py"
    path.write_text(PLUGIN)
    return path


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def scores(plugin: Path, name: str, options: str, lengths: Sequence[float], **settings: Any) -> list[float]:
    scorer = Scorer(f'"{plugin}:{name}"({options})', **{"gates": (), **settings})
    (column,) = scorer.names
    return scorer.score([cell(a) for a in lengths]).scores(column).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("curve=linear(full=5, zero=3)", [0.0, 0.5, 1.0]),
        ('curve="linear(full=5, zero=3)"', [0.0, 0.5, 1.0]),
        ("curve=step(high=4.0)", [1.0, 1.0, 0.0]),
        ("curve=reverse(curve=window(target=4, width=1))", [0.5, 0.0, 0.5]),
        ("curve=reverse(curve='step(high=4)')", [0.0, 0.0, 1.0]),
        ("curve=reverse(curve=reverse(curve=step(high=4)))", [1.0, 1.0, 0.0]),
        ("curve=identity", [1.0, 1.0, 1.0]),
    ],
)
def test_any_curve_on_a_plain_function(plugin: Path, options: str, expected: list[float]) -> None:
    assert scores(plugin, "edge", options, [3.0, 4.0, 5.0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [0.5, 1.0, 0.8]),
        ("risk=1.0", [1 / (1 + 1.5**2), 0.8, 0.5]),
        ("risk=2, sigma=0.25", [1 / (1 + 1.5**2), 0.8, 0.5]),
        ("curve=linear(full=5, zero=3), risk=1", [0.0, 0.25, 0.5]),
        ("curve=linear(full=3, zero=5), risk=1", [0.75, 0.25, 0.0]),
        ("curve=reverse", [0.5, 0.0, 0.2]),
        ("curve=reverse(), risk=1", [0.2, 0.0, 0.0]),
        ("curve=step(low=2.9, high=4.2), risk=1", [0.0, 0.0, 0.0]),
        ("curve=step(low=2.5, high=4.5), risk=1", [1.0, 1.0, 0.0]),
    ],
)
def test_risk_takes_the_worst_within_reach(plugin: Path, options: str, expected: list[float]) -> None:
    assert scores(plugin, "Guess", options, [3.0, 4.0, 4.5]) == pytest.approx(expected)


def test_value_and_uncertainty_stay_as_measured(plugin: Path) -> None:
    (row,) = Scorer(f'"{plugin}:Guess"(risk=1)', gates=()).score([cell(3.0)])
    assert (row.terms["guess"].value, row.terms["guess"].uncertainty) == (3.0, 0.5)
    assert row.reward == pytest.approx(1 / (1 + 1.5**2))


def test_risk_needs_an_uncertainty(plugin: Path) -> None:
    with pytest.raises(RewardError, match=r"edge\(risk=1\): this reward gives no uncertainty"):
        scores(plugin, "edge", "risk=1.0", [3.0, 4.0])
    table = Scorer(f'"{plugin}:doubtful"(risk=1)', gates=()).score([cell(0.9), cell(5.0)])
    assert list(table.outcomes) == ["ok", "failed"]
    assert "risk=1 needs an uncertainty" in table.rows[1].reason


def test_a_gate_may_have_a_curve(plugin: Path) -> None:
    gate = f'"{plugin}:edge"(curve=linear(full=5, zero=3))'
    table = Scorer(f'"{plugin}:Guess"', gates=(gate,)).score([cell(4.0)])
    assert table.rewards == pytest.approx([0.5])
    both = Scorer(gate, gates=(f'"{plugin}:edge"',)).score([cell(4.0)])
    assert both.rewards == pytest.approx([0.25])
    for other in ("curve=step(low=1)", "risk=1"):
        with pytest.raises(ConfigError, match="different options"):
            Scorer(gate, gates=(f'"{plugin}:edge"({other})',))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("curve=windw(target=1, width=1)", "unknown curve 'windw'; did you mean 'window'"),
        ("curve=window(target=1, wdth=1)", "unknown parameter 'wdth'; did you mean 'width'"),
        ("curve=window(target=1)", "'width' is required"),
        ("curve=window(target='x', width=1)", "'target' = 'x'"),
        ("curve=sigmoid(low=3, high=1)", r"low \(3\) must be below high \(1\)"),
        ("curve=identity(target=1)", "unknown parameter 'target'; it has none"),
        ("curve=step(kind='step', low=1)", "unknown parameter 'kind'"),
        ("curve=reverse(curve=stp(low=1))", "unknown curve 'stp'; did you mean 'step'"),
        ("curve=window(target=1, width=1, curve=identity)", "unknown parameter 'curve'"),
    ],
)
def test_wrong_curves_are_refused(plugin: Path, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scorer(f'"{plugin}:edge"({options})', gates=())


@pytest.mark.parametrize("options", ["risk=1", "curve=reverse", "curve=reverse, risk=1"])
def test_what_a_foreign_curve_cannot_do_is_said(plugin: Path, options: str) -> None:
    assert scores(plugin, "Own", "", [3.0]) == [0.25]
    with pytest.raises(ConfigError, match="'own' has a curve of its own kind"):
        Scorer(f'"{plugin}:Own"({options})', gates=())
    assert scores(plugin, "Own", "curve=step(low=1), risk=1", [3.0]) == [1.0]


@pytest.mark.parametrize(("name", "option"), [("Curved", "curve"), ("risky", "risk")])
def test_reserved_options_are_refused(plugin: Path, name: str, option: str) -> None:
    with pytest.raises(
        RewardError, match=f"has an option '{option}', but curve and risk belong to every term"
    ):
        Scorer(f'"{plugin}:{name}"', gates=())


def test_command_line_and_yaml_give_the_same(plugin: Path, tmp_path: Path) -> None:
    expression = f'0.5*"{plugin}:Guess"(sigma=0.25, curve=double_sigmoid(low=1, high=3), risk=2)'
    gate = f'"{plugin}:edge"(curve=linear(full=5, zero=3))'
    out = tmp_path / "run"
    options = ["--reward", expression, "--gate", gate, "--run", str(out), "--dry-run"]
    printed = CliRunner().invoke(app, ["finetune", *options])
    assert printed.exit_code == 0, printed.output
    written = tmp_path / "written.yaml"
    written.write_text(f"reward:\n  expression: >-\n    {expression}\n  gates:\n  - '{gate}'\n")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(printed.stdout)
    configs = [load_config(FinetuneConfig, [path]).reward for path in (written, resolved)]
    assert configs[0] == configs[1]
    scorer = Scorer(**configs[0].model_dump())
    assert scorer.score([cell(3.0)]).scores("guess") == pytest.approx([0.5 * (1 + np.tanh(-10 * 0.25 / 2))])
    assert Scorer(scorer.expression, gates=()).expression == scorer.expression


def test_a_wrong_curve_ends_the_command_line_at_once(plugin: Path, tmp_path: Path) -> None:
    wrong = f'"{plugin}:edge"(curve=doublesigmoid(low=1, high=2))'
    result = CliRunner().invoke(app, ["finetune", "--reward", wrong, "--run", str(tmp_path / "run")])
    assert isinstance(result.exception, ConfigError)
    assert "did you mean 'double_sigmoid'" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_show_draws_the_curve_of_the_term_and_the_bench_takes_none(plugin: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["rewards", "show", "density(curve=reverse(curve=step(low=2, high=6)))"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("density(curve=reverse(curve=step(low=2, high=6)))")
    top = next(line for line in shown.stdout.splitlines() if line.startswith("  1 ┤"))
    columns = top.removeprefix("  1 ┤")
    assert columns.startswith("█")
    assert columns.endswith("█")
    assert "   " in columns
    checked = run.invoke(app, ["rewards", "check", "density(risk=1)"])
    assert "leave out curve and risk" in checked.output + str(checked.exception)
