"""What the tests of resumed dubbing share: how long the clip is, and processes for it."""

from __future__ import annotations

import multiprocessing
from typing import Any

from difftalker.dubbing.render_loop import CHUNK_FRAMES

FRAMES = 72
CHUNKS = -(-FRAMES // CHUNK_FRAMES)


def forkserver() -> Any:
    """Processes forked from a server that has the libraries loaded: they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["difftalker.dubbing.avatar", "difftalker.dubbing.networks"])
    first = context.Process(target=int)  # with it the server starts, and loads them
    first.start()
    first.join()
    return context
