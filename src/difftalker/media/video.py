"""Video files: frames with their timestamps in, H.264 with sound out."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import OutputContainer
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.config import DEFAULT_CRF
from difftalker.errors import MediaError
from difftalker.media.audio import SoundTrack, probe_audio
from difftalker.media.colour import Colour, Hdr
from difftalker.media.container import MediaPath, check_output, movflags
from difftalker.media.decoder import ask

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
"""A picture, ``(height, width, 3)`` RGB."""

AudioSource = MediaPath
"""Where a video's sound comes from: any file with a sound track, a video too."""

OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
LOSSLESS_SUFFIXES = (".mkv",)

_GROUP_FRAMES = 24  # held at once while a video is read backwards
_ENCODER_THREADS = 4  # fixed: x264 and FFV1 write other bytes with another number
_SAME_BYTES = {"x264-params": "cpu-independent=1"}
"""x264's AVX-512 code for macroblock-tree rate control reads memory that nothing has written: the
same pictures came out as eleven different files in sixteen runs. Without it they are one."""

_LIMITED_RANGE, _FULL_RANGE = 1, 2


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says of its main video track."""

    path: Path
    width: int
    """Pixels across as displayed, rotation applied."""
    height: int
    rotation_deg: int
    """Clockwise turn from the stored to the displayed picture: 0, 90, 180 or 270."""
    fps: Fraction
    """Average frame rate."""
    time_base: Fraction
    """Seconds in one unit of a frame's ``pts``."""
    frames_estimate: int | None
    """Number of frames by the headers; None where they do not say."""
    duration_s: float | None
    codec: str
    has_audio: bool
    sample_aspect_ratio: Fraction
    """Width of a displayed pixel over its height; 1 but for some broadcast material."""
    comment: str
    """The container's comment, where this project states that a video is AI-generated."""
    pixel_format: str = "yuv420p"
    """As stored, by FFmpeg's name."""
    colour: Colour = field(default_factory=Colour)
    """What a dubbing's colours are to be stored as: those of the file, where it is not HDR."""
    hdr: Hdr = ""
    """The curve of high dynamic range, "pq" or "hlg", or empty."""
    interlaced: bool = False
    """Whether the first frame holds two fields, one of every second row, taken at two times."""
    alpha: bool = False
    """Whether pictures are see-through, which they are no more once they are read."""
    unknown_tracks: int = 0
    """Video tracks before this one that FFmpeg cannot decode."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """All of the container's own tags."""

    def warn(self) -> None:
        """Say in the log what will look different."""
        if self.unknown_tracks:
            logger.warning(
                "%s: its first video track cannot be decoded, as FFmpeg does not know the codec;"
                " the first one that can is taken (%s)",
                self.path,
                self.codec,
            )
        if self.alpha:
            logger.warning(
                "%s has an alpha channel: it is dropped, and the output is opaque", self.path
            )
        if self.interlaced:
            logger.warning(
                "%s is interlaced: its frames are dubbed as they are, and stored as whole pictures;"
                " de-interlace it before for the best result",
                self.path,
            )
        if self.hdr:
            logger.warning(
                "%s has high dynamic range (%s): the output has the range of BT.709",
                self.path,
                self.hdr.upper(),
            )

    def record(self) -> dict[str, object]:
        """What a report says of the footage, as JSON knows it."""
        names = ("width", "height", "rotation_deg", "codec", "pixel_format", "hdr", "interlaced")
        rates = {"frames_per_second": float(self.fps), "time_base": str(self.time_base)}
        return {**{name: getattr(self, name) for name in names}, **rates}


@dataclass(frozen=True)
class Frame:
    """One displayed picture."""

    image: Image
    """``(height, width, 3)`` uint8 RGB, contiguous."""
    pts: int
    """Time of display in units of the track's ``time_base``, zero or later and rising."""
    time_s: float
    """Seconds since the first frame, which is also where ``media.audio`` starts the sound."""
    offset: int = 0
    """By how much ``pts`` lies after the time that the file states for the frame."""


def probe_video(path: MediaPath) -> VideoInfo:
    """Describe a file's main video track; its first frame is decoded.

    Raises MediaError where the file is missing, empty, no media, without video or frames, beyond
    the limits (``media.limits``), or with frames of a size that cannot be handled.
    """
    (answer,) = ask("describe", path)
    facts = answer.facts
    ratios = {key: Fraction(facts[key]) for key in ("fps", "time_base", "sample_aspect_ratio")}
    colour = Colour(**facts["colour"])
    return VideoInfo(**{**facts, **ratios, "colour": colour, "path": Path(path)})


