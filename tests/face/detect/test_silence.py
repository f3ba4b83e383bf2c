"""Standard error is turned away while a detector runs, in any thread, and comes back after all."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from difftalker.face.detect import detector


@contextmanager
def stderr_in_file() -> Iterator[int]:
    """A file in the place of standard error; its descriptor."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file.fileno()
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def together(*work: Callable[[], None]) -> None:
    """Run each in a thread of its own, to the end."""
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fail_within() -> None:
    with detector._native_silence():
        os.write(2, b"a note")
        raise ValueError("within")


def test_it_comes_back_after_overlapping_threads() -> None:
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with detector._native_silence():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with detector._native_silence():
            second_is_in.set()
            first_is_out.wait(10)
            os.write(2, b"a note")

    with stderr_in_file() as file:
        together(first, second)
        os.write(2, b"an error")
        assert os.fstat(2) == os.fstat(file)
        assert os.pread(file, 100, 0) == b"an error"


def test_it_comes_back_after_an_error() -> None:
    with stderr_in_file() as file:
        with pytest.raises(ValueError, match="within"):
            fail_within()
        os.write(2, b"an error")
        assert os.pread(file, 100, 0) == b"an error"


def test_it_comes_back_after_many_threads() -> None:
    def often() -> None:
        for _ in range(200):
            with detector._native_silence():
                os.write(2, b"a note")

    with stderr_in_file() as file:
        together(often, often, often)
        assert os.fstat(2).st_ino == os.fstat(file).st_ino
        assert os.pread(file, 100, 0) == b""
