"""Shared work is computed once per structure, and never handed to another structure."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile

from materium_rl.rewards import fingerprint as fingerprints
from materium_rl.rewards import shared
from materium_rl.rewards.shared import BatchFunction, shared_work, sharing


@pytest.fixture
def calls() -> list[int]:
    """How many structures each call of ``length`` computed."""
    return []


@pytest.fixture
def length(calls: list[int]) -> Iterator[BatchFunction]:
    @shared_work("length")
    def compute(structures: Sequence[Structure]) -> list[float]:
        calls.append(len(structures))
        return [s.lattice.a for s in structures]

    yield compute
    del shared.PROVIDERS["length"]


def cell(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Fe"], [[0, 0, 0]])


def test_computed_once_inside_sharing_and_each_time_outside(length: BatchFunction, calls: list[int]) -> None:
    a, b = cell(3.0), cell(4.0)
    with sharing():
        assert length([a]) == pytest.approx([3.0])
        assert length([b, a]) == pytest.approx([4.0, 3.0])
    assert calls == [1, 1]
    length([a])
    assert calls == [1, 1, 1]


def test_given_results_are_taken(length: BatchFunction, calls: list[int]) -> None:
    a = cell(3.0)
    with sharing() as store:
        store.add("length", a, 7.0)
        assert length([a]) == [7.0]
    assert calls == []


def test_a_structure_lives_as_long_as_its_results(length: BatchFunction) -> None:
    """Results are found by id; that of a deleted structure could be given to another one."""
    structure = cell(3.0)
    alive = weakref.ref(structure)
    with sharing():
        length([structure])
        del structure
        gc.collect()
        assert alive() is not None
    gc.collect()
    assert alive() is None


def test_a_provider_knows_what_else_will_be_needed(length: BatchFunction) -> None:
    assert not shared.wanted("length")
    with sharing(["length"]):
        assert shared.wanted("length")
        assert not shared.wanted("width")


def test_built_in_shared_work_is_found_by_name() -> None:
    names = ("chgnet", "chgnet_forces", "energy", "fingerprint", "prototype", "symmetry")
    module = "materium_rl.rewards.execution.measuring"
    code = f"from {module} import import_provider\nfor n in {names}: import_provider(n)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_term_and_gate_shares_one_run_of_each_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks in the workers' code, and the batch-scope rewards of the main process after them."""
    from materium_rl.rewards import fingerprint, prototypes, symmetry
    from materium_rl.rewards.potentials.catalogue import find_potential
    from materium_rl.rewards.scoring import Scorer

    done: dict[str, list[Structure]] = {"chgnet": [], "prototype": [], "fingerprint": [], "symmetry": []}
    chgnet = type(find_potential("chgnet"))
    predict = chgnet.predict

    def predicted(self: Any, structures: Sequence[Structure], **options: Any) -> Any:
        done["chgnet"] += structures
        return predict(self, structures, **options)

    def counted(module: Any, function: str, work: str) -> None:
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda s, *rest: done[work].append(s) or original(s, *rest))

    monkeypatch.setattr(chgnet, "predict", predicted)
    counted(prototypes, "_prototype", "prototype")
    counted(fingerprint, "_of_structure", "fingerprint")
    counted(symmetry, "_of_structure", "symmetry")
    scorer = Scorer(
        "novelty + formation_energy + magnetic_density + 0*stability + force + 0*n_sites",
        gates=("validity", "stability", "uniqueness", "novelty"),
        chunk_size=2,
    )
    table = scorer.score([rock_salt(), rutile(), rock_salt()])
    assert list(table.outcomes) == ["ok"] * 3
    assert {work: len(structures) for work, structures in done.items()} == dict.fromkeys(done, 3)


def test_what_a_batch_reward_requires_is_computed_in_the_workers(tmp_path: Path) -> None:
    from materium_rl.rewards.scoring import Scorer

    path = tmp_path / "spread.py"
    path.write_text(BATCH_PLUGIN)
    table = Scorer(f'"{path}:Spread"', gates=(), shared=(), chunk_size=1).score([rock_salt(), rutile()])
    assert table.values("spread").tolist() == [1.0, 1.0]
    assert all(row.shared["fingerprint"].shape == (fingerprints.SIZE,) for row in table)


BATCH_PLUGIN = '''
from typing import ClassVar

from materium_rl.rewards import fingerprint
from materium_rl.rewards.base import Reward
from materium_rl.rewards.shaping import Identity


class Spread(Reward):
    """1 if the fingerprints came with the structures, 0 if they are computed here."""

    name: ClassVar[str] = "spread"
    scope: ClassVar[str] = "batch"
    requires: ClassVar[tuple[str, ...]] = ("fingerprint",)

    def shaping(self):
        return Identity()

    def measure(self, structures):
        original, computed = fingerprint._of_structure, []
        fingerprint._of_structure = lambda s: computed.append(s)
        try:
            fingerprint.fingerprints(structures)
        finally:
            fingerprint._of_structure = original
        return [0.0 if s in computed else 1.0 for s in structures]
'''