def read_frames(path: MediaPath) -> Iterator[Frame]:
    """Stream the frames of a file's main video track, upright, as 8-bit RGB.

    Timestamps are those of the file, variable frame rate included; where one is missing or
    does not rise, the next by the average rate stands in, and what follows keeps its distance from
    it. Times that begin below zero are shifted to begin there. High dynamic range is brought to
    BT.709 (``media.colour``). A file whose tail is cut off gives the frames that decode, and a
    warning.
    Memory does not grow with the file.

    Raises MediaError as ``probe_video`` does.
    """
    for answer in ask("frames", path):
        yield Frame(answer.data, **answer.facts)


def read_backwards(path: MediaPath, pts: Sequence[int], offset: int | None = 0) -> Iterator[Image]:
    """Stream the frames with these ``pts`` (rising, as ``read_frames`` gives them) last to first.

    A few are held at a time: each group is decoded from the key frame before it, or where the
    file cannot be entered there, from its start. ``offset`` is that of all frames of the file;
    None where they differ: its clock has then jumped, and times do not say where a frame lies.

    Raises MediaError as ``probe_video`` does.
    """
    for stop in range(len(pts), 0, -_GROUP_FRAMES):
        group = list(pts[max(0, stop - _GROUP_FRAMES) : stop])
        images = None if offset is None else _entered(path, [one - offset for one in group])
        if images is None:
            wanted = set(group)
            images = [frame.image for frame in read_frames(path) if frame.pts in wanted]
        yield from reversed(images)


def _entered(path: MediaPath, pts: list[int]) -> list[Image] | None:
    """The frames with these ``pts``, by a seek; None where that does not lead to them exactly."""
    images = [answer.data for answer in ask("entered", path, pts=pts)]
    return images or None


