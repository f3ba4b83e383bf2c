"""What the allocator keeps of memory that was freed: little, and no more with time.

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
"""Pieces of this size and more are mapped on their own, and go back when they are freed."""
KEPT_BYTES = 32 << 20
"""So much free memory may stay at the heap's end: giving back and taking again costs time."""

# The names and numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def steady() -> None:
    """Have the whole process keep little of what is freed; for programs, before their threads."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Give freed memory back to the system: after what held much, or holds it again and again."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
