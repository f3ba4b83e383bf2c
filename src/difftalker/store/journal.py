"""Finished work kept beside an output, so that a run that was killed goes on where it was.

    .NAME.dubbing/KIND-KEY    one finished piece, after its own hash
                 /lock        held while a run is at work
                 /holder      which process that is

A key is the hash of everything that a piece depends on: what is found under it is what would be
made again. A piece appears by one rename, and a damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from difftalker.core.files import write_whole
from difftalker.core.hashing import sha256_of
from difftalker.errors import MediaError

_DIGEST_BYTES = 32
_LOCK, _HOLDER = "lock", "holder"


class Journal:
    """The finished pieces of one output; a context manager that holds the output for one run.

    At the end of the block everything goes, or with ``keep`` everything that this run did not use.
    After an exception the pieces stay for the next run.
    """

    def __init__(self, output: Path, *, keep: bool = False) -> None:
        self.folder = output.with_name(f".{output.name}.dubbing")
        self._keep, self._used = keep, set[str]()
        self._lock = _Lock(self.folder, output)

    def __enter__(self) -> Self:
        """Take the output for this run.

        Raises:
            MediaError: another run holds it, or the folder cannot be written.
        """
        try:
            self._lock.acquire()
            self._sweep()
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._prune(self._used if self._keep else set())
        self._lock.release()
        with suppress(OSError):  # goes where no piece is kept
            self.folder.rmdir()

    def get(self, kind: str, key: str) -> bytes | None:
        """A finished piece, or None."""
        path = self._path(kind, key)
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from error
        digest, data = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == digest else None

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Keep a finished piece.

        Raises:
            MediaError: there is no room for it.
        """
        try:
            write_whole(self._path(kind, key), hashlib.sha256(data).digest() + data)
        except OSError as error:
            raise self._failure(error) from error

    def pieces(self) -> dict[str, bytes]:
        """All finished pieces, to be taken by another journal."""
        kept = [path for path in self.folder.iterdir() if path.name not in {_LOCK, _HOLDER}]
        return {path.name: path.read_bytes() for path in kept if not path.name.startswith(".")}

    def take(self, pieces: Mapping[str, bytes]) -> None:
        """Keep pieces of another journal.

        Raises:
            MediaError: there is no room for them.
        """
        try:
            for name, content in pieces.items():
                self._used.add(name)
                write_whole(self.folder / name, content)
        except OSError as error:
            raise self._failure(error) from error

    def _path(self, kind: str, key: str) -> Path:
        path = self.folder / f"{kind}-{key[:40]}"
        self._used.add(path.name)
        return path

    def _sweep(self) -> None:
        """Remove what a killed run left half done."""
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                path.unlink(missing_ok=True)

    def _prune(self, kept: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in {_LOCK, _HOLDER, *kept}:
                with suppress(OSError):
                    path.unlink()

    def _failure(self, error: OSError) -> MediaError:
        return MediaError(
            f"could not write {self.folder}: {error.strerror or error}",
            fix="free space in the output folder, or choose another; the same command then goes on",
        )


class _Lock:
    """Held by one run at a time; the system lets go of it when the process dies."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output
        self._holder = folder / _HOLDER
        self._lock = FileLock(folder / _LOCK)

    def acquire(self) -> None:
        """Take the lock; raises MediaError where another run has it."""
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise self._held() from None
            except FileNotFoundError:  # the run before removed the folder meanwhile
                continue
            with suppress(OSError):  # no room: the lock holds without it
                self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            return

    def release(self) -> None:
        """Let it go, and remove its files."""
        with suppress(OSError):
            self._holder.unlink(missing_ok=True)
        with suppress(OSError):  # Windows removes no open file, but does so when it is let go
            (self._folder / _LOCK).unlink(missing_ok=True)
        self._lock.release()

    def _held(self) -> MediaError:
        try:
            holder = f" ({self._holder.read_text(errors='replace')})"
        except OSError:  # it has only just begun, or is about to end
            holder = ""
        return MediaError(
            f"another run writes {self._output}{holder}",
            wanted="one run at a time",
            fix="wait for it, or choose another output",
        )


def key_of(*parts: object) -> str:
    """The hash of values: arrays by type, shape and content, anything else by its ``repr``."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            text = repr(part).encode()
            total.update(f"{len(text)}:".encode() + text)
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}", fix="check it") from error


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as the bytes of an ``.npz`` file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **dict(arrays))
    return file.getvalue()


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """What ``pack`` was given."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
