"""Edit lists of MP4 and QuickTime files, where FFmpeg's own reading of them loses frames.

An edit says which stretch of a track is shown. FFmpeg stops at the first key frame that lasts until
the edit's end, and so leaves out the frames that are stored after it and shown before it. Where it
leaves out anything, a track's only edit is therefore read here (ISO/IEC 14496-12, 8.6.6), FFmpeg
told to give all frames, and those outside of the edit dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

from av.container import InputContainer
from av.video.frame import VideoFrame

from difftalker.media.container import open_media, video_track

_PLAIN = {"advanced_editlist": "0"}
_MOST_BOXES = 10_000
_MOST_EDITS = 2
_NORMAL_RATE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Edit:
    """When a track is shown, seconds on the container's clock."""

    start_s: Fraction = Fraction(0)
    stop_s: Fraction | None = None
    """None: until its end."""

    def shows(self, frame: VideoFrame) -> bool:
        """Whether a frame lies within; one without a time does."""
        if frame.pts is None or frame.time_base is None:
            return True
        starts_s = self.start_s - frame.time_base  # FFmpeg rounds to it
        shown_s = frame.pts * frame.time_base
        return shown_s > starts_s and (self.stop_s is None or shown_s < self.stop_s)


@contextmanager
def open_pictures(path: Path) -> Iterator[tuple[InputContainer, Edit | None]]:
    """Open a file for its pictures; with the edit to hold them to, where FFmpeg does not do so.

    Raises:
        MediaError: as ``open_media`` does.
    """
    with open_media(path) as container:
        edit = _edit_with_losses(path, container)
        if edit is None:
            yield container, None
            return
    with open_media(path, _PLAIN) as container:
        yield container, edit


def _edit_with_losses(path: Path, container: InputContainer) -> Edit | None:
    """The only edit of the video track, where FFmpeg leaves frames out."""
    track = video_track(container)
    if track is None or "mov" not in container.format.name.split(","):
        return None
    return read_edit(path, track.id) if len(track.index_entries) < track.frames else None


def read_edit(path: Path, track_id: int) -> Edit | None:
    """The only edit of a track, an empty one before it apart; None where there is no such one."""
    with path.open("rb") as file:
        try:
            movie = next(_boxes(file, _Box(b"", 0, path.stat().st_size), b"moov"))
            header = _content(file, next(_boxes(file, movie, b"mvhd")))
            (scale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
            for track in _boxes(file, movie, b"trak"):
                if _id(_content(file, next(_boxes(file, track, b"tkhd")))) == track_id:
                    edits = next(_boxes(file, next(_boxes(file, track, b"edts")), b"elst"))
                    return _only(_entries(_content(file, edits)), scale)
        except (StopIteration, struct.error, IndexError, ZeroDivisionError):
            return None
    return None


class _Box(NamedTuple):
    """A part of a file: its kind, and where its content lies."""

    kind: bytes
    start: int
    stop: int


class _Entry(NamedTuple):
    duration: int
    """In units of the movie; 0: until the end."""
    media_time: int
    """Where it begins, in units of the track; -1: nothing is shown."""
    rate: int


def _boxes(file: BinaryIO, outer: _Box, kind: bytes) -> Iterator[_Box]:
    """The boxes of one kind directly within another."""
    at = outer.start
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if at >= outer.stop or len(head) < 8:
            return
        size, length = struct.unpack_from(">I", head)[0], 8
        if size == 1:
            size, length = struct.unpack_from(">Q", head, 8)[0], 16
        stop = at + size if size else outer.stop
        if size and size < length:
            return
        if head[4:8] == kind:
            yield _Box(kind, at + length, min(stop, outer.stop))
        at = stop


def _content(file: BinaryIO, box: _Box) -> bytes:
    """The start of a box's content, as far as anything here needs it."""
    file.seek(box.start)
    return file.read(min(box.stop - box.start, 128))


def _id(header: bytes) -> int:
    """The number in a track's header."""
    number: int = struct.unpack_from(">I", header, 20 if header[0] else 12)[0]
    return number


def _entries(content: bytes) -> list[_Entry]:
    """The entries of an edit list; none where there are more than are read here."""
    (count,) = struct.unpack_from(">I", content, 4)
    form = struct.Struct(">QqI" if content[0] else ">IiI")
    if count > _MOST_EDITS:
        return []
    return [_Entry(*form.unpack_from(content, 8 + i * form.size)) for i in range(count)]


def _only(entries: list[_Entry], scale: int) -> Edit | None:
    empty = entries[:1] if len(entries) > 1 and entries[0].media_time == -1 else []
    shown = entries[len(empty) :]
    if len(shown) != 1 or shown[0].media_time < 0 or shown[0].rate != _NORMAL_RATE:
        return None
    start_s = Fraction(sum(entry.duration for entry in empty), scale)
    lasts_s = Fraction(shown[0].duration, scale)
    return Edit(start_s=start_s, stop_s=start_s + lasts_s if lasts_s else None)
