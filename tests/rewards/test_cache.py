"""The cache of measurements: equal tables, no stale and no failed value, no fault that scoring feels."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile
from typer.testing import CliRunner

from materium_rl.cli import app
from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result
from materium_rl.rewards.execution import cache as cache_module
from materium_rl.rewards.execution import provenance
from materium_rl.rewards.execution.cache import (
    FILE,
    RESULTS,
    CacheSettings,
    MeasurementCache,
    codec_of,
    content_digests,
)
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.scoring import Scorer

PLUGIN = '''
from enum import Enum
from typing import ClassVar

from materium_rl.rewards.base import Failure, Invalid, Measurement, Reward
from materium_rl.rewards.shaping import Identity

CALLS = []
BROKEN = [False]


class Grade(Enum):
    FINE = "fine"


class Edge(Reward):
    """Lattice length a over 10, below 3 invalid; fails while BROKEN, and above 6."""

    name: ClassVar[str] = "edge"
    shift: float = 0.0
    model: str = ""

    def shaping(self):
        return Identity()

    def measure(self, structures):
        CALLS.append(len(structures))
        return [self.one(s.lattice.a) for s in structures]

    def one(self, a):
        if BROKEN[0] or a > 6:
            return Failure("no luck")
        if a < 3:
            return Invalid(f"{a:g} is short")
        return Measurement(a / 10 + self.shift, 0.1 / 3, {"grade": Grade.FINE, "digits": 1 / a, "n": 3})


def chance(structures):
    CALLS.append(len(structures))
    return [0.5] * len(structures)


chance.cacheable = False
'''
FAULTS = Path(__file__).parent / "plugins" / "faults.py"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "edges.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def module(plugin: Path) -> Any:
    return registry._module(plugin)


def edge(plugin: Path, options: str = "") -> str:
    return f'"{plugin}:Edge"({options})'


def table(plugin: Path, batch: Sequence[Any], folder: Path | None, options: str = "", **more: Any) -> Any:
    scorer = Scorer(edge(plugin, options), **{"gates": (), "chunk_size": 4, "cache": folder, **more})
    scored = scorer.score(batch)
    scorer.close()
    return scored


BATCH = [cell(a) for a in (3.1, 4.2, 2.5, 3.1, 7.0, 5.3, 3.3)]


def test_second_table_is_equal_to_the_byte_and_measures_only_failures(plugin: Path, folder: Path) -> None:
    plain = table(plugin, BATCH, None)
    first = table(plugin, BATCH, folder)
    calls = module(plugin).CALLS
    calls.clear()
    second = table(plugin, [Structure.from_dict(s.as_dict()) for s in BATCH], folder)
    assert calls == [1]  # the failure
    assert list(second.outcomes) == ["ok", "ok", "invalid", "ok", "failed", "ok", "ok"]
    frames = [t.to_frame() for t in (plain, first, second)]
    assert frames[0].to_csv() == frames[1].to_csv() == frames[2].to_csv()
    assert frames[1].equals(frames[2])
    assert [row.shared for row in first] == [row.shared for row in second]


def test_equal_structures_are_measured_once(plugin: Path, folder: Path) -> None:
    module(plugin).CALLS.clear()
    table(plugin, [cell(4.0)] * 6, folder)
    assert module(plugin).CALLS == [1]


def test_a_failure_is_measured_again(plugin: Path, folder: Path) -> None:
    module(plugin).BROKEN[0] = True
    assert list(table(plugin, [cell(4.0)], folder).outcomes) == ["failed"]
    module(plugin).BROKEN[0] = False
    assert list(table(plugin, [cell(4.0)], folder).outcomes) == ["ok"]


def test_what_the_author_calls_random_is_always_measured(plugin: Path, folder: Path) -> None:
    for _ in range(2):
        module(plugin).CALLS.clear()
        Scorer(f'"{plugin}:chance"', gates=(), cache=folder).score([cell(4.0), cell(4.0)])
        assert module(plugin).CALLS == [2]


def test_another_option_version_or_source_is_another_measurement(
    plugin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert table(plugin, [cell(4.0)], folder).rewards == pytest.approx([0.4])
    assert table(plugin, [cell(4.0)], folder, "shift=0.1").rewards == pytest.approx([0.5])
    module(plugin).CALLS.clear()
    monkeypatch.setattr(module(plugin).Edge, "version", "2")
    table(plugin, [cell(4.0)], folder)
    assert module(plugin).CALLS == [1]
    plugin.write_text(PLUGIN.replace("a / 10", "a / 5"))
    assert table(plugin, [cell(4.0)], folder).rewards == pytest.approx([0.4])  # still the loaded source
    registry._MODULES.pop(plugin.resolve())  # as in a new process
    assert table(plugin, [cell(4.0)], folder).rewards == pytest.approx([0.8])


@pytest.mark.parametrize("text", ["{}", "{}/weights.bin", "matgl:{}", "python {}/weights.bin --fast"])
def test_a_changed_file_that_an_option_names_is_another_measurement(
    plugin: Path, folder: Path, tmp_path: Path, text: str
) -> None:
    weights = tmp_path / "model" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    option = f'model="{text.format(weights.parent)}"'
    counts = []
    for content in (b"1", b"1", b"12"):
        if weights.read_bytes() != content:
            weights.write_bytes(content)
        module(plugin).CALLS.clear()
        table(plugin, [cell(4.0)], folder, option)
        counts.append(len(module(plugin).CALLS))
    assert counts == [1, 0, 1]


def test_another_library_version_is_another_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = registry.create("density", {})
    before = provenance.of_reward(reward)
    assert before == provenance.of_reward(registry.create("density", {"target": 5.0}))
    assert "pymatgen" in provenance.environment()
    monkeypatch.setattr(provenance, "environment", lambda: "chgnet 0.5")
    assert provenance.of_reward(reward) != before


def test_a_measurement_hangs_on_the_source_of_whole_packages(tmp_path: Path, plugin: Path) -> None:
    """Of the one that the reward is in, and of one that an option names."""
    package = tmp_path / "some_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "hard.py").write_text("from some_rewards import constants\n")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from materium_rl.rewards import registry
        from materium_rl.rewards.execution.provenance import of_reward, source_digest
        print(source_digest("some_rewards.hard"))
        print(of_reward(registry.create("{plugin}:Edge", {{"model": "some_rewards.hard:make"}})))
        print(of_reward(registry.create("{plugin}:Edge", {{"model": "no_such_package:make"}})))
    """
    digests = []
    for constant in ("1", "2"):
        (package / "constants.py").write_text(f"X = {constant}\n")
        run = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(run, check=True, capture_output=True, text=True)
        digests.append(done.stdout.splitlines())
    assert [a == b for a, b in zip(*digests, strict=True)] == [False, False, True]


