"""Shared work is computed once per structure, and never handed to another structure."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence

import pytest
from pymatgen.core import Lattice, Structure

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
    names = ("chgnet", "chgnet_forces", "energy", "fingerprint", "prototype")
    code = f"from materium_rl.rewards.measuring import import_provider\nfor n in {names}: import_provider(n)"
    subprocess.run([sys.executable, "-c", code], check=True)
