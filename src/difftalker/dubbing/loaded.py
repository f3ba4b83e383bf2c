"""Avatars that stay loaded from one job to the next, in a process that carries out many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from difftalker.dubbing import avatar
from difftalker.dubbing.avatar import Avatar
from difftalker.store.avatars import folder_of

Stamp = tuple[int, int]
"""When an avatar's configuration was written, nanoseconds, and its size."""
Shelf = Callable[[Path, str, Stamp], Avatar]
"""Gives an avatar by folder, device and stamp, and loads it where it does not have it."""

_shelf: ContextVar[Shelf | None] = ContextVar("shelf", default=None)


def new_shelf(count: int) -> Shelf:
    """A shelf that keeps the last ``count`` avatars."""
    return lru_cache(count)(lambda folder, device, _: avatar.load(folder, device=device))


@contextmanager
def avatars_kept(shelf: Shelf) -> Iterator[None]:
    """Take avatars from a shelf for a block."""
    token = _shelf.set(shelf)
    try:
        yield
    finally:
        _shelf.reset(token)


def load(name_or_folder: str | Path, *, device: str = "cpu") -> Avatar:
    """As :func:`difftalker.dubbing.avatar.load`; one on the shelf is not loaded again.

    Raises:
        AvatarError: the folder or a file is missing, truncated or altered.
    """
    shelf = _shelf.get()
    if shelf is None:
        return avatar.load(name_or_folder, device=device)
    folder = folder_of(name_or_folder)
    config = folder / "config.json"
    written = config.stat() if config.is_file() else None
    return shelf(folder, device, (written.st_mtime_ns, written.st_size) if written else (0, 0))
