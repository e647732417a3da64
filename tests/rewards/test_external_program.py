"""Programs as rewards: whatever they do, one outcome per structure, and no process is left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.catalogue.external_program import External
from materium_rl.rewards.scoring import Scorer

PROGRAM = Path(__file__).parent / "plugins" / "program.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "packing_fraction.py"
MARK = 4.44


def command(mode: str, *more: str) -> str:
    return shlex.join([sys.executable, str(PROGRAM), mode, *more])


def external(mode: str, *more: str, **options: Any) -> External:
    reward = registry.create("external", {"command": command(mode, *more), "timeout": 20.0, **options})
    assert isinstance(reward, External)
    return reward


def cells(*lengths: float) -> list[Structure]:
    return [Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a in lengths]


def lengths_and_culprit(results: list[Any]) -> tuple[list[Any], str]:
    """Values with None for the failure, and its reason."""
    (reason,) = [result.reason for result in results if isinstance(result, Failure)]
    return [getattr(result, "value", None) for result in results], reason


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_answers_and_the_process_stays_between_batches() -> None:
    reward = external("ok")
    first, second = reward.measure(cells(3.0, 3.5)), reward.measure(cells(4.0))
    assert [result.value for result in [*first, *second]] == [3.0, 3.5, 4.0]
    assert first[0].uncertainty == 0.1
    assert len({result.details["pid"] for result in [*first, *second]}) == 1


def test_answers_in_another_order_and_twice() -> None:
    lengths = [3.0 + 0.01 * i for i in range(64)]
    results = external("late", "64", in_flight=64).measure(cells(*lengths))
    assert [result.value for result in results] == lengths


def test_rubbish_and_huge_outputs_are_passed_over() -> None:
    assert [r.value for r in external("rubbish").measure(cells(3.0, 3.1, 3.2))] == [3.0, 3.1, 3.2]


def test_as_cif() -> None:
    assert [r.value for r in external("ok", send="cif").measure(cells(3.25))] == [3.25]


def test_only_the_structure_that_hangs_fails_and_its_children_are_killed() -> None:
    reward = external("hang", timeout=2.0)
    values, reason = lengths_and_culprit(reward.measure(cells(3.0, MARK, 3.2, 3.3)))
    assert values == [3.0, None, 3.2, 3.3]
    assert reason.startswith("no answer within 2 s; stderr: ")
    child = int(re.search(r"child (\d+)$", reason)[1])
    wait_until(lambda: not alive(child))


def test_only_the_structure_that_kills_the_program_fails() -> None:
    values, reason = lengths_and_culprit(external("die").measure(cells(3.0, MARK, 3.2)))
    assert values == [3.0, None, 3.2]
    assert reason.startswith("the program ended with exit code 9; stderr: ")
    assert reason.endswith("out of licences")


def test_a_program_that_ended_while_idle_is_started_again() -> None:
    reward = external("quit")
    for a in (3.0, 3.1, 3.2):
        (result,) = reward.measure(cells(a))
        assert result.value == a
        pid = result.details["pid"]
        wait_until(lambda pid=pid: not alive(pid))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nan", "returned nan; expected a finite number"),
        ("text", "returned str 'big'; expected a number"),
        ("two", "answered with value, error; expected one of value, invalid, error"),
        ("nothing", "answered with id, valeu; expected one of value"),
        ("details", "answered with details [1]; expected an object"),
        ("unit", "answered in 'K'; expected 'GPa'"),
        ("no_id", 'answered without the id of a request: {"value": '),
        ("error", "did not converge"),
    ],
)
def test_a_wrong_answer_is_a_failure_of_that_structure(kind: str, said: str) -> None:
    values, reason = lengths_and_culprit(external(f"odd_{kind}", unit="GPa").measure(cells(3.0, MARK, 3.2)))
    assert values == [3.0, None, 3.2]
    assert reason.startswith(said)
    assert "; stderr: " in reason


def test_invalid_is_the_policys_fault() -> None:
    first, second, third = external("odd_invalid").measure(cells(3.0, MARK, 3.2))
    assert (first.value, second, third.value) == (3.0, Invalid("atoms overlap"), 3.2)


def test_what_cannot_be_written_as_json_is_not_sent() -> None:
    results = external("ok").measure([bad for _, bad in zoo.unreadable().values()])
    assert [type(result) for result in results] == [Invalid] * 3


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("stubborn", "no answer within 1 s; stderr: waiting for a queue"),
        ("gone", "the program ended with exit code 1; stderr: no licence"),
    ],
)
def test_a_program_that_never_answers_fails_everything(mode: str, said: str) -> None:
    results = external(mode, timeout=1.0, in_flight=1).measure(cells(3.0, 3.1))
    assert [result.reason for result in results] == [said, said]


def test_wrong_commands_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a program"):
        registry.create("external", {"command": " "})
    with pytest.raises(ConfigError, match="No closing quotation"):
        registry.create("external", {"command": "sh 'x"})
    reward = registry.create("external", {"command": "no_such_program_anywhere --fast"})
    with pytest.raises(RewardError, match=r"'no_such_program_anywhere' cannot be started.*a full path"):
        reward.load()


def test_the_process_ends_with_the_reward() -> None:
    reward = external("ok")
    pid = reward.measure(cells(3.0))[0].details["pid"]
    assert alive(pid)
    del reward
    wait_until(lambda: not alive(pid))


def test_no_child_survives_when_this_process_is_killed() -> None:
    """As when a worker is killed by signal 9 in the middle of a hang."""
    code = (
        "from materium_rl.rewards import registry\n"
        f"reward = registry.create('external', {{'command': {command('stubborn')!r}}})\n"
        "reward.load(); print(reward._program._process.pid, flush=True)\n"
        "import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))


def test_in_an_expression_next_to_others() -> None:
    text = f"external(command={command('die')!r}, target=3.0, width=0.5) + density"
    with Scorer(text, gates=(), shared=()) as scorer:
        table = scorer.score(cells(3.0, 3.5, MARK))
    assert table.outcomes.tolist() == ["ok", "ok", "failed"]
    assert table.scores("external")[:2] == pytest.approx([1.0, 0.5])
    assert table.rows[2].reason.startswith("external: the program ended with exit code 9")


def test_time_limit_of_the_chunk_stops_the_program_too() -> None:
    text = f"external({command('hang')!r}, in_flight=1)"
    with Scorer(text, gates=(), shared=(), timeout=2.0) as scorer:
        table = scorer.score(cells(3.0, MARK, 3.2))
    assert table.outcomes.tolist() == ["ok", "failed", "ok"]
    assert "time limit of 2 s" in table.rows[1].reason


def test_example_program_has_known_answers() -> None:
    reward = registry.create("external", {"command": shlex.join([sys.executable, str(EXAMPLE)])})
    salt, caesium = reward.measure([zoo.crystals()["NaCl"], zoo.crystals()["CsCl"]])
    assert isinstance(salt, Measurement)
    assert salt.value == pytest.approx(4 * 4.18879 * (1.8**3 + 1.0**3) / 5.640**3, rel=1e-5)
    assert isinstance(caesium, Failure)
    assert caesium.reason == "no radius for Cs"
