"""Opening, checking and decoding of media files, shared by sound and picture."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias, TypeVar

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from difftalker.core.files import whole_file
from difftalker.errors import MediaError

logger = logging.getLogger(__name__)

MediaPath: TypeAlias = str | PathLike[str]
"""A media file on this machine."""

_AnyFrame = TypeVar("_AnyFrame", VideoFrame, AudioFrame)

_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "apng", "asf", "au", "av1", "avi", "caf", "dts", "dv"),
    *("eac3", "flac", "flv", "gif", "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov"),
    *("mp3", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "tta", "vc1", "voc"),
    *("vvc", "w64", "wav", "webm", "wtv", "wv", "yuv4mpegpipe"),
    *("bmp_pipe", "jpeg_pipe", "png_pipe", "tiff_pipe", "webp_pipe"),
)
"""FFmpeg's readers that are let at a file. None of them follows a name in a file to another file,
as those of playlists do (hls, dash, concat, image2, sdp), or takes any text for a picture (tty)."""
_READING = {
    "format_whitelist": ",".join(_FORMATS),
    "protocol_whitelist": "file",
    "enable_drefs": "0",  # QuickTime's references to other files
    "max_streams": "100",
}
_STILLS = (
    ("jpeg_pipe", rb"\xff\xd8\xff"),
    ("png_pipe", rb"\x89PNG\r\n\x1a\n"),
    ("webp_pipe", rb"RIFF....WEBP"),
    ("tiff_pipe", rb"II\*\x00|MM\x00\*"),
    ("bmp_pipe", rb"BM"),
)
"""Readers of still pictures, and how their files begin."""
_PACKET_BYTES, _SYNC_BYTE = 188, 0x47
_BELIEVED_PACKETS = 32


@contextmanager
def open_media(
    path: MediaPath, reading: Mapping[str, str] = MappingProxyType({})
) -> Iterator[InputContainer]:
    """Open a media file for reading; ``reading`` are options of FFmpeg's reader.

    Raises MediaError where the file is missing, empty, unreadable or no media file.
    """
    container = _open(Path(path), {**_READING, **reading})
    try:
        yield container
    finally:
        container.close()


def _open(path: Path, options: dict[str, str]) -> InputContainer:
    if not path.exists():
        raise MediaError(f"no such file: {path}", fix="check the path")
    if not path.is_file():
        raise MediaError(f"{path} is not a file", wanted="a video or sound file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes)", wanted="a video or sound file")
    formats = ["mpegts" if _is_short_stream(path) else None, *_still_formats(path)]
    for file_format in formats:
        try:
            # An absolute path cannot be mistaken for a protocol ("a:b.mp4").
            container = av.open(
                str(path.resolve()),
                mode="r",
                format=file_format,
                container_options=options,
                metadata_errors="replace",
            )
        except (av.error.PermissionError, PermissionError) as error:
            raise MediaError(f"{path} may not be read", fix="check its permissions") from error
        except (av.FFmpegError, ValueError):
            continue
        if container.streams:
            return container
        container.close()
    raise not_media(path)


def _still_formats(path: Path) -> list[str]:
    """FFmpeg's reader of a still picture, by the file's first bytes; none for other files.

    FFmpeg goes by the name too: it takes "a.JPG" or "a%d.png" for a series of files.
    """
    with suppress(OSError), path.open("rb") as file:
        head = file.read(12)
        return [reader for reader, magic in _STILLS if re.match(magic, head, re.DOTALL)]
    return []


def _is_short_stream(path: Path) -> bool:
    """Whether this is a transport stream of so few packets that FFmpeg does not believe it."""
    size = path.stat().st_size
    if size % _PACKET_BYTES or size > _BELIEVED_PACKETS * _PACKET_BYTES:
        return False
    return set(path.read_bytes()[::_PACKET_BYTES]) == {_SYNC_BYTE}


def check_output(path: MediaPath, suffixes: tuple[str, ...]) -> Path:
    """The path of a file that can be written; to call before any work is done for it.

    Raises MediaError where its folder is missing or closed to writing, where it is itself a
    folder, or where its name ends in none of ``suffixes``.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise MediaError(f"no such output folder: {folder}", fix=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise MediaError(f"the output folder {folder} is closed to writing", fix="choose another")
    if path.is_dir():
        raise MediaError(f"the output {path} is a folder", wanted="the name of a file")
    if path.suffix.lower() not in suffixes:
        raise MediaError(
            f"the output {path} ends in {path.suffix or 'no suffix'!r}",
            wanted=" or ".join(suffixes),
        )
    return path


def movflags(tags: Mapping[str, str]) -> str:
    """FFmpeg's flags for MP4 and QuickTime: the index first, and tags by any name."""
    return "+faststart" if set(tags) <= {"comment"} else "+faststart+use_metadata_tags"


@contextmanager
def complete_file(path: MediaPath, suffixes: tuple[str, ...]) -> Iterator[BinaryIO]:
    """A file to fill; it appears under its name at the end of the block, or not at all.

    Raises MediaError as ``check_output`` does, and where it cannot be written.
    """
    path = check_output(path, suffixes)
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise MediaError(
            f"could not write {path}: {error.strerror or error}",
            fix="free space in the output folder, or choose another",
        ) from error


def not_media(path: MediaPath) -> MediaError:
    """The error for a file in which no media could be recognised."""
    return MediaError(
        f"{path} is not a media file, or is damaged beyond reading",
        wanted="a video or sound file that FFmpeg decodes",
    )


def video_track(container: InputContainer) -> VideoStream | None:
    """The main video track, or the first one that FFmpeg can decode; a cover picture is none."""
    tracks = [container.streams.best("video"), *container.streams.video]
    return next(
        (t for t in tracks if isinstance(t, VideoStream) and has_decoder(t) and not is_cover(t)),
        None,
    )


def is_cover(track: VideoStream) -> bool:
    """Whether a video track is the picture on a record's cover."""
    return bool(track.disposition & av.stream.Disposition.attached_pic)


def audio_track(container: InputContainer) -> AudioStream | None:
    """The main sound track, or the first one that FFmpeg can decode."""
    tracks = [container.streams.best("audio"), *container.streams.audio]
    return next((t for t in tracks if isinstance(t, AudioStream) and has_decoder(t)), None)


def has_decoder(track: Stream) -> bool:
    """Whether FFmpeg knows how to decode a track."""
    return getattr(track, "codec_context", None) is not None


def duration_s(container: InputContainer, track: Stream) -> float | None:
    """The length that the headers state for a track, else for the whole file, seconds."""
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return container.duration / av.time_base if container.duration else None


Note: TypeAlias = "Callable[[Packet[Stream]], None]"
"""Is told of each packet before it is decoded."""


def decode_video(
    path: MediaPath, container: InputContainer, note: Note = lambda _: None
) -> Iterator[VideoFrame]:
    """Decoded frames of the main video track, in order of display."""
    track = video_track(container)
    if track is None:
        raise MediaError(
            f"{path} has no video track", wanted="a moving picture that FFmpeg decodes"
        )
    return _decode(path, container, track, VideoFrame, [track], note)


def decode_audio(
    path: MediaPath, container: InputContainer, note: Note = lambda _: None
) -> Iterator[AudioFrame]:
    """Decoded frames of the main sound track, in order; ``note`` is told of pictures too."""
    track = audio_track(container)
    if track is None:
        raise MediaError(f"{path} has no sound track", wanted="a file with sound")
    pictures = video_track(container)
    tracks = [track] if pictures is None else [pictures, track]
    return _decode(path, container, track, AudioFrame, tracks, note)


def _decode(
    path: MediaPath,
    container: InputContainer,
    track: VideoStream | AudioStream,
    frame_type: type[_AnyFrame],
    read: Sequence[Stream],
    note: Note,
) -> Iterator[_AnyFrame]:
    """Every frame that decodes; packets that do not are skipped and counted in one warning."""
    track.codec_context.thread_type = "AUTO"
    broken = 0
    for packet in _packets(path, container, read):
        if packet is not None:
            note(packet)
            if packet.stream.index != track.index:
                continue
        try:
            frames = track.decode(packet)
        except av.FFmpegError:
            broken += 1
            continue
        yield from (frame for frame in frames if isinstance(frame, frame_type))
    if broken:
        logger.warning("%s: %d damaged %s packets were skipped", path, broken, track.type)


def _packets(
    path: MediaPath, container: InputContainer, tracks: Sequence[Stream]
) -> Iterator[Packet[Stream] | None]:
    """Packets of some tracks, with the empty ones that flush their decoders at the end."""
    try:
        yield from container.demux(*tracks)
    except av.FFmpegError as error:
        logger.warning("%s breaks off: %s", path, error.strerror)
        yield None
