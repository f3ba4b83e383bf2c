"""Work that is done while what came before it is still in use."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from difftalker.core.device import threads_as_here

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Generator[T]:
    """The same items, each made in a thread of its own while the one before it is in use.

    One is made at a time, so at most two are held. What making one raises is raised where that one
    would come. Whoever stops early closes it, and so waits for the one that is being made. The
    thread has the context variables of the caller, as they are when the first item is asked for,
    and computes with as many threads as the caller does.
    """
    end = object()
    step = partial(copy_context().run, lambda: next(items, end))
    with ThreadPoolExecutor(1, initializer=threads_as_here()) as worker:
        coming = worker.submit(step)
        while (item := coming.result()) is not end:
            coming = worker.submit(step)
            yield item  # type: ignore[misc]
