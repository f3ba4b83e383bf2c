"""Finished work kept beside an output, so that a run that was killed goes on where it was.

    .NAME.dubbing/KIND-KEY    one finished piece, after its own hash
                 /lock        who is at work: process, its birth, its machine

A key is the hash of everything that a piece depends on: what is found under it is what would be
made again. A piece appears by one rename, and a damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from difftalker.core.files import write_whole
from difftalker.core.hashing import sha256_of
from difftalker.errors import MediaError

_DIGEST_BYTES = 32
_UNWRITTEN_S = 1.0  # how long a lock may be without its line: made and filled in two steps


class Journal:
    """The finished pieces of one output; a context manager that holds the output for one run.

    At the end of the block everything goes, or with ``keep`` everything that this run did not use.
    After an exception the pieces stay for the next run.
    """

    def __init__(self, output: Path, *, keep: bool = False) -> None:
        self.folder = output.with_name(f".{output.name}.dubbing")
        self._keep, self._used = keep, set[str]()
        self._lock = _Lock(self.folder / "lock", output)

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
        if kind is None and not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if kind is None:
            self._prune()
        self._lock.release()
        with suppress(OSError):  # gone where nothing was finished
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

    def _path(self, kind: str, key: str) -> Path:
        path = self.folder / f"{kind}-{key[:40]}"
        self._used.add(path.name)
        return path

    def _sweep(self) -> None:
        """Remove what a killed run left half done."""
        for path in self.folder.iterdir():
            if path.name.startswith((".", "lock.")):
                path.unlink(missing_ok=True)

    def _prune(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in self._used:
                with suppress(OSError):
                    path.unlink()

    def _failure(self, error: OSError) -> MediaError:
        return MediaError(
            f"could not write {self.folder}: {error.strerror or error}",
            fix="free space in the output folder, or choose another; the same command then goes on",
        )


class _Holder(NamedTuple):
    """Who holds a lock."""

    pid: int
    birth: str
    """When the process began, by the kernel's clock; empty where that cannot be read."""
    host: str

    @classmethod
    def me(cls) -> _Holder:
        return cls(os.getpid(), _birth(os.getpid()), socket.gethostname())

    @classmethod
    def read(cls, path: Path) -> _Holder | None:
        """The holder that a lock names; None for one whose line is missing or damaged."""
        try:
            pid, birth, host = path.read_text().rstrip("\n").split(" ", 2)
            return cls(int(pid), birth, host)
        except ValueError:
            return None

    def line(self) -> str:
        return f"{self.pid} {self.birth} {self.host}\n"

    def is_alive(self) -> bool:
        """Whether the process is still there; one on another machine is taken to be."""
        if self.host != socket.gethostname():
            return True
        if self.birth:  # a number may have gone to another process since
            return _birth(self.pid) == self.birth
        return _is_running(self.pid)


class _Lock:
    """A file that exists while a run is at work; that of a dead process is taken over."""

    def __init__(self, path: Path, output: Path) -> None:
        self._path, self._output = path, output

    def acquire(self) -> None:
        """Take the lock; raises MediaError where a living process has it."""
        deadline = time.monotonic() + _UNWRITTEN_S
        while True:
            self._path.parent.mkdir(exist_ok=True)
            try:
                handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._clear_if_dead(time.monotonic() > deadline)
            except FileNotFoundError:  # the run before removed the folder meanwhile
                continue
            else:
                with os.fdopen(handle, "w") as file:
                    file.write(_Holder.me().line())
                return

    def release(self) -> None:
        """Let it go."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _clear_if_dead(self, waited: bool) -> None:
        """Remove the lock of a dead process; one without a line counts as dead after a while."""
        try:
            holder = _Holder.read(self._path)
            if holder is None and not waited:
                time.sleep(0.02)
                return
            if holder is not None and holder.is_alive():
                raise self._held(holder)
            aside = self._path.with_name(f"lock.{secrets.token_hex(4)}")
            self._path.rename(aside)  # of several runs that see a dead lock, one succeeds
        except FileNotFoundError:
            return
        if _Holder.read(aside) != holder:  # it was another's, taken over a moment ago
            with suppress(OSError):
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)

    def _held(self, holder: _Holder) -> MediaError:
        elsewhere = holder.host != socket.gethostname()
        return MediaError(
            f"another run writes {self._output} (process {holder.pid} on {holder.host})",
            wanted="one run at a time",
            fix=f"wait for it, or delete {self._path} if that run is gone"
            if elsewhere
            else "wait for it, or choose another output",
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


def _birth(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where unknown, and for dead ones."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has a number and a birth, but will never write again.
    return "" if fields[0] in "ZX" else fields[19]


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_running_on_windows(pid: int) -> bool:
    """By a handle: ``os.kill`` with signal 0 would interrupt the process there."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    synchronize, timed_out = 0x0010_0000, 0x102
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    running = kernel.WaitForSingleObject(handle, 0) == timed_out
    kernel.CloseHandle(handle)
    return bool(running)
