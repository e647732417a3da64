"""The tree finds what a comparison with every row finds."""

from __future__ import annotations

import numpy as np
import pytest

from materium_rl.rewards import nearest
from materium_rl.rewards.nearest import NearestRows


@pytest.mark.parametrize("size", [None, 5])
def test_tree_equals_brute_force(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    rng = np.random.default_rng(0)
    table = np.repeat(rng.random((250, 12)), 2, axis=0).astype(np.float32)  # every row twice
    table[:40] = table[0]  # more equals than the tree is asked for
    rows = np.flatnonzero(rng.random(500) < 0.7)
    few = NearestRows(table, rows, size)
    monkeypatch.setattr(nearest, "_FEW", 0)
    many = NearestRows(table, rows, size)
    for query in (*rng.random((40, 12)).astype(np.float32), *table[:10]):
        assert many.nearest(query) == few.nearest(query)
        assert many.nearest(query, 3) == few.nearest(query, 3)
        assert many.within(query, 0.4) == few.within(query, 0.4)
    assert many._tree is not None
    assert few._tree is None


def test_known_answer() -> None:
    table = np.array([[0, 0], [3, 0], [0, 4], [0.5, 9]], dtype=np.float32)
    query = np.zeros(2, dtype=np.float32)
    assert NearestRows(table).nearest(query, 9) == [(0, 0.0), (1, 3.0), (2, 4.0), (3, 9.0)]
    assert NearestRows(table, np.array([1, 3])).nearest(query) == [(1, 3.0)]
    assert NearestRows(table).within(query, 4.0) == [(0, 0.0), (1, 3.0)]
    assert NearestRows(table).within(query - 1, 1.0) == []
    assert NearestRows(table, np.array([1, 3]), size=1).nearest(query) == [(3, 0.5)]
