"""Bars for what a stage prepares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from difftalker.data.latents import Progress


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    """A bar for so many frames out of so many."""
    with tqdm(desc=name, unit="frame") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress
