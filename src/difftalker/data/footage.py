"""Footage files: named one by one, by folder, or picked from a list of clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from difftalker.errors import MediaError, UsageError

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
)
"""Suffixes of videos within a folder; a file that is named itself may have any."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a video file, or all of it."""

    footage: Path
    start_s: float
    stop_s: float
    """End of the piece, seconds; frames from ``start_s`` up to it belong to it."""
    whole: bool


def find_footage(paths: Sequence[Path], clips: Sequence[str] = ()) -> list[Path]:
    """The video files among ``paths``; those of a folder in the order of their names.

    ``clips`` leaves only those whose names (without suffix) are given. Each is a name, or
    ``FILE.json:KEY`` for the list of names that a JSON file has under a key.

    Raises:
        UsageError: nothing was given.
        MediaError: a path or a clip is missing, a folder has no videos, or a list is no list.
    """
    if not paths:
        raise UsageError("no footage was given", wanted="one video file or folder at least")
    videos = [video for path in paths for video in _videos(path)]
    if not clips:
        return videos
    names = [name for clip in clips for name in _names(clip)]
    by_name = {video.stem: video for video in videos}
    if missing := [name for name in names if name not in by_name]:
        raise MediaError(
            f"{len(missing)} of {len(names)} clips are not among the footage, first {missing[0]}",
            wanted="names of video files without their suffix",
        )
    return [by_name[name] for name in dict.fromkeys(names)]


def _videos(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise MediaError(f"no such file: {path}", fix="check the path")
    if not path.is_dir():
        yield path
        return
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise MediaError(f"the folder {path} has no video files", wanted="such as .mp4 or .mov")
    yield from found


def _names(clip: str) -> list[str]:
    file, _, key = clip.rpartition(":")
    if not file.endswith(".json"):
        return [clip]
    try:
        names = json.loads(Path(file).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MediaError(
            f"{file} gives no clips under {key!r} ({type(error).__name__})",
            wanted=f'a JSON file such as {{"{key}": ["clip1", "clip2"]}}',
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MediaError(f"{key!r} in {file} is no list of names")
    return names
