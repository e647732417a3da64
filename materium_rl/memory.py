"""Give freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys


def release_memory() -> None:
    """Return what the C heap holds but does not use; without effect where the C library is not glibc.

    Batches of ever new shapes fragment glibc's heap: a training on CPU that uses 0.8 GB holds 2.6 GB
    after 60 steps and 6 GB after some thousand. The call takes milliseconds and changes no result.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
