"""Media made by plain PyAV, and by the writer under test, for the tests of media."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypedDict, Unpack

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.media.video import Image, VideoWriter

TONE_HZ = 440


def gradient(width: int, height: int, blue: int = 0) -> Image:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, np.full_like(x, blue)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def psnr_db(a: Image, b: Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def tone(rate_hz: int, seconds: float, amplitude: float = 0.5) -> NDArray[np.float32]:
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * TONE_HZ * t)).astype(np.float32)


def write_sound(
    path: Path,
    samples: NDArray[np.float32],
    rate_hz: int,
    layout: str = "mono",
    codec: str = "pcm_s16le",
) -> Path:
    """Write ``(channels, samples)``, or one channel repeated for every channel of the layout."""
    channels = len(av.AudioLayout(layout).channels)
    samples = np.broadcast_to(samples, (channels, samples.shape[-1]))
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(track, AudioStream)
        out.mux(track.encode(sound_frame(samples, rate_hz, layout)))
        out.mux(track.encode(None))
    return path


def sound_frame(samples: NDArray[np.float32], rate_hz: int, layout: str) -> AudioFrame:
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), 0
    return frame


def write_video(
    path: Path,
    images: Iterable[Image],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    colorspace: Colorspace = Colorspace.ITU601,
    matrix: list[int] | None = None,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    ticks_ms: list[int] | None = None,
) -> Path:
    """Write untagged 25 fps video with plain PyAV, not with the code under test."""
    images = list(images)
    with av.open(str(path), "w", format=container_format) as out:
        track = out.add_stream(codec, rate=25, options=options)
        assert isinstance(track, VideoStream)
        track.height, track.width, _ = images[0].shape
        track.pix_fmt = pix_fmt
        if matrix is not None:
            track.set_display_matrix(matrix)
        if ticks_ms is not None:
            track.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, "rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace)
            frame.pts = index * 40 if ticks_ms is None else ticks_ms[index]
            frame.time_base = Fraction(1, 1000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def write_both(path: Path, video_start_s: Fraction, sound_start_s: Fraction) -> Path:
    """Write one second of constant sound and a second of picture, each from its own start."""
    rate_hz = 48_000
    with av.open(str(path), "w") as out:
        picture = out.add_stream("ffv1", rate=25)
        sound = out.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        assert isinstance(picture, VideoStream)
        assert isinstance(sound, AudioStream)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "bgr0"
        for index in range(25):
            frame = VideoFrame.from_ndarray(gradient(32, 32), "rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = index + round(video_start_s * 25), Fraction(1, 25)
            out.mux(picture.encode(frame))
        block = sound_frame(np.full((1, rate_hz), 0.5, np.float32), rate_hz, "mono")
        block.pts = round(sound_start_s * rate_hz)
        out.mux(sound.encode(block))
        for track in (picture, sound):
            out.mux(track.encode(None))
    return path


class Pipe(io.RawIOBase):
    """Takes a stream that cannot go back: neither duration nor number of frames is known."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.content += bytes(data)
        return len(data)


def streamed(path: Path, times_ms: Sequence[int]) -> Path:
    """Small pictures at these times, in a webm that tells no length."""
    pipe = Pipe()
    with av.open(pipe, "w", format="webm") as out:
        track = out.add_stream("libvpx", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = VideoFrame.from_ndarray(np.full((48, 64, 3), time_ms % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    path.write_bytes(pipe.content)
    return path


class WriterOptions(TypedDict, total=False):
    audio: Path
    lossless: bool
    comment: str
    sample_aspect_ratio: Fraction


def writer_25(path: Path, width: int, height: int, **options: Unpack[WriterOptions]) -> VideoWriter:
    """The writer under test, at 25 fps."""
    time_base = Fraction(1, 25)
    return VideoWriter(path, width=width, height=height, fps=25, time_base=time_base, **options)


def write_with(path: Path, images: Iterable[Image], **options: Unpack[WriterOptions]) -> Path:
    """Write 25 fps video with the writer under test."""
    images = iter(images)
    first = next(images)
    with writer_25(path, first.shape[1], first.shape[0], **options) as writer:
        for pts, image in enumerate(itertools.chain([first], images)):
            writer.write(image, pts)
    return path


def dominant_hz(samples: NDArray[np.float32], rate_hz: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate_hz / len(samples))
