"""Sound keeps its place against the pictures where a file holds several recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from difftalker.media.audio import read_audio
from difftalker.media.video import read_frames
from media.made import sound_frame

RATE_HZ, FPS, CLICK_S = 48_000, 25, 0.4
TICK_S = 0.001
"""How far a click may lie from its place: the sound of a frame of 24 ms would be much."""


@dataclass(frozen=True)
class Recording:
    """Some frames, and sound with one click."""

    frames: int
    sound_s: float | None = None
    """By default as long as the pictures; 0: without sound."""
    begins_s: float = 0.0
    """When the sound begins."""

    def write(self, path: Path) -> bytes:
        with av.open(str(path), "w", format="mpegts") as out:
            picture = out.add_stream("mpeg2video", rate=FPS)
            sound = out.add_stream("mp2", rate=RATE_HZ, layout="mono")
            assert isinstance(picture, VideoStream)
            assert isinstance(sound, AudioStream)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for number in range(self.frames):
                image = np.full((48, 64, 3), 40 + number, np.uint8)
                frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                out.mux(picture.encode(frame))
            lasts_s = self.frames / FPS if self.sound_s is None else self.sound_s
            if lasts_s:
                samples = np.zeros((1, round((lasts_s - self.begins_s) * RATE_HZ)), np.float32)
                click = round((CLICK_S - self.begins_s) * RATE_HZ)
                samples[0, click : click + 24] = 0.9
                block = sound_frame(samples, RATE_HZ, "mono")
                block.pts = round(self.begins_s * RATE_HZ)
                out.mux(sound.encode(block))
            for track in (picture, sound):
                out.mux(track.encode(None))
        return path.read_bytes()


def write_all(folder: Path, recordings: Sequence[Recording]) -> Path:
    parts = [one.write(folder / f"{number}.ts") for number, one in enumerate(recordings)]
    path = folder / "all.ts"
    path.write_bytes(b"".join(parts))
    return path


def clicks_s(path: Path) -> list[float]:
    """The places of the clicks in the sound of a file."""
    loud = np.flatnonzero(np.abs(read_audio(path)) > 0.3) / 16_000
    begins = np.flatnonzero(np.diff(loud, prepend=-1) > 0.1)
    return [float(loud[begin]) for begin in begins]


@pytest.mark.parametrize(
    "recordings",
    [
        [Recording(20)] * 3,
        [Recording(20, 0.845), Recording(30, 1.245), Recording(20, 0.845), Recording(20)],
        [Recording(40, 0.5), Recording(20), Recording(20)],
        [Recording(30, 1.9), Recording(20), Recording(20)],
        [Recording(40, 0.5), Recording(50, 1.9, 0.3), Recording(20)],
        [Recording(20), Recording(30, 0), Recording(20)],
        [Recording(20), Recording(12, 0.53), Recording(12, 0.53), Recording(20)],
    ],
    ids=["equal", "longer", "shorter", "much longer", "later", "without sound", "short"],
)
def test_clicks_keep_their_place(tmp_path: Path, recordings: list[Recording]) -> None:
    path = write_all(tmp_path, recordings)
    times_s = [frame.time_s for frame in read_frames(path)]
    begins = np.cumsum([0, *(one.frames for one in recordings)])
    np.testing.assert_allclose(times_s, np.arange(begins[-1]) / FPS, atol=1e-6)
    # The codec's own delay is that of the first.
    delay_s = clicks_s(tmp_path / "0.ts")[0] - CLICK_S
    pairs = zip(begins[:-1], recordings, strict=True)
    wanted = [begin / FPS + CLICK_S + delay_s for begin, one in pairs if one.sound_s != 0]
    np.testing.assert_allclose(clicks_s(path), wanted, atol=TICK_S)
