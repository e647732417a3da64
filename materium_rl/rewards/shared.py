"""Work that several rewards need, computed once per structure.

A provider is a plain batch function marked with ``@shared_work("name")``. Inside ``with sharing():``
(the scorer opens it around each chunk) its result is kept per structure object; outside, it simply
computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

BatchFunction = Callable[[Sequence["Structure"]], list[Any]]

_STORE: ContextVar[dict[tuple[str, int], Any] | None] = ContextVar("shared_work", default=None)
PROVIDERS: dict[str, BatchFunction] = {}


@contextmanager
def sharing() -> Iterator[dict[tuple[str, int], Any]]:
    """Keep shared results for the structures alive in this block, keyed by (name, id)."""
    store: dict[tuple[str, int], Any] = {}
    token = _STORE.set(store)
    try:
        yield store
    finally:
        _STORE.reset(token)


def shared_work(name: str) -> Callable[[BatchFunction], BatchFunction]:
    """Register a batch function whose results are computed once per structure."""

    def decorate(function: BatchFunction) -> BatchFunction:
        @wraps(function)
        def wrapper(structures: Sequence[Structure]) -> list[Any]:
            store = _STORE.get()
            if store is None:
                return function(structures)
            todo = [s for s in structures if (name, id(s)) not in store]
            if todo:
                for structure, result in zip(todo, function(todo), strict=True):
                    store[name, id(structure)] = result
            return [store[name, id(s)] for s in structures]

        PROVIDERS[name] = wrapper
        return wrapper

    return decorate
