"""Every frame keeps its time, whatever container, codec, rate, size and gaps: made on the fly."""

from __future__ import annotations

import struct
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from difftalker.media.audio import SoundTrack, probe_audio, read_audio
from difftalker.media.video import VideoWriter, probe_video, read_backwards, read_frames
from difftalker.media.worker.quicktime import read_edit
from synthetic import write_tone

KINDS = {
    "a.mp4": ("libx264", "yuv420p", Fraction(0)),
    "a.mov": ("mpeg4", "yuv420p", Fraction(0)),
    "a.mkv": ("libx264", "yuv420p", Fraction(1, 1000)),
    "b.mkv": ("ffv1", "bgr0", Fraction(1, 1000)),
    "a.webm": ("libvpx", "yuv420p", Fraction(1, 1000)),
    "a.ts": ("libx264", "yuv420p", Fraction(1, 90_000)),
    "a.nut": ("mjpeg", "yuvj422p", Fraction(0)),
    "a.flv": ("libx264", "yuv420p", Fraction(1, 1000)),
}
"""Codec, pixel format, and how coarse the container's times are, seconds."""
RATES = [Fraction(n) for n in (12, 24, 25, 30, 50, 60, 120)]
RATES += [Fraction(n * 1000, 1001) for n in (24, 30, 60)]
SIDES = st.integers(8, 40).map(lambda half: 2 * half)
GAPS = st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 40]), min_size=1, max_size=14)


def write(
    path: Path, kind: str, rate: Fraction, size: tuple[int, int], ticks: list[int], b_frames: int
) -> None:
    """Grey frames, each a little lighter, at these times in frames, by plain PyAV."""
    codec, pixels, _ = KINDS[kind]
    with av.open(str(path), "w") as out:
        options = {"bf": str(b_frames), "g": "5"} if codec in ("libx264", "mpeg4") else {}
        track = out.add_stream(codec, rate=rate, options=options)
        assert isinstance(track, VideoStream)
        track.width, track.height, track.pix_fmt = *size, pixels
        track.codec_context.time_base = 1 / rate
        for number, tick in enumerate(ticks):
            image = np.full((size[1], size[0], 3), 20 + 15 * number, np.uint8)
            frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = tick, 1 / rate
            out.mux(track.encode(frame))
        out.mux(track.encode(None))


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    rate=st.sampled_from(RATES),
    size=st.tuples(SIDES, SIDES),
    gaps=GAPS,
    start=st.sampled_from([0, 0, 1, 77]),
    b_frames=st.integers(0, 2),
)
@example("a.mp4", Fraction(30_000, 1001), (64, 48), [1] * 14, 77, 2)
@example("a.ts", Fraction(24_000, 1001), (16, 16), [40, 1, 1, 40], 1, 2)
@example("a.mkv", Fraction(60), (18, 78), [1, 3, 1, 2, 1], 0, 2)
@example("a.ts", Fraction(60), (16, 16), [1], 0, 2)
@example("a.mov", Fraction(12), (16, 16), [40, 1, 1, 2], 0, 1)
def test_times_and_pictures_are_those_that_were_written(
    kind: str, rate: Fraction, size: tuple[int, int], gaps: list[int], start: int, b_frames: int
) -> None:
    ticks = [start, *(start + sum(gaps[: i + 1]) for i in range(len(gaps)))]
    # FFmpeg's MPEG-4 decoder counts what lies between two such frames in 16 bits.
    around = max(sum(gaps[i : i + b_frames + 1]) for i in range(len(gaps))) if b_frames else 0
    assume(KINDS[kind][0] != "mpeg4" or around * rate.denominator < 2**16)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, kind), Path(folder, "out.mp4")
        write(source, kind, rate, size, ticks, b_frames)
        info, frames = probe_video(source), list(read_frames(source))
        assert len(frames) == len(ticks)
        coarse = KINDS[kind][2]
        for frame, tick in zip(frames, ticks, strict=True):
            assert abs(frame.time_s - float((tick - start) / rate)) <= float(coarse) + 1e-9
        assert all(a.image.mean() < b.image.mean() for a, b in pairwise(frames)), "in order"
        with VideoWriter(
            output, width=size[0], height=size[1], fps=info.fps, time_base=info.time_base
        ) as writer:
            for frame in frames:
                writer.write(frame.image, frame.pts)
        again = probe_video(output).time_base
        shown = [frame.pts * again for frame in read_frames(output)]
        assert shown == [frame.pts * info.time_base for frame in frames], "and start when they did"