def test_content_is_compared_to_the_bit() -> None:
    salt, moved = rock_salt(), rock_salt()
    moved.translate_sites([0], [0.0, 0.0, 1e-15])
    swapped = Structure(salt.lattice, salt.species[::-1], salt.frac_coords)
    stretched = Structure(salt.lattice.matrix * (1 + 1e-15), salt.species, salt.frac_coords)
    charged = salt.copy()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    digests = content_digests([salt, salt.copy(), moved, swapped, stretched, charged])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


FLOATS = st.floats(allow_nan=False)
DETAILS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | FLOATS | st.text())


@given(
    st.builds(Invalid, st.text())
    | st.builds(Measurement, st.floats(allow_nan=False, allow_infinity=False), st.none() | FLOATS, DETAILS)
)
def test_results_come_back_to_the_bit(result: Result) -> None:
    again = RESULTS.decode(str(RESULTS.encode(result)))
    assert again == result
    assert repr(again) == repr(result)  # -0.0, 1 against 1.0 against True, the order of details


def test_shared_work_comes_back_and_failures_do_not() -> None:
    found = prototypes([rutile()])[0]
    for kind, result in ((Prototype, found), (float, -4.1 / 3), (float, -0.0)):
        assert repr(codec_of(kind).decode(str(codec_of(kind).encode(result)))) == repr(result)
        assert codec_of(kind).encode(Failure("no")) is None
    assert RESULTS.encode(Failure("no")) is None
    details = Measurement(1.0, None, {"x": math.nan, "y": -math.inf})
    assert repr(RESULTS.decode(str(RESULTS.encode(details)))) == repr(details)


