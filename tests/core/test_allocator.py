"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: settings of the allocator hold for all of it.
HOLES = """
import sys
import numpy as np
from difftalker.core import allocator

def held_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "steady":
    allocator.steady()
first = np.ones(24 << 20, np.uint8)
del first  # from now on glibc, left alone, keeps such pieces
before = held_mb()
pieces = [np.ones(12 << 20, np.uint8) for _ in range(8)]
above = np.ones(1 << 20, np.uint8)
del pieces
after = held_mb()
allocator.give_back()
print(after - before, held_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
@pytest.mark.parametrize(("setting", "kept_mb"), [("as it is", 102), ("steady", 1)])
def test_freed_memory_goes_back(setting: str, kept_mb: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES, setting], capture_output=True, text=True, check=True
    )
    freed, given_back = map(float, done.stdout.split())
    assert freed == pytest.approx(kept_mb, abs=5)
    assert given_back == pytest.approx(1, abs=5)