class VideoWriter:
    """Writes frames and the sound of another file; complete at the end or not there at all.

    H.264 (yuv420p) and AAC, index first (``+faststart``); or, ``lossless``, FFV1 in
    RGB and PCM, in Matroska, where every pixel comes back as it was (Matroska rounds times to
    milliseconds). Timestamps are kept, variable frame rate included. The sound starts with the
    first frame and is cut where the last one ends, or ends earlier; it keeps its rate and
    channels where AAC has them. An odd width or height is made even for H.264, by repeating
    the last column or row. Memory does not grow with the video.

    Use it as a context manager: the file appears under its name at the end of the block, and
    an exception within leaves nothing behind.
    """

    def __init__(
        self,
        path: MediaPath,
        *,
        width: int,
        height: int,
        fps: Fraction | int,
        time_base: Fraction,
        audio: AudioSource | None = None,
        crf: int = DEFAULT_CRF,
        preset: str = "veryfast",
        lossless: bool = False,
        comment: str = "",
        tags: Mapping[str, str] = MappingProxyType({}),
        finish: Callable[[Path], None] | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
        colour: Colour | None = None,
        scratch_folder: Path | None = None,
    ) -> None:
        """Check everything that can be checked before the work starts; writes nothing yet.

        ``width`` and ``height`` are those of the images to come, pixels; ``fps`` is the average
        rate, ``time_base`` the seconds in one unit of ``pts``. ``crf`` (0 to 51, lower is better)
        and ``preset`` are x264's. ``comment`` and ``tags`` are stored in the container, and
        ``colour`` says how colours are (BT.709 by default; lossless files hold RGB). ``finish`` is
        called with the complete file before it takes its name, and may add to it. The file grows in
        ``scratch_folder``, on the same disk, or else beside its final place. Raises MediaError
        where the output folder is missing or closed to writing, the suffix is none of
        ``OUTPUT_SUFFIXES``, or ``audio`` has no sound track.
        """
        self._path = check_output(path, LOSSLESS_SUFFIXES if lossless else OUTPUT_SUFFIXES)
        name = f".{self._path.stem}.{secrets.token_hex(4)}{self._path.suffix}"
        self._scratch = (scratch_folder or self._path.parent) / name
        self._width, self._height = width, height
        self._fps = Fraction(fps).limit_denominator(1_000_000)
        self._time_base = time_base
        self._audio = None if audio is None else probe_audio(audio)
        self._lossless, self._finish_file = lossless, finish
        self._tags = {**({"comment": comment} if comment else {}), **tags}
        self._aspect, self._colour = sample_aspect_ratio, colour or Colour()
        self._options = {} if lossless else {"crf": str(crf), "preset": preset, **_SAME_BYTES}
        self._first: int | None = None
        self._last = 0

    @classmethod
    def like(cls, footage: VideoInfo, path: MediaPath, **options: Any) -> Self:
        """A writer of frames with the size, clock, shape of pixels and colours of footage.

        ``options`` are those of the class; errors as there.
        """
        names = ("width", "height", "fps", "time_base", "sample_aspect_ratio", "colour")
        return cls(path, **{**{name: getattr(footage, name) for name in names}, **options})

    def __enter__(self) -> Self:
        try:
            self._open()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise self._failure(error) from error
        return self

    def _open(self) -> None:
        is_mov = self._path.suffix.lower() != ".mkv"
        timescale = str(self._time_base.denominator)
        self._container: OutputContainer = av.open(
            str(self._scratch.absolute()),
            mode="w",
            options={
                "movflags": movflags(self._tags),
                "video_track_timescale": timescale,
                "movie_timescale": timescale,  # else a later start is rounded to milliseconds
            }
            if is_mov
            else {"fflags": "+bitexact"},  # Matroska is else given random numbers
        )
        self._container.metadata.update(self._tags)
        self._track = self._add_track()
        self._from_rgb = _encoder_input(self._track.codec_context, self._time_base, self._colour)
        self._sound = (
            SoundTrack(self._container, self._audio, self._lossless) if self._audio else None
        )

    def _add_track(self) -> VideoStream:
        codec_name = "ffv1" if self._lossless else "libx264"
        track = self._container.add_stream(codec_name, rate=self._fps, options=self._options)
        assert isinstance(track, VideoStream)
        context = track.codec_context
        context.time_base = self._time_base
        context.sample_aspect_ratio = self._aspect
        context.width, context.height = self._width, self._height
        context.thread_count = _ENCODER_THREADS
        context.pix_fmt = "bgr0"
        if not self._lossless:
            context.width += self._width % 2
            context.height += self._height % 2
            context.pix_fmt = "yuv420p"
            context.color_range = _FULL_RANGE if self._colour.full_range else _LIMITED_RANGE
            context.colorspace = self._colour.matrix
            context.color_primaries = self._colour.primaries
            context.color_trc = self._colour.transfer
        return track

    def write(self, image: Image, pts: int) -> None:
        """Add one frame, ``(height, width, 3)`` uint8 RGB, shown from ``pts`` time bases on.

        ``pts`` rises from frame to frame. Raises MediaError where the file cannot be written.
        """
        if image.shape != (self._height, self._width, 3) or image.dtype != np.uint8:
            raise ValueError(f"{image.dtype} image of {image.shape}: not the size promised")
        if self._first is not None and pts <= self._last:
            raise ValueError(f"pts {pts} does not rise above {self._last}")
        try:
            self._first, self._last = pts if self._first is None else self._first, pts
            self._container.mux(self._track.encode(self._frame(image, pts)))
            self._mux_sound(pts * self._time_base)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _frame(self, image: Image, pts: int) -> VideoFrame:
        odd_rows, odd_columns = self._height % 2, self._width % 2
        if not self._lossless and (odd_rows or odd_columns):
            image = np.pad(image, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        rgb.pts, rgb.time_base = pts, self._time_base
        rgb.duration = round(1 / (self._fps * self._time_base))
        self._from_rgb.vpush(rgb)
        return self._from_rgb.vpull()

    def _mux_sound(self, until_s: Fraction) -> None:
        """Bring the sound up to a time on the video's own clock."""
        if self._sound is not None and self._first is not None:
            start_s = self._first * self._time_base
            self._container.mux(list(self._sound.packets(start_s, until_s)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (av.FFmpegError, OSError) as failure:
            raise self._failure(failure) from failure
        finally:
            self._discard()

    def _finish(self) -> None:
        if self._first is None:
            raise MediaError(f"no frame was written to {self._path}", wanted="one at least")
        self._container.mux(self._track.encode(None))
        self._mux_sound(self._last * self._time_base + 1 / self._fps)
        if self._sound is not None:
            self._container.mux(self._sound.flush())
        self._container.close()
        if self._finish_file is not None:
            self._finish_file(self._scratch)
        self._scratch.replace(self._path)

    def _discard(self) -> None:
        """Close, and remove what has not become the output."""
        with suppress(OSError):  # first, so that closing does not rewrite a long file
            self._scratch.unlink(missing_ok=True)
        with suppress(av.FFmpegError, OSError, AttributeError):
            self._container.close()
        with suppress(OSError):  # a system that keeps open files lets go of it only now
            self._scratch.unlink(missing_ok=True)

    def _failure(self, error: Exception) -> MediaError:
        reason = getattr(error, "strerror", None) or str(error)
        return MediaError(
            f"could not write {self._path}: {reason}",
            fix="free space in the output folder, or choose another",
        )


def _encoder_input(encoder: VideoCodecContext, time_base: Fraction, colour: Colour) -> Graph:
    """A filter from RGB to what the encoder takes.

    A filter and not ``VideoFrame.reformat``, which puts chroma samples between two pixels where
    H.264 expects them on the left one: colours would move by half a pixel.
    """
    assert encoder.pix_fmt is not None
    yuv = "" if encoder.pix_fmt == "bgr0" else f"{colour.scaling}:out_chroma_loc=left:"
    rgb = VideoFormat("rgb24", encoder.width, encoder.height)
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=encoder.width, height=encoder.height, format=rgb, time_base=time_base
        ),
        graph.add("scale", yuv + "flags=bicubic+accurate_rnd+full_chroma_inp+bitexact"),
        graph.add("format", encoder.pix_fmt),
        graph.add("buffersink"),
    )
    graph.configure()
    return graph
