"""Files anywhere that fsspec reaches: ``a/b.mp4``, ``s3://bucket/b.mp4``, ``memory://b.mp4``.

Paths without a protocol are files of this machine, and are never copied.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from difftalker.errors import DiffTalkerError, UsageError


class PlaceError(DiffTalkerError):
    """A file or folder, here or elsewhere, that cannot be read or written."""


def is_remote(text: str) -> bool:
    """Whether a path names a place beyond this machine's file system."""
    return "://" in text and not text.startswith("file://")


def local(text: str) -> Path:
    """The path of a file of this machine."""
    return Path(text.removeprefix("file://"))


class Folder:
    """The folder that results go to, here or elsewhere."""

    def __init__(self, text: str) -> None:
        """Open it, and make it where it is not there.

        Raises:
            PlaceError: it cannot be made.
            UsageError: nothing here reads such a path.
        """
        self.text = text if is_remote(text) else str(local(text).absolute())
        self._fs, self._root = opened(self.text)
        with _told(f"the folder {text} cannot be made"):
            self._fs.makedirs(self._root, exist_ok=True)

    @property
    def local(self) -> Path | None:
        """Its path on this machine; None where it lies elsewhere."""
        return None if is_remote(self.text) else Path(self.text)

    def names(self) -> set[str]:
        """The names of what is in it."""
        with _told(f"the folder {self.text} cannot be read"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._root):  # in a store a folder without files
                return set()
            return {
                str(one).rstrip("/").rsplit("/", 1)[-1] for one in self._fs.ls(self._root, False)
            }

    def publish(self, path: Path, name: str) -> None:
        """Move a finished file or folder of this machine here; it appears whole, under its name.

        Raises:
            PlaceError: it cannot be written; nothing is left under its name.
        """
        with _told(f"{self.text}/{name} cannot be written"):
            if self.local is not None:
                _moved(path, self.local / name)
                return
            part = f"{self._root}/.{secrets.token_hex(4)}-{name}"
            self._fs.put(str(path), part, recursive=path.is_dir())
            self._fs.mv(part, f"{self._root}/{name}", recursive=path.is_dir())

    def read(self, name: str) -> bytes:
        """The content of a file in it; empty where there is none."""
        with _told(f"{self.text}/{name} cannot be read"):
            path = f"{self._root}/{name}"
            return bytes(self._fs.cat_file(path)) if self._fs.exists(path) else b""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file in it."""
        with _told(f"{self.text}/{name} cannot be written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)


def fetched(text: str, scratch: Path) -> Path:
    """A file or folder as one of this machine: itself, or a copy in ``scratch``.

    Raises:
        PlaceError: it cannot be read.
        UsageError: nothing here reads such a path.
    """
    if not is_remote(text):
        return local(text)
    fs, path = opened(text)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    folder = scratch / hashlib.sha256(f"{text} {mark_of(text)}".encode()).hexdigest()[:16]
    if not folder.is_dir():
        part = scratch / f".{secrets.token_hex(4)}"
        with _told(f"{text} cannot be read"):
            part.mkdir(parents=True)
            fs.get(path.rstrip("/"), str(part / name), recursive=fs.isdir(path))
            part.rename(folder)
    return folder / name


def mark_of(text: str) -> str:
    """A short text that changes with the content of a remote file or folder.

    Raises:
        PlaceError: there is no such file.
    """
    fs, path = opened(text)
    with _told(f"{text} cannot be read"):
        if not fs.isdir(path):
            return _mark(fs, fs.info(path))
        found = fs.find(path, detail=True)
        start = len(path.rstrip("/"))
        return repr(sorted((name[start:], _mark(fs, info)) for name, info in found.items()))


def _mark(fs: Any, info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_md5", "md5"):
        if info.get(key):
            return f"{key.lower()} {info[key]} {info.get('size')}"
    return f"sha256 {hashlib.sha256(fs.cat_file(info['name'])).hexdigest()}"


def opened(text: str) -> tuple[Any, str]:
    """The file system that a path belongs to, and the path within it.

    Raises:
        UsageError: nothing here reads such a path.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{text} cannot be opened: {error}",
            wanted="a path of this machine, or one that fsspec knows, such as s3://bucket/name",
            fix="install what it names, for s3:// with pip install 'difftalker[s3]'",
        ) from error
    return fs, str(path)


def _moved(path: Path, target: Path) -> None:
    """Move to the same or another disk; appears by one rename."""
    part = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        shutil.move(path, part)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Any failure of a file system, each of which raises its own, as one line."""
    try:
        yield
    except DiffTalkerError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise PlaceError(
            f"{what}: {reason.splitlines()[0]}", fix="check the path, and who may use it"
        ) from error