def test_shared_work_is_not_done_again(plugin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from materium_rl.rewards import prototypes as searches

    table(plugin, BATCH, folder)
    monkeypatch.setattr(searches, "_prototype", lambda *_: pytest.fail("a stored prototype was sought again"))
    scored = table(plugin, BATCH, folder)
    assert scored.rows[0].labels["prototype"] == "A_229_A:2(m-3m)"


# ---- faults -------------------------------------------------------------------------------------


def damage(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)


def overwrite_header(path: Path) -> None:
    damage(path, 0, b"this is no database at all" * 10)


def overwrite_pages(path: Path) -> None:
    damage(path, 100, np.random.default_rng(0).bytes(path.stat().st_size - 100))


def truncate(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def change_a_digit(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        changed = connection.execute("UPDATE results SET result = replace(result, '0.4', '0.9')").rowcount
    connection.close()
    assert changed


def rename_a_column(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE results RENAME COLUMN checksum TO control")
    connection.close()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (overwrite_header, "not a database"),
        (overwrite_pages, "malformed"),
        (truncate, "malformed"),
        (replace_by_folder, "unable to open"),
        (change_a_digit, "checksum"),
        (rename_a_column, "no such column: checksum"),
    ],
)
def test_a_damaged_file_costs_one_warning(plugin: Path, folder: Path, fault: Any, cause: str) -> None:
    expected = table(plugin, BATCH, folder).to_frame()
    fault(folder / FILE)
    scorer = Scorer(edge(plugin), gates=(), chunk_size=4, cache=folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = [scorer.score(BATCH).to_frame() for _ in range(2)]
    assert all(frame.to_csv() == expected.to_csv() for frame in frames)
    said = [str(warning.message) for warning in caught if "cache" in str(warning.message)]
    assert len(said) == 1
    assert str(folder / FILE) in said[0]
    assert cause in said[0]


def test_a_lock_that_is_not_released_costs_one_warning(
    plugin: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(plugin, BATCH[:4], folder)
    monkeypatch.setattr(cache_module, "LOCK_TIMEOUT", 0.05)
    holder = sqlite3.connect(folder / FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.warns(RuntimeWarning, match=r"measurements\.sqlite is not used any more: database is locked"):
        scored = table(plugin, BATCH, folder)
    holder.close()
    assert scored.to_frame().to_csv() == table(plugin, BATCH, None).to_frame().to_csv()


def test_a_full_disk_costs_one_warning(plugin: Path, folder: Path) -> None:
    """The file may not grow beyond 64 kB, in a process of its own."""
    code = f"""
        import resource, warnings
        from pymatgen.core import Lattice, Structure
        from materium_rl.rewards.scoring import Scorer

        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        batch = [Structure(Lattice.cubic(3 + i / 1000), ["Fe"], [[0, 0, 0]]) for i in range(600)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            full = Scorer('"{plugin}:Edge"', gates=(), shared=(), cache="{folder}").score(batch)
        plain = Scorer('"{plugin}:Edge"', gates=(), shared=()).score(batch)
        assert full.to_frame().equals(plain.to_frame())
        assert list(full.outcomes) == ["ok"] * 600
        print(*[w.message for w in caught if "cache" in str(w.message)], sep="|")
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
    assert said.startswith(f"the measurement cache {folder / FILE} is not used any more: disk I/O error")
    assert "|" not in said


def test_a_file_in_place_of_the_folder_is_refused(plugin: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder, but .* is a file"):
        Scorer(edge(plugin), gates=(), cache=plugin)
    with pytest.raises(ConfigError, match="more than 0"):
        Scorer(edge(plugin), gates=(), cache=plugin.parent, cache_limit=0)


@pytest.mark.parametrize("command", [["finetune", "--run", "x"], ["compare", "nano", "nano", "--out", "x"]])
def test_the_command_line_names_the_folder(command: list[str], folder: Path) -> None:
    options = ["--cache", str(folder), "--set", "reward.cache_limit=0.5", "--dry-run"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    assert [f"cache: {folder}", "cache_limit: 0.5"] == re.findall(
        r"cache\S+ \S+", re.sub(r"\s+", " ", result.stdout)
    )
    assert not folder.exists()


# ---- several processes, and the size limit ------------------------------------------------------

WRITER = """
    import json, sys
    from pymatgen.core import Lattice, Structure
    from materium_rl.rewards.base import Measurement
    from materium_rl.rewards.execution.cache import RESULTS, CacheSettings, MeasurementCache

    folder, mine = sys.argv[1], float(sys.argv[2])
    cells = [Structure(Lattice.cubic(3 + i / 1000), ["Fe"], [[0, 0, 0]]) for i in range(400)]
    print("ready", flush=True)
    sys.stdin.readline()
    cache = MeasurementCache(CacheSettings(folder, 10**9))
    measure = lambda some: [Measurement(mine) for _ in some]
    values = []
    for i in range(0, 400, 8):
        values += [result.value for result in cache.recall(b"x", cells[i : i + 8], measure, RESULTS)]
    print(json.dumps([values, cache.problem]))
"""


def test_processes_at_once_agree_on_one_value(folder: Path) -> None:
    """Each would store another value: the first one counts, and all see it."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(i)], **pipes) for i in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in processes]
    assert [problem for _, problem in answers] == ["", "", ""]
    assert answers[0][0] == answers[1][0] == answers[2][0]


def test_the_oldest_make_room(folder: Path) -> None:
    limit = 200_000
    store = MeasurementCache(CacheSettings(str(folder), limit))
    counted: list[int] = []

    def compute(some: list[Structure]) -> list[Measurement]:
        counted.append(len(some))
        return [Measurement(s.lattice.a, details={"text": "x" * 1000}) for s in some]

    cells = [cell(3 + i / 1000) for i in range(640)]
    for i in range(0, 640, 16):
        store.recall(b"x", cells[i : i + 16], compute, RESULTS)
    store.close()
    assert (folder / FILE).stat().st_size < 1.3 * limit
    counted.clear()
    store.recall(b"x", cells[-64:], compute, RESULTS)
    assert counted == []
    store.recall(b"x", cells[:16], compute, RESULTS)
    assert counted == [16]
    assert store.problem == ""
    store.close()
