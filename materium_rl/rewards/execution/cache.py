"""Measurements on disk, shared by runs, processes and Ray workers of one machine.

One SQLite file in a folder: key -> result as JSON. The key is a digest of what is measured (lattice,
species and coordinates, to the bit), of the reward with its options, and of the code, data and library
versions behind it (``provenance``). So nothing in it can be out of date: what has changed has
another key. Results that are ok or invalid are stored, failures never.

The cache may only save time. Whatever is wrong with it, a full disk, a damaged file, a lock that is not
released, it is switched off for the rest of the process, ``problem`` says why, and everything is measured
as if there were none.

SQLite by itself, since diskcache, the usual library on top of it, has had no release since 2023 and stores
pickles, which run whatever code somebody put into the folder (CVE-2025-69872).
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from materium_rl.rewards.base import Invalid, Measurement, Result
from materium_rl.rewards.shared import shared_work

if TYPE_CHECKING:
    from pymatgen.core import Structure

FILE = "measurements.sqlite"
GIGABYTE = 10**9
LOCK_TIMEOUT = 2.0
"""Seconds to wait for another process; writing takes milliseconds. Well below the time limit of a chunk."""
_KEYS_PER_QUERY = 500
_TABLE = """
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, result TEXT NOT NULL, checksum INTEGER NOT NULL
)
"""


class CacheSettings(NamedTuple):
    """Where the cache is, and how large it may get."""

    folder: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Codec:
    """How a result is written as text.

    Args:
        encode: Result -> text, or None for what is not to be stored.
        decode: Text -> an equal result.
    """

    encode: Callable[[Any], str | None]
    decode: Callable[[str], Any]


class MeasurementCache:
    """Results by subject and structure; the file is opened at its first use.

    Args:
        settings: Folder and size limit. When the file has reached the limit, the oldest results make
            room.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self.path = Path(settings.folder) / FILE
        self.problem = ""
        self._max_bytes = settings.max_bytes
        self._connection: sqlite3.Connection | None = None

    def recall(
        self,
        subject: bytes,
        structures: Sequence[Structure],
        compute: Callable[[list[Structure]], list[Any]],
        codec: Codec,
    ) -> list[Any]:
        """Results of N structures: those that are stored, and what ``compute`` says of the others.

        Equal structures are computed once.

        Args:
            subject: Digest of what is measured and how.
            structures: N structures.
            compute: One result for each structure that it is given.
            codec: Of the results.
        """
        if self.problem:
            return compute(list(structures))
        keys = [blake2b(subject + d, digest_size=16).digest() for d in content_digests(structures)]
        results = self._get(keys, codec)
        missing: dict[bytes, Structure] = {}
        for key, structure in zip(keys, structures, strict=True):
            if key not in results:
                missing.setdefault(key, structure)
        if missing:
            fresh = dict(zip(missing, compute(list(missing.values())), strict=True))
            results |= fresh | self._put(fresh, codec)
        return [results[key] for key in keys]

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, keys: Sequence[bytes], codec: Codec) -> dict[bytes, Any]:
        """Stored results by key."""
        found: dict[bytes, Any] = {}
        try:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                places = ",".join("?" * len(some))
                rows = self._opened().execute(
                    f"SELECT key, result, checksum FROM results WHERE key IN ({places})", some
                )
                for key, text, checksum in rows:
                    if checksum != _checksum(key, text):
                        raise ValueError("a stored result does not fit its checksum")
                    found[key] = codec.decode(text)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._give_up(error)
            return {}
        return found

    def _put(self, results: Mapping[bytes, Any], codec: Codec) -> dict[bytes, Any]:
        """Store what can be stored; return what another process has stored under these keys before."""
        texts = {key: codec.encode(result) for key, result in results.items()}
        rows = [(key, text, _checksum(key, text)) for key, text in texts.items() if text is not None]
        if not rows or self.problem:
            return {}
        try:
            connection = self._opened()
            with connection:
                self._make_room(connection, 2 * len(rows))
                cursor = connection.executemany(
                    "INSERT OR IGNORE INTO results (key, result, checksum) VALUES (?, ?, ?)", rows
                )
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return {}
        return {} if cursor.rowcount == len(rows) else self._get([row[0] for row in rows], codec)

    def _make_room(self, connection: sqlite3.Connection, count: int) -> None:
        """Delete the oldest results of a full file; few at a time, so that others do not wait long."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size >= self._max_bytes:
            connection.execute(
                "DELETE FROM results WHERE number IN (SELECT number FROM results ORDER BY number LIMIT ?)",
                (count,),
            )

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(self.path)
        return self._connection

    def _give_up(self, error: Exception) -> None:
        self.problem = (
            f"the measurement cache {self.path} is not used any more: {error}. Scoring goes on without it; "
            "if the file is damaged, delete it"
        )
        try:
            self.close()
        except sqlite3.Error:
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file; SQLite does not itself wait for others who make it a WAL file at the same moment."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return _connect_once(path)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _connect_once(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=LOCK_TIMEOUT, isolation_level="IMMEDIATE", check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # readers and one writer at the same time
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _checksum(key: bytes, text: str) -> int:
    return zlib.crc32(text.encode(), zlib.crc32(key))


@shared_work("content")
def content_digests(structures: Sequence[Structure]) -> list[bytes]:
    """Digests of lattice, species and fractional coordinates, to the bit.

    Neither equivalent cells nor another order of the sites share a digest: their measurements may differ in
    the last digits. Site properties do not count, since scoring strips them.
    """
    return [_content_digest(structure) for structure in structures]


def _content_digest(structure: Structure) -> bytes:
    digest = blake2b(digest_size=16)
    digest.update(structure.lattice.matrix.tobytes())
    digest.update(bytes(structure.lattice.pbc))
    digest.update(structure.frac_coords.tobytes())
    digest.update("\n".join(site.species_string for site in structure).encode())
    return digest.digest()


def _encode(result: Result) -> str | None:
    if isinstance(result, Measurement):
        return json.dumps([result.value, result.uncertainty, result.details])
    return json.dumps(result.reason) if isinstance(result, Invalid) else None


def _decode(text: str) -> Result:
    stored = json.loads(text)
    return Invalid(stored) if isinstance(stored, str) else Measurement(*stored)


RESULTS = Codec(_encode, _decode)
"""Of rewards: JSON gives every float back to the bit."""


@cache
def codec_of(kind: type) -> Codec:
    """Codec of shared work whose results are instances of a plain type; all others are not stored."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def encode(result: Any) -> str | None:
        return json.dumps(adapter.dump_python(result, mode="json")) if isinstance(result, kind) else None

    def decode(text: str) -> Any:
        return adapter.validate_python(json.loads(text))

    return Codec(encode, decode)
