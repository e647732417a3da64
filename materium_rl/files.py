"""Write files and folders so that a reader never sees half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

# Past so many files in a folder one flush of the whole system is faster (8 ms a file were measured).
_MAX_SINGLE_FLUSHES = 64

TEMPORARY = ".tmp-"
"""How temporary names begin; such leftovers of a killed process may be deleted."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends well.

    The block creates either a file or a folder there. It is flushed to disk and renamed; an older
    file or folder of that name is replaced. When the block raises (also on Ctrl-C), the temporary
    is removed and the older one is untouched.

    Args:
        path: Target; missing parent folders are created.

    Yields:
        A path in the same folder with the same file extension, hidden by a leading dot.

    Raises:
        FileNotFoundError: The block created nothing at the yielded path.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, target)
        _flush_entry(target.parent)
    finally:
        remove(temporary)


def _flush(path: Path) -> None:
    """Force a file, or every entry of a folder, to disk."""
    if path.is_dir():
        children = list(path.iterdir())
        if len(children) > _MAX_SINGLE_FLUSHES and hasattr(os, "sync"):
            os.sync()
            return
        for child in children:
            _flush(child)
    _flush_entry(path)


def _flush_entry(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    # Windows flushes only through a writable handle
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    """Rename; a folder in the way steps aside first, since no rename replaces a filled folder."""
    if not (temporary.is_dir() and target.is_dir()):
        temporary.replace(target)
        return
    previous = target.rename(_aside(target))
    try:
        temporary.rename(target)
    except BaseException:
        previous.rename(target)
        raise
    remove(previous)


def _aside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-previous-{path.name}")


def discard(folder: Path) -> None:
    """Delete a folder; its name is gone at once, so that nobody finds a part of it."""
    remove(folder.rename(_aside(folder)))


def remove(path: Path) -> None:
    """Delete a file or folder; nothing there is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
