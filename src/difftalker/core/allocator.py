"""Settings of the C allocator: freed memory goes back to the system.

Numpy, torch and FFmpeg allocate through the C library. Left alone, glibc keeps an arena for each
thread, and after a while maps only pieces of more than 32 MB on their own. Freed tensors then
leave holes in the arenas, and a long job holds hundreds of megabytes that nothing uses. Other C
libraries are left as they are. See mallopt(3) and malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

OWN_MAPPING_BYTES = 8 << 20
"""Blocks of at least this size are mapped on their own, and go back when they are freed."""
KEPT_BYTES = 32 << 20
"""Free memory that may stay at the heap's end, bytes: to return it and take it again costs time."""

# The names and numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def steady() -> None:
    """Make the process keep little freed memory. Programs call it before they start threads."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Give freed memory back to the system. Callers do so after they held much memory."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