def test_what_an_edit_list_leaves_out_is_not_shown(tmp_path: Path) -> None:
    """Pictures from the fourth on until before the tenth: as FFmpeg, which reads that well."""
    path = tmp_path / "a.mov"
    write(path, "a.mov", Fraction(25), (32, 32), list(range(14)), 0)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"elst") + 12
    (lasts, begins), scale = struct.unpack_from(">Ii", whole, at), Fraction(12_800, 25)
    assert (lasts, begins) == (560, 0), "thousandths of a second, units of the track"
    struct.pack_into(">Ii", whole, at, 240, int(3 * scale))
    path.write_bytes(whole)
    with av.open(str(path)) as container:
        plain = [frame.pts for frame in container.decode(video=0)]
    frames = list(read_frames(path))
    assert [frame.pts for frame in frames] == plain
    assert [frame.time_s for frame in frames] == [i / 25 for i in range(6)]
    shown = [20 + 15 * number for number in range(3, 9)]
    np.testing.assert_allclose([frame.image.mean() for frame in frames], shown, atol=8)
    assert [image.mean() for image in read_backwards(path, [frame.pts for frame in frames])] == [
        frame.image.mean() for frame in reversed(frames)
    ]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 2**32 - 1])
def test_boxes_of_unlikely_size_give_no_edit(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    write(path, "a.mov", Fraction(25), (32, 32), list(range(4)), 0)
    assert read_edit(path, 1) is not None
    whole = path.read_bytes()
    for kind in (b"moov", b"trak", b"edts", b"elst"):
        changed = bytearray(whole)
        struct.pack_into(">I", changed, whole.index(kind) - 4, size)
        path.write_bytes(changed)
        assert read_edit(path, 1) is None or size in (0, 2**32 - 1), kind


@settings(max_examples=200, deadline=None)
@given(
    rate=st.sampled_from(RATES),
    rate_hz=st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000]),
    start=st.integers(0, 10**6),
    frame=st.integers(0, 120 * 3600),
)
def test_an_hour_of_sound_is_placed_to_the_sample(
    rate: Fraction, rate_hz: int, start: int, frame: int
) -> None:
    """The sound written up to a frame ends within half a sample of it: nothing adds up."""
    begins_s, until_s = start / rate, (start + frame) / rate
    samples = SoundTrack.samples_until(begins_s, until_s, rate_hz)
    assert abs(Fraction(samples, rate_hz) - (until_s - begins_s)) <= Fraction(1, 2 * rate_hz)


def test_sound_up_to_the_last_frame_of_an_odd_rate(tmp_path: Path) -> None:
    rate, frames = Fraction(24_000, 1001), 100
    tone = write_tone(tmp_path / "a.wav", 10)
    path = tmp_path / "out.mkv"
    with VideoWriter(
        path, width=16, height=16, fps=rate, time_base=1 / rate, audio=tone, lossless=True
    ) as writer:
        for pts in range(frames):
            writer.write(np.zeros((16, 16, 3), np.uint8), pts)
    assert probe_audio(path).rate_hz == 16_000
    assert len(read_audio(path)) == round(frames / rate * 16_000)
    np.testing.assert_allclose(read_audio(path)[:8000], read_audio(tone)[:8000], atol=1e-4)
