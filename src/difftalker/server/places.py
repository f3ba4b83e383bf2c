"""Where the server's files lie, and which of them a job gives out.

    FOLDER/state.sqlite3
          /uploads/ID.SUFFIX
          /jobs/ID/...          what a job writes
          /avatars/ID/          avatars that were trained here

Names from clients are looked up among those that there are; none is ever part of a path.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from difftalker.errors import DiffTalkerError

_PATTERNS = {
    "dub": ("video.mp4", "track.npz", "report.json", "timeline.json"),
    "talk": ("video.mp4",),
    "landmarks": ("preview.mp4", "track.npz", "timeline.json"),
    "train": ("run/*/*.png", "run/held-out/*.html", "run/held-out.json", "run/*/*.jsonl"),
    "evaluate": ("report/report.html", "report/report.json", "report/*.png"),
}
"""Kind of job -> its files, the result first."""
MIME = {
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".npz": "application/octet-stream",
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
}
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


class Places:
    """The folder of a server."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where there is none.

        Raises:
            DiffTalkerError: it cannot be written.
        """
        self.folder = folder.absolute()
        try:
            for name in ("uploads", "jobs", "avatars"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise DiffTalkerError(
                f"the folder {folder} cannot be used: {error.strerror}",
                wanted="a folder that can be written",
                fix="choose another --folder",
            ) from error

    @property
    def state(self) -> Path:
        """The file with the state."""
        return self.folder / "state.sqlite3"

    @property
    def uploads(self) -> Path:
        """The folder of uploads."""
        return self.folder / "uploads"

    def job(self, name: str) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / name

    def avatar(self, name: str) -> Path:
        """The folder of an avatar that was trained here."""
        return self.folder / "avatars" / name

    def free_bytes(self) -> int:
        """What is free on the disk."""
        return shutil.disk_usage(self.folder).free

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """What a job gives out: name -> file, the result first."""
        folder = self.job(name)
        return {
            path.relative_to(folder).as_posix(): path
            for pattern in _PATTERNS[kind]
            for path in sorted(folder.glob(pattern))
            if path.is_file() and not path.is_symlink()
        }

    def clear_job(self, name: str) -> None:
        """Remove all that a job wrote."""
        shutil.rmtree(self.job(name), ignore_errors=True)

    def clear_avatar(self, name: str) -> None:
        """Remove an avatar."""
        shutil.rmtree(self.avatar(name), ignore_errors=True)


def suffix_of(name: str) -> str:
    """The suffix of a client's file name, where it is a plain one; else ``.bin``."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name of the client's, no path
    return suffix if _SUFFIX.fullmatch(suffix) else ".bin"


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder without copying its files, where the file system can."""
    for path in _files_within(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)


def _files_within(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
