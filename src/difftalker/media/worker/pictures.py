"""Reading pictures, as a decoder does it: decoded, upright, in 8-bit RGB, with a time each.

Callers use ``media.video``, which has this done in a process of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.colour import HD_ROWS_PX, UNTAGGED, Colour, ToneMapper, hdr_of
from difftalker.media.container import (
    Note,
    audio_track,
    decode_video,
    duration_s,
    has_decoder,
    is_cover,
    video_track,
)
from difftalker.media.limits import Limits, check_duration, check_frames, check_pixels
from difftalker.media.worker.clock import Beginnings, Clock
from difftalker.media.worker.protocol import Facts, Task
from difftalker.media.worker.quicktime import Edit, open_pictures

logger = logging.getLogger(__name__)

SMALLEST_SIDE_PX = 16
LARGEST_SIDE_PX = 8192

Image = NDArray[np.uint8]

_FALLBACK_FPS = Fraction(25)
_HIGHEST_FPS = 1000
_HIGHEST_PTS = 1 << 53
_TIMELESS_FORMATS = ("avi", "h264", "hevc", "m4v", "mpegvideo", "vc1", "vvc")
_MISSING_TAIL_S = 0.5  # sound may well outlast the picture by a little
_MATRIX_BYTES = 36
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)


def describe(path: Path, limits: Limits) -> Iterator[tuple[Facts, None]]:
    """What the file says of its main video track, after its first frame was decoded."""
    with open_pictures(path) as (container, edit):
        for frame in _decoded(path, container, limits, edit):
            yield _facts(path, container, frame, limits), None
            return
    raise _no_frames(path)


def frames(path: Path, limits: Limits) -> Iterator[tuple[Facts, Image]]:
    """Every frame in order of display, with ``pts``, ``time_s`` and ``offset``."""
    with open_pictures(path) as (container, edit):
        clock: _PictureClock | None = None
        for decoded in _decoded(path, container, limits, edit):
            if clock is None:
                orientation = _orientation(decoded)
                facts = _facts(path, container, decoded, limits)
                clock = _PictureClock(path, facts, limits, by_order=_lacks_times(container))
                to_rgb = _RgbConverter(decoded.width, decoded.height)
            pts, time_s = clock.tick(decoded)
            facts = {"pts": pts, "time_s": time_s, "offset": clock.offset}
            yield facts, orientation.apply(to_rgb(decoded))
    if clock is None:
        raise _no_frames(path)
    clock.check_end()


def entered(path: Path, limits: Limits, pts: list[int]) -> Iterator[tuple[Facts, Image]]:
    """The frames with these ``pts``, by a seek; none where that does not lead to them exactly."""
    images: dict[int, Image] = {}
    with open_pictures(path) as (container, edit):
        track = video_track(container)
        if track is None or _lacks_times(container):
            return
        to_rgb, wanted = (
            _RgbConverter(track.codec_context.width, track.codec_context.height),
            {*pts},
        )
        try:
            container.seek(pts[0], stream=track, backward=True)
        except av.FFmpegError:
            return
        for n, decoded in enumerate(_decoded(path, container, limits, edit)):
            if decoded.pts is None or decoded.is_corrupt or (n == 0 and decoded.pts > pts[0]):
                return
            if decoded.pts in wanted:
                images[decoded.pts] = _orientation(decoded).apply(to_rgb(decoded))
            if decoded.pts >= pts[-1]:
                break
    if len(images) == len(pts):
        yield from (({"pts": one}, images[one]) for one in pts)


def first_picture_s(path: Path, limits: Limits) -> Fraction | None:
    """The time of a file's first picture on the container's clock, seconds; None without one.

    Decoded, not read from the headers: a recording cut out of a broadcast starts with packets
    that no decoder can use.
    """
    with suppress(MediaError), open_pictures(path) as (container, edit):
        for frame in _decoded(path, container, limits, edit):
            if frame.pts is not None and frame.time_base is not None:
                return frame.pts * frame.time_base
    return None


def recording_offsets(path: Path, limits: Limits) -> list[Fraction]:
    """What is added to the times of each recording in a file, seconds, more than in the first.

    A file holds several where its clock starts again. None are given where packets and pictures do
    not agree on how many there are.
    """
    begins = Beginnings()
    with suppress(MediaError), open_pictures(path) as (container, edit):
        clock: _PictureClock | None = None
        for decoded in _decoded(path, container, limits, edit, begins.note):
            if clock is None:
                facts = _facts(path, container, decoded, limits)
                clock = _PictureClock(path, facts, limits, by_order=_lacks_times(container))
            clock.tick(decoded)
        if clock is not None and len(clock.offsets_s) == 1 + begins.count:
            return [offset_s - clock.offsets_s[0] for offset_s in clock.offsets_s]
    return []


TASKS: dict[str, Task] = {"describe": describe, "frames": frames, "entered": entered}


class _Orientation(NamedTuple):
    """How stored pixels become displayed ones: first transposed, then flipped."""

    transposed: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    rotation_deg: int = 0

    def apply(self, image: Image) -> Image:
        if self.transposed:
            image = image.transpose(1, 0, 2)
        image = image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(image)


def _decoded(
    path: Path,
    container: InputContainer,
    limits: Limits,
    edit: Edit | None,
    note: Note = lambda _: None,
) -> Iterator[VideoFrame]:
    """The frames of the main video track that are shown."""
    track = video_track(container)
    if track is not None:
        _check_size(path, track.codec_context.width, track.codec_context.height, limits)
        # Pictures that grow on the way are refused before there is memory for them.
        track.codec_context.options = {"max_pixels": str(_padded_pixels(limits))}
    for frame in decode_video(path, container, note):
        _check_size(path, frame.width, frame.height, limits)
        if edit is None or edit.shows(frame):
            yield frame


def _padded_pixels(limits: Limits) -> int:
    """What codecs may allocate: whole blocks of at most 128 pixels beyond the picture's edges."""
    return min(2**31 - 1, limits.pixels + 256 * LARGEST_SIDE_PX)


