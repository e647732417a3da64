"""Finding rewards: entry points, files, and what is said about broken ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from materium_rl.errors import ConfigError, RewardError
from materium_rl.rewards import registry
from materium_rl.rewards.base import Reward

PLUGIN = """
from materium_rl.rewards.base import Measurement, Reward
from materium_rl.rewards.shaping import Identity

class Hardness(Reward):
    name = "{name}"
    unit = "GPa"
    target: float = 30.0
    def measure(self, structures):
        return [Measurement(self.target) for _ in structures]
    def shaping(self):
        return Identity()

def size(structures, *, top: float = 20.0):
    return [len(s) / top for s in structures]

def wrong(structures, top):
    return []
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(PLUGIN.format(name=f"hardness_{abs(hash(tmp_path))}"))
    return path


def _install(folder: Path, distribution: str, entry_points: str) -> None:
    """What pip leaves of a package: its metadata."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with good, broken and quarrelling distributions."""
    good = "materium_rl.rewards.catalogue.validity:Validity"
    group = f"[{registry.GROUP}]\n"
    packages = tmp_path / "packages"
    _install(
        packages,
        "acme-rewards",
        f"{group}sound = acme:Sound\nbroken = no_such_module_anywhere:X\nexits = acme_exits:X\n"
        f"nothing = json:dumps\nunnamed = acme:Nameless\nother_name = {good}\ntwice = acme:Sound\n"
        "odd = not an address\n",
    )
    _install(packages, "emca-rewards", f"{group}twice = acme:Sound\nvalidity = acme:Sound\n")
    _install(packages, "torn-rewards", f"{group}no equals sign\n")
    (packages / "acme.py").write_text(
        "from materium_rl.rewards.catalogue.density import Density\n"
        "from materium_rl.rewards.base import Reward\n"
        "class Sound(Density):\n    name = 'sound'\nclass Nameless(Reward):\n    pass\n"
    )
    (packages / "acme_exits.py").write_text("raise SystemExit('no licence')\n")
    older = tmp_path / "older"
    _install(older, "acme-rewards", f"{group}long_gone = acme:Gone\n")
    for path in (older, packages):  # packages first
        monkeypatch.syspath_prepend(path)
    monkeypatch.delitem(sys.modules, "acme", raising=False)
    return packages


def test_built_ins_come_through_the_entry_points() -> None:
    assert registry.find("validity").name == "validity"
    infos = {info.name: info for info in registry.available()}
    assert {"validity", "stability", "bandgap", "novelty", "uniqueness"} <= set(infos)
    assert infos["uniqueness"].scope == "batch"
    assert infos["uniqueness"].source.startswith("materium-rl ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", ["acme-rewards 1.0", "ModuleNotFoundError", "no_such_module_anywhere"]),
        ("exits", ["acme-rewards 1.0", "SystemExit: no licence"]),
        ("nothing", ["acme-rewards 1.0", "not a subclass"]),
        ("unnamed", ["acme-rewards 1.0", "lacks name, measure, shaping"]),
        ("odd", ["acme-rewards 1.0", "not an address"]),
        ("other_name", ["acme-rewards 1.0", "'validity'"]),
        ("twice", ["acme-rewards 1.0", "emca-rewards 1.0"]),
        ("validity", ["materium-rl 0", "emca-rewards 1.0", "claimed more than once"]),
    ],
)
def test_a_broken_or_duplicate_reward_is_named_with_its_distribution(
    distributions: Path, name: str, said: list[str]
) -> None:
    with pytest.raises(RewardError) as caught:
        registry.find(name)
    assert all(text in str(caught.value) for text in said)
    assert registry.find("sound").name == "sound"
    assert registry.create("density", {}).name == "density"
    infos = {info.name: info for info in registry.available()}
    assert (infos["sound"].error, infos["sound"].source) == ("", "acme-rewards 1.0")
    assert all(text in infos[name].error for text in said)


def test_a_distribution_that_cannot_be_read_is_named_and_hides_no_other(distributions: Path) -> None:
    (info,) = [info for info in registry.available() if info.name == "?"]
    assert info.source == "torn_rewards-1.0.dist-info"
    assert str(distributions / info.source) in info.error
    assert "TypeError" in info.error
    with pytest.raises(ConfigError, match=r"unknown reward 'torn'.*torn_rewards-1.0.dist-info"):
        registry.find("torn")


def test_of_two_copies_of_a_distribution_the_first_counts(distributions: Path) -> None:
    with pytest.raises(ConfigError, match="unknown reward 'long_gone'"):
        registry.find("long_gone")


def test_unknown_name_gives_close_matches_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'bandgap'\?.*Known: .*novelty.*validity"):
        registry.find("bandgop")


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'min_distance'"):
        registry.create("validity", {"min_distanc": 0.5})
    with pytest.raises(ConfigError, match="'max_gap' = 'wide'"):
        registry.create("validity", {"max_gap": "wide"})


def test_class_and_function_of_a_file(plugin: Path) -> None:
    reward = registry.create(f"{plugin}:Hardness", {"target": 12})
    assert reward.measure([None])[0].value == 12
    size = registry.create(f"{plugin}:size", {"top": 10})
    assert isinstance(size, Reward)
    assert size.name == "size"
    assert size.measure([[0] * 4]) == [0.4]
    with pytest.raises(ConfigError, match="did you mean 'top'"):
        registry.create(f"{plugin}:size", {"topp": 10})


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("none.py:X", ConfigError, "does not exist"),
        ("{file}:Hardnes", ConfigError, "did you mean 'Hardness'"),
        ("{file}:wrong", RewardError, "keyword-only options"),
    ],
)
def test_wrong_file_or_attribute(plugin: Path, name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        registry.find(name.format(file=plugin))


def test_plugin_registers_its_rewards_by_name(plugin: Path) -> None:
    (name,) = registry.load_plugin(plugin)
    assert registry.load_plugin(plugin) == [name]
    assert registry.find(name).unit == "GPa"
    assert next(info for info in registry.available() if info.name == name).source == str(plugin)
    twin = plugin.with_name("twin.py")
    twin.write_text(plugin.read_text())
    with pytest.raises(RewardError, match=f"twin.py.*{name}.*my_rewards.py"):
        registry.load_plugin(twin)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1/0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "defines no reward"),
        (PLUGIN.format(name="validity"), "already provided by materium-rl"),
    ],
)
def test_broken_plugin_says_why(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(RewardError, match=said):
        registry.load_plugin(path)


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from materium_rl.rewards import registry; registry.available();"
        "print([m for m in ('torch', 'ray', 'matgl', 'chgnet') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
