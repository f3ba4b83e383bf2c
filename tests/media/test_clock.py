"""Clocks that jump back, wrap, stand still or begin below zero, of pictures and of sound."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.media.audio import read_audio
from difftalker.media.timeline import fit, play
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.media.worker.clock import DISTURBED_TIMES, Clock
from media.made import sound_frame, tone, write_sound

STEP, RATE_HZ = 40, 48_000


def ticked(stored: list[int | None]) -> list[int]:
    clock = Clock(0)
    return [clock.tick(one, STEP) for one in stored]


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ([0, 40, 90, 130], [0, 40, 90, 130]),
        ([500, 540, 580], [500, 540, 580]),
        ([-90, -50, 30], [0, 40, 120]),
        ([0, 40, 40, 80, 120], [0, 40, 80, 120, 160]),
        ([0, None, 80], [0, 40, 80]),
        ([None, 40], [0, 40]),
        ([10, 50, 90, 10, 70, 110], [10, 50, 90, 130, 190, 230]),
        ([0, 40, 0, 40, 0, 40], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 80, 20, 160, 200], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 40, 120, 160], [0, 40, 80, 120, 160]),
    ],
)
def test_times_rise_by_their_own_steps_or_the_average(stored: list[int], wanted: list[int]) -> None:
    assert ticked(list(stored)) == wanted


def test_an_offset_is_kept_for_all_that_follows() -> None:
    """A gap in a second recording is as long as it was."""
    first = list(range(0, 4000, STEP))
    second = [*range(0, STEP * DISTURBED_TIMES, STEP), 50_000, 50_040]
    assert ticked([*first, *second]) == [*first, *(4000 + one for one in second)]


def write_recording(path: Path, start: int, frames: int, level: float, grey: int = 20) -> Path:
    """Grey pictures, each a little lighter, and a tone, from ``start`` / 25 s on."""
    with av.open(str(path), "w", format="mpegts") as out:
        picture = out.add_stream("libx264", rate=25, options={"bf": "2", "g": "5"})
        sound = out.add_stream("mp2", rate=RATE_HZ, layout="mono")
        assert isinstance(picture, VideoStream)
        assert isinstance(sound, AudioStream)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            image = np.full((48, 64, 3), grey + 3 * i, np.uint8)
            frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = start + i, Fraction(1, 25)
            out.mux(picture.encode(frame))
        block = sound_frame(tone(RATE_HZ, frames / 25, level)[None], RATE_HZ, "mono")
        block.pts = start * RATE_HZ // 25
        out.mux(sound.encode(block))
        for track in (picture, sound):
            out.mux(track.encode(None))
    return path


def write_chain(path: Path, lengths: list[int]) -> Path:
    """Recordings in one file, each with a clock that starts again, each half as loud."""
    parts, shown = [], 0
    for number, frames in enumerate(lengths):
        part = path.with_name(f"part{number}.ts")
        write_recording(part, 0, frames, 0.8 / 2**number, 20 + 3 * shown)
        parts.append(part.read_bytes())
        shown += frames
    path.write_bytes(b"".join(parts))
    return path


def levels(sound: NDArray[np.float32], lengths: list[int]) -> list[float]:
    """The loudest in the middle of each recording."""
    stops = np.cumsum(lengths) * 640
    return [
        float(np.abs(sound[b - 640 * n // 2 : b - 640 * n // 4]).max())
        for n, b in zip(lengths, stops.tolist(), strict=True)
    ]


@pytest.mark.parametrize("lengths", [[20, 20], [30, 10, 20]])
def test_a_clock_that_starts_again_goes_on(tmp_path: Path, lengths: list[int]) -> None:
    path, total = write_chain(tmp_path / "a.ts", lengths), sum(lengths)
    frames = list(read_frames(path))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(total) / 25)
    assert all(a.image.mean() < b.image.mean() for a, b in pairwise(frames)), "in order"
    sound = read_audio(path)
    assert len(sound) / 16_000 == pytest.approx(total / 25, abs=0.06)
    wanted = [0.8 / 2**number for number in range(len(lengths))]
    np.testing.assert_allclose(levels(sound, lengths), wanted, rtol=0.1)


@pytest.mark.parametrize("first", [-25, 1 - 25])
def test_a_clock_that_wraps_begins_at_zero(tmp_path: Path, first: int) -> None:
    """90 kHz in 33 bits: the first second lies before the wrap, and is read as below zero."""
    start = 2**33 * 25 // 90_000 + first
    path, output = write_recording(tmp_path / "a.ts", start, 50, 0.5), tmp_path / "out.mp4"
    with av.open(str(path)) as container:
        assert (next(container.decode(video=0)).pts or 0) < 0, "else this shows nothing"
    info, frames = probe_video(path), list(read_frames(path))
    assert frames[0].pts == 0
    with VideoWriter.like(info, output, audio=path) as writer:
        for frame in frames:
            writer.write(frame.image, frame.pts)
    with av.open(str(output)) as container:
        shown = [float(frame.time or 0) for frame in container.decode(video=0)]
    np.testing.assert_allclose(shown, np.arange(50) / 25, atol=1e-6)
    sound = np.abs(read_audio(output))
    assert len(sound) / 16_000 == pytest.approx(2.0, abs=0.05)
    assert np.flatnonzero(sound > 0.2)[0] / 16_000 < 0.05


@pytest.mark.parametrize("wrapped", [False, True])
def test_backwards_where_times_are_not_those_of_the_file(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "a.ts"
    if wrapped:
        write_recording(path, 2**33 * 25 // 90_000 - 25, 50, 0.5)
    else:
        write_chain(path, [25, 25])
    info, frames = probe_video(path), list(read_frames(path))
    timeline = fit(np.array([frame.time_s for frame in frames]), info, "pingpong", 3.9)
    means = [frame.image.mean() for frame in play(path, timeline)]
    forth = [frame.image.mean() for frame in frames]
    assert means == [*forth, *forth[-2:0:-1]][: len(means)]
    assert len(means) > 95


def test_pictures_at_the_time_of_the_one_before_follow_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        track = out.add_stream("mjpeg", rate=25)
        assert isinstance(track, VideoStream)
        track.width, track.height, track.pix_fmt = 64, 48, "yuvj420p"
        for i in range(12):
            image = np.full((48, 64, 3), 20 + 10 * i, np.uint8)
            frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            for packet in track.encode(frame):
                packet.pts = packet.dts = i - (i > 5)
                out.mux(packet)
    np.testing.assert_allclose([f.time_s for f in read_frames(path)], np.arange(12) / 25)


def test_sound_in_chained_parts_is_whole(tmp_path: Path) -> None:
    """Ogg lets one stream follow another (RFC 3533, section 4)."""
    parts = []
    for number, seconds in enumerate([0.8, 1.2]):
        samples = tone(RATE_HZ, seconds, 0.8 / 2**number)[None]
        part = write_sound(tmp_path / f"{number}.ogg", samples, RATE_HZ, codec="libopus")
        parts.append(part.read_bytes())
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"".join(parts))
    sound = read_audio(path)
    assert len(sound) / 16_000 == pytest.approx(2.0, abs=0.02)
    assert levels(sound, [20, 30]) == pytest.approx([0.8, 0.4], rel=0.1)
