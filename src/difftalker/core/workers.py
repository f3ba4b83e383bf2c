"""Processes that work side by side, and end without a word where Ctrl-C ends the command."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


def quiet_workers(count: int | None) -> ProcessPoolExecutor:
    """So many processes, or one for each core; a terminal's Ctrl-C ends them at once.

    They start with the first job that is submitted: hold Ctrl-C meanwhile (``ctrl_c_held``).
    """
    return ProcessPoolExecutor(count or os.cpu_count(), get_context("spawn"), initializer=_hear)


@contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block; processes that start within hold it too.

    What they import at their start would else be interrupted, and each would show a trace.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hear() -> None:
    """Let Ctrl-C end this process, in place of an exception and its trace."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
