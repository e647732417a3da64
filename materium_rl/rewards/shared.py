"""Work that several rewards need, computed once per structure.

A provider is a plain batch function marked with ``@shared_work("name")``. Inside ``with sharing():``
(the scorer opens it around each chunk) its result is kept per structure object; outside, it simply
computes. Work that says what its results are (``stored_as``) is also kept in the cache on disk, if there is
one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materium_rl.rewards.execution.cache import MeasurementCache

BatchFunction = Callable[[Sequence["Structure"]], list[Any]]

PROVIDERS: dict[str, BatchFunction] = {}


class SharedResults:
    """Results by name of the work and structure object.

    The structure is kept with its results: as long as they are there, its id belongs to no other.

    Args:
        wanted: Names of all work that this chunk will need.
        cache: Results of earlier times.
    """

    def __init__(self, wanted: Collection[str] = (), cache: MeasurementCache | None = None) -> None:
        self.wanted = frozenset(wanted)
        self.cache = cache
        self._results: dict[tuple[str, int], tuple[Structure, Any]] = {}

    def add(self, name: str, structure: Structure, result: Any) -> None:
        """Remember what the work ``name`` gave for a structure."""
        self._results[name, id(structure)] = structure, result

    def get(self, name: str, structure: Structure) -> Any:
        """What ``add`` was given.

        Raises:
            KeyError: Nothing was.
        """
        return self._results[name, id(structure)][1]

    def has(self, name: str, structure: Structure) -> bool:
        """Whether ``add`` was called."""
        return (name, id(structure)) in self._results


_STORE: ContextVar[SharedResults | None] = ContextVar("shared_work", default=None)


@contextmanager
def sharing(wanted: Collection[str] = (), cache: MeasurementCache | None = None) -> Iterator[SharedResults]:
    """Keep the results of shared work until the end of this block.

    Args:
        wanted: Names of all work that will be needed, so that one provider can do the work of two at once.
        cache: Where results are kept beyond it.
    """
    store = SharedResults(wanted, cache)
    token = _STORE.set(store)
    try:
        yield store
    finally:
        _STORE.reset(token)


def wanted(name: str) -> bool:
    """Whether the work ``name`` will be needed for the same structures."""
    store = _STORE.get()
    return store is not None and name in store.wanted


def shared_work(name: str, *, stored_as: type | None = None) -> Callable[[BatchFunction], BatchFunction]:
    """Register a batch function whose results are computed once per structure.

    Args:
        name: Name in ``requires``.
        stored_as: Type of a result (a dataclass, float, ...) that may be kept on disk. Give it only where the
            result depends on nothing but the structure, the source of the function's package and the
            libraries.
    """

    def decorate(function: BatchFunction) -> BatchFunction:
        @wraps(function)
        def wrapper(structures: Sequence[Structure]) -> list[Any]:
            store = _STORE.get()
            if store is None:
                return function(structures)
            todo = [s for s in structures if not store.has(name, s)]
            if todo:
                results = _computed(name, function, stored_as, todo, store.cache)
                for structure, result in zip(todo, results, strict=True):
                    store.add(name, structure, result)
            return [store.get(name, s) for s in structures]

        PROVIDERS[name] = wrapper
        return wrapper

    return decorate


def _computed(
    name: str,
    function: BatchFunction,
    stored_as: type | None,
    structures: list[Structure],
    cache: MeasurementCache | None,
) -> list[Any]:
    """Results from the disk where they are there, else from the function."""
    if cache is None or stored_as is None:
        return function(structures)
    from materium_rl.rewards.execution import provenance
    from materium_rl.rewards.execution.cache import codec_of

    subject = provenance.of_work(name, function)
    return (
        function(structures)
        if subject is None
        else cache.recall(subject, structures, function, codec_of(stored_as))
    )
