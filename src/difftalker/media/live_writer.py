"""Writes pictures and sound as they come: to a file, or as Matroska to a stream."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.media.container import check_output, movflags
from difftalker.media.video import OUTPUT_SUFFIXES

STREAM = "-"
"""In place of a file's name: standard output."""


class LiveWriter:
    """H.264 and AAC without delay; a file is complete at the end, or not there at all."""

    def __init__(
        self,
        output: str,
        *,
        width: int,
        height: int,
        fps: float,
        comment: str,
        tags: Mapping[str, str] = MappingProxyType({}),
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        """``output`` is a file's name, or ``STREAM``.

        ``finish`` is called with a file once it is complete but for what it adds.

        Raises:
            MediaError: the file cannot be written.
        """
        self._size = width, height
        self._fps = Fraction(fps).limit_denominator(1001)
        self._tags, self._output = {"comment": comment, **tags}, output
        self._finish_file = finish
        self._path: Path | None = None
        if output != STREAM:
            self._path = check_output(Path(output), OUTPUT_SUFFIXES)
            name = f".{self._path.stem}.{secrets.token_hex(4)}{self._path.suffix}"
            self._scratch = self._path.parent / name
        self._samples = 0

    def __enter__(self) -> LiveWriter:
        even = [-(-side // 2) * 2 for side in self._size]
        flags = movflags(self._tags)
        try:
            if self._path is None:
                self._container = av.open(sys.stdout.buffer, "w", format="matroska")
            else:
                self._container = av.open(
                    str(self._scratch),
                    "w",
                    options={} if self._path.suffix == ".mkv" else {"movflags": flags},
                )
            video = self._container.add_stream("libx264", rate=self._fps)
            assert isinstance(video, VideoStream)
            video.width, video.height, video.pix_fmt = *even, "yuv420p"
            video.time_base = 1 / self._fps
            video.codec_context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}
            sound = self._container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            assert isinstance(sound, AudioStream)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"{self._output} cannot be written: {error}") from error
        self._container.metadata.update(self._tags)
        self._video, self._sound, self._even = video, sound, even
        return self

    def play(self, samples: NDArray[np.float32]) -> None:
        """Append sound (n,), mono at 16 kHz."""
        if not len(samples):
            return
        frame = AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.time_base = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ)
        frame.pts = self._samples
        self._samples += len(samples)
        self._container.mux(self._sound.encode(frame))

    def show(self, image: NDArray[np.uint8], number: int) -> None:
        """Append a picture (H, W, 3), frame ``number`` of the full rate."""
        height, width = image.shape[:2]
        bottom, right = self._even[1] - height, self._even[0] - width
        if bottom or right:
            image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = number, 1 / self._fps
        self._container.mux(self._video.encode(frame))

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        try:
            for track in (self._video, self._sound):
                self._container.mux(track.encode(None))
            self._container.close()
            if self._path is not None and kind is None:
                if self._finish_file is not None:
                    self._finish_file(self._scratch)
                self._scratch.replace(self._path)
        except (av.FFmpegError, OSError) as error:
            if kind is None:
                raise MediaError(f"{self._output} cannot be written: {error}") from error
        finally:
            if self._path is not None:
                self._scratch.unlink(missing_ok=True)
