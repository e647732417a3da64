"""Nearest fingerprints among many: by comparison with all where they are few, by a k-d tree where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

_FEW = 4096
"""Rows that are compared with in less than a millisecond."""
_SLACK = 1e-5
"""Distances are rounded to float32; what the tree finds is compared once more."""
_SPARE = 2
"""More that are asked for, to see whether there are equals."""


class NearestRows:
    """Some rows of a table of fingerprints, by the largest difference of any entry.

    Args:
        table: float32 (R, SIZE).
        rows: Which of them, in rising order (M,); None for all.
        size: Compare only so many leading entries.
    """

    def __init__(
        self, table: NDArray[np.float32], rows: NDArray[np.int64] | None = None, size: int | None = None
    ) -> None:
        self._table = table
        self._rows = np.arange(len(table)) if rows is None else rows
        self._size = table.shape[1] if size is None else size
        self._tree = None if len(self._rows) <= _FEW else self._built()

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that are searched."""
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, fingerprint: NDArray[np.float32], count: int = 1) -> list[tuple[int, float]]:
        """Rows and distances of the ``count`` nearest, or of all where there are fewer; equals by row."""
        query = fingerprint[: self._size]
        rows = self._rows
        if self._tree is not None:
            rows = self._candidates(self._tree, query, count)
        return self._sorted(query, rows)[:count]

    def within(self, fingerprint: NDArray[np.float32], radius: float) -> list[tuple[int, float]]:
        """Rows and distances of those nearer than ``radius``, the nearest first; equals by row."""
        query = fingerprint[: self._size]
        rows = self._rows
        if self._tree is not None:
            rows = self._rows_at(self._tree.query_ball_point(query, radius + _SLACK, p=np.inf))
        return [(row, distance) for row, distance in self._sorted(query, rows) if distance < radius]

    def _sorted(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> list[tuple[int, float]]:
        distances = self._distances(query, rows)
        order = np.argsort(distances, kind="stable")
        return list(zip(rows[order].tolist(), distances[order].tolist(), strict=True))

    def _rows_at(self, places: list[int]) -> NDArray[np.int64]:
        return self._rows[np.sort(np.array(places, dtype=np.int64))]

    def _distances(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.abs(self._table[rows, : self._size] - query).max(axis=1, initial=0.0)  # type: ignore[no-any-return]

    def _candidates(self, tree: cKDTree, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Rows among which the ``count`` nearest are, and those as near as the last, in rising order."""
        reach, places = tree.query(query, k=count + _SPARE, p=np.inf)
        if reach[-1] < reach[count - 1] + _SLACK:  # more may be as near; this search is slower
            places = tree.query_ball_point(query, reach[count - 1] + _SLACK, p=np.inf)
        return self._rows_at(places)

    def _built(self) -> cKDTree:
        from scipy.spatial import cKDTree

        return cKDTree(self._table[self._rows, : self._size], leafsize=32)