def _check_size(path: Path, width: int, height: int, limits: Limits) -> None:
    if width == height == 0:  # headers without a size: the decoder will find that nothing is there
        return
    if min(width, height) < SMALLEST_SIDE_PX or max(width, height) > LARGEST_SIDE_PX:
        raise MediaError(
            f"the frames of {path} measure {width} x {height} pixels",
            wanted=f"{SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} pixels on each side",
        )
    check_pixels(path, width, height, limits)


def _no_frames(path: Path) -> MediaError:
    return MediaError(f"no frame of {path} could be decoded", wanted="a video with frames")


def _orientation(frame: VideoFrame) -> _Orientation:
    """Read the display matrix (a, b, u; c, d, v; x, y, w), rounded to right angles.

    It sends the stored point (p, q) to (a p + c q + x, b p + d q + y), y pointing down.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side_data, SideData) or side_data.buffer_size < _MATRIX_BYTES:
        return _Orientation()
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    rotation_deg = round(math.atan2(b, a) / (math.pi / 2)) * 90 % 360
    if abs(b) > abs(a):
        return _Orientation(True, c < 0, b < 0, rotation_deg)
    return _Orientation(False, a < 0, d < 0, rotation_deg)


def _facts(
    path: Path, container: InputContainer, frame: VideoFrame, limits: Limits
) -> dict[str, Any]:
    """The fields of ``media.video.VideoInfo`` but for its path, as JSON has them."""
    track = video_track(container)
    assert track is not None
    before = [one for one in container.streams.video if one.index < track.index]
    orientation = _orientation(frame)
    width, height = frame.width, frame.height
    aspect = track.sample_aspect_ratio or Fraction(1)
    if orientation.transposed:
        width, height, aspect = height, width, 1 / aspect
    fps = _rate(track.average_rate) or _rate(track.guessed_rate) or _FALLBACK_FPS
    seconds = duration_s(container, track)
    count = track.frames or (round(seconds * fps) if seconds else None)
    starts_s = max(0, container.start_time or 0) / av.time_base  # Matroska counts from zero on
    check_duration(path, (seconds or 0) - starts_s, limits)
    check_frames(path, track.frames, width * height, limits)
    return {
        "width": width,
        "height": height,
        "rotation_deg": orientation.rotation_deg,
        "fps": str(fps),
        "time_base": str(track.time_base or frame.time_base),
        "frames_estimate": count,
        "duration_s": seconds,
        "codec": track.codec_context.name,
        "pixel_format": frame.format.name,
        "has_audio": audio_track(container) is not None,
        "sample_aspect_ratio": str(aspect),
        "comment": _comment(container),
        "tags": dict(container.metadata),
        "colour": asdict(Colour.of(frame)),
        "hdr": hdr_of(frame),
        "interlaced": bool(frame.interlaced_frame),
        "alpha": _has_alpha(track, frame),
        "unknown_tracks": sum(not (has_decoder(t) or is_cover(t)) for t in before),
    }


def _has_alpha(track: VideoStream, frame: VideoFrame) -> bool:
    """Whether pictures are see-through; WebM keeps that beside them, and says so in a tag."""
    tags = {name.lower(): text for name, text in track.metadata.items()}
    return tags.get("alpha_mode") == "1" or any(c.is_alpha for c in frame.format.components)


def _rate(fps: Fraction | None) -> Fraction | None:
    """A frame rate that can be one."""
    return fps if fps and 0 < fps <= _HIGHEST_FPS else None


def _comment(container: InputContainer) -> str:
    tags = {name.lower(): text for name, text in container.metadata.items()}
    return tags.get("comment", "")


def _lacks_times(container: InputContainer) -> bool:
    """Whether frames are stored without times, in an order that is not that of display.

    What FFmpeg then calls their times is a guess from the order in which they are stored.
    """
    track = video_track(container)
    has_b_frames = track is not None and track.codec_context.has_b_frames
    return bool(has_b_frames) and container.format.name in _TIMELESS_FORMATS


class _PictureClock:
    """Gives every frame a timestamp that rises, and holds them to the limits."""

    def __init__(
        self, path: Path, facts: dict[str, Any], limits: Limits, *, by_order: bool = False
    ) -> None:
        """``by_order`` is for frames without times: they follow each other as they are decoded."""
        self._path, self._limits = path, limits
        self._by_order, self._shift = by_order, 0
        self._time_base, fps = Fraction(facts["time_base"]), Fraction(facts["fps"])
        self._promised_s: float | None = facts["duration_s"]
        self._pixels = facts["width"] * facts["height"]
        self._step = max(1, round(1 / (fps * self._time_base)))
        self._clock = Clock(0)
        self._first: int | None = None
        self._last = 0
        self._frames = 0

    @property
    def offset(self) -> int:
        """What is added to the times that are stored."""
        return self._clock.offset

    @property
    def offsets_s(self) -> list[Fraction]:
        """What is added in each recording so far, seconds."""
        return [offset * self._time_base for offset in self._clock.offsets]

    def tick(self, frame: VideoFrame) -> tuple[int, float]:
        """The frame's ``pts`` and its seconds since the first frame."""
        self._last = self._clock.tick(self._stored(frame), self._step)
        if self._first is None:
            self._first = self._last
        self._frames += 1
        time_s = float((self._last - self._first) * self._time_base)
        check_duration(self._path, time_s, self._limits)
        check_frames(self._path, self._frames, self._pixels, self._limits)
        return self._last, time_s

    def _stored(self, frame: VideoFrame) -> int | None:
        """The time that the file states for a frame."""
        pts = frame.pts
        if self._by_order and self._first is None:
            self._shift = (frame.pts or 0) - (frame.dts or 0)
        elif self._by_order:
            pts = None if frame.dts is None else frame.dts + self._shift
        if pts is not None and abs(pts) > _HIGHEST_PTS:
            raise MediaError(f"{self._path} has a frame at a time beyond all bounds")
        return pts

    def check_end(self) -> None:
        """Warn where the headers promise more than was there."""
        if self._first is None or self._promised_s is None:
            return
        end_s = float((self._last + self._step - self._first) * self._time_base)
        if self._promised_s - end_s > _MISSING_TAIL_S:
            logger.warning(
                "%s: frames end at %.1f s of %.1f s", self._path, end_s, self._promised_s
            )


class _RgbConverter:
    """Decoded frames of any pixel format to 8-bit RGB, all at one size."""

    def __init__(self, width: int, height: int) -> None:
        self._reformatter = VideoReformatter()
        self._width, self._height = width, height
        self._tone_mappers: dict[str, ToneMapper] = {}

    def __call__(self, frame: VideoFrame) -> Image:
        hdr = hdr_of(frame)
        if not hdr:
            return np.asarray(self._rgb(frame, "rgb24").to_ndarray(), np.uint8)
        if hdr not in self._tone_mappers:
            self._tone_mappers[hdr] = ToneMapper(hdr, self._width, self._height)
        mapped = self._tone_mappers[hdr](self._rgb(frame, "rgb48le"))
        return np.asarray(mapped.to_ndarray(), np.uint8)

    def _rgb(self, frame: VideoFrame, pixel_format: str) -> VideoFrame:
        is_untagged_hd = frame.colorspace == UNTAGGED and frame.height >= HD_ROWS_PX
        return self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format=pixel_format,
            src_colorspace=Colorspace.ITU709 if is_untagged_hd else None,
            interpolation=_SCALING,
            threads=1,
        )
