"""Writing video with sound, read again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from difftalker.errors import MediaError
from difftalker.media.audio import probe_audio, read_audio
from difftalker.media.video import Image, VideoWriter, probe_video, read_frames
from media.made import (
    TONE_HZ,
    WriterOptions,
    dominant_hz,
    gradient,
    psnr_db,
    tone,
    write_both,
    write_sound,
    write_with,
    writer_25,
)

TIMINGS = {
    "23.976": (Fraction(1, 24000), [i * 1001 for i in range(20)]),
    "25": (Fraction(1, 12800), [i * 512 for i in range(20)]),
    "25, one tick a frame": (Fraction(1, 25), list(range(20))),
    "30": (Fraction(1, 30), list(range(20))),
    "29.97, no unit fraction": (Fraction(1001, 30000), list(range(20))),
    "50": (Fraction(1, 90000), [i * 1800 for i in range(20)]),
    "variable": (Fraction(1, 90000), [0, 1500, 4503, 9000, 9001, 27000, 29999, 90000, 93003]),
    "late start": (Fraction(1, 1000), [400, 440, 480, 520, 600]),
}


@pytest.mark.parametrize("name", TIMINGS)
def test_timestamps_come_back(tmp_path: Path, name: str) -> None:
    time_base, ticks = TIMINGS[name]
    sound = write_sound(tmp_path / "a.wav", tone(44_100, 2.0), 44_100, "stereo")
    path = tmp_path / "out.mp4"
    fps = (len(ticks) - 1) / ((ticks[-1] - ticks[0]) * time_base)
    with VideoWriter(
        path, width=64, height=48, fps=fps, time_base=time_base, audio=sound
    ) as writer:
        for pts in ticks:
            writer.write(gradient(64, 48, pts % 200), pts)
    seconds_per_tick = probe_video(path).time_base
    frames = list(read_frames(path))
    assert [frame.pts * seconds_per_tick for frame in frames] == [t * time_base for t in ticks]
    if time_base.numerator == 1:
        assert seconds_per_tick == time_base
    for frame, pts in zip(frames, ticks, strict=True):
        assert psnr_db(frame.image, gradient(64, 48, pts % 200)) > 35


@pytest.mark.parametrize("size", [(64, 48), (65, 48), (64, 47), (63, 49), (1280, 720)])
def test_colour_and_size_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    image = gradient(*size, blue=120)
    path = write_with(tmp_path / "a.mp4", [image] * 3)
    info = probe_video(path)
    assert (info.width, info.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    for frame in read_frames(path):
        inside = frame.image[: size[1], : size[0]]
        assert psnr_db(inside, image) > 35
        assert np.max(np.abs(inside.mean((0, 1)) - image.mean((0, 1)))) < 1
    with av.open(str(path)) as written:
        stored = next(written.decode(video=0))
        assert (stored.format.name, stored.colorspace, stored.color_range) == ("yuv420p", 1, 1)


def test_lossless_is_bit_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (47, 63, 3), dtype=np.uint8) for _ in range(5)]
    noise = rng.uniform(-0.9, 0.9, (1, 4000)).astype(np.float32)
    sound = write_sound(tmp_path / "a.wav", noise, 16_000)
    path = write_with(tmp_path / "a.mkv", images, lossless=True, audio=sound)
    for frame, image in zip(read_frames(path), images, strict=True):
        np.testing.assert_array_equal(frame.image, image)
    np.testing.assert_array_equal(read_audio(path), read_audio(sound)[:3200])


def test_the_index_stands_before_the_data(tmp_path: Path) -> None:
    content = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 10).read_bytes()
    boxes, at = [], 0
    while at < len(content):
        boxes.append(content[at + 4 : at + 8])
        at += int.from_bytes(content[at : at + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize(
    ("rate_hz", "layout", "kept_hz", "channels"),
    [
        (8_000, "mono", 8_000, 1),
        (44_100, "stereo", 44_100, 2),
        (48_000, "5.1", 48_000, 6),
        (48_000, "7.1", 48_000, 2),
        (18_900, "mono", 22_050, 1),
        (192_000, "stereo", 96_000, 2),
    ],
)
def test_sound_is_muxed_in_step_and_cut_to_the_picture(
    tmp_path: Path, rate_hz: int, layout: str, kept_hz: int, channels: int
) -> None:
    samples = tone(rate_hz, 3.0)
    samples[: rate_hz // 2] = 0  # the tone sets in at half a second
    sound = write_sound(tmp_path / "a.wav", samples, rate_hz, layout)
    path = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 50, audio=sound)
    info = probe_audio(path)
    assert (info.codec, info.rate_hz, info.channels) == ("aac", kept_hz, channels)
    heard = read_audio(path)
    assert 2.0 <= len(heard) / 16_000 < 2.0 + 1024 / kept_hz + 0.01
    assert np.argmax(np.abs(heard) > 0.1) / 16_000 == pytest.approx(0.5, abs=0.005)
    assert dominant_hz(heard[9000:31_000], 16_000) == pytest.approx(TONE_HZ, abs=1)
    assert np.std(heard[9000:31_000]) * 2**0.5 == pytest.approx(0.5, rel=0.05)


def test_short_sound_is_not_padded(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", tone(16_000, 0.5), 16_000)
    path = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 50, audio=sound)
    assert len(list(read_frames(path))) == 50
    assert len(read_audio(path)) / 16_000 == pytest.approx(0.5, abs=0.08)


def test_the_sound_of_a_video_keeps_its_place(tmp_path: Path) -> None:
    source = write_both(tmp_path / "a.mkv", Fraction(0), Fraction(1, 2))
    path = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 25, audio=source)
    heard = read_audio(path)
    assert np.argmax(heard > 0.25) / 16_000 == pytest.approx(0.5, abs=0.005)


def test_a_failure_within_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Image]:
        yield from [gradient(64, 48)] * 20
        assert any(tmp_path.glob(".out.*.mp4"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_with(tmp_path / "out.mp4", interrupted())
    assert not list(tmp_path.iterdir())


def test_an_earlier_output_outlives_a_failure_and_gives_way_to_a_success(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(MediaError, match="no frame was written"), writer_25(path, 64, 48):
        pass
    assert path.read_bytes() == b"earlier"
    write_with(path, [gradient(64, 48)] * 3)
    assert len(list(read_frames(path))) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_become_an_output(tmp_path: Path) -> None:
    silent = write_with(tmp_path / "silent.mp4", [gradient(64, 48)] * 3)
    before = sorted(tmp_path.iterdir())
    cases: list[tuple[str, WriterOptions, str]] = [
        ("no/such/out.mp4", {}, f"no such output folder: {tmp_path / 'no' / 'such'}"),
        ("out.xyz", {}, "'.xyz'; wanted .mp4"),
        ("out", {}, "'no suffix'; wanted .mp4"),
        ("out.mp4", {"lossless": True}, "wanted .mkv"),
        ("out.mp4", {"audio": silent}, "has no sound track"),
        ("out.mp4", {"audio": tmp_path / "none.wav"}, "no such file"),
    ]
    for name, options, message in cases:
        with pytest.raises(MediaError, match=message):
            writer_25(tmp_path / name, 64, 48, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_images_and_timestamps_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with writer_25(path, 64, 48) as writer:
        writer.write(gradient(64, 48), 3)
        for image, pts in [(gradient(48, 64), 4), (gradient(64, 48), 3)]:
            with pytest.raises(ValueError, match=r"not the size promised|does not rise"):
                writer.write(image, pts)
    assert len(list(read_frames(path))) == 1


FULL_DISK = """
import resource, signal, sys
from fractions import Fraction
import numpy as np
from difftalker.errors import MediaError
from difftalker.media.video import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rng = np.random.default_rng(0)
written = 0
try:
    with VideoWriter(sys.argv[1], width=128, height=96, fps=25, time_base=Fraction(1, 25)) as out:
        for pts in range(int(sys.argv[2])):
            out.write(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8), pts)
            written += 1
except MediaError as error:
    print(written, error)
    sys.exit(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
@pytest.mark.parametrize("frames", [30, 400])  # full at the end, full on the way
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, frames: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out.mp4"), str(frames)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "could not write" in done.stdout
    assert "free space" in done.stdout
    assert not list(tmp_path.iterdir())


MEMORY = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from difftalker.media.audio import stream_audio
from difftalker.media.video import VideoWriter, read_frames

def peak_mb():  # not getrusage: its peak is handed down from the parent process
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000

def round_trip(frames):
    image = np.zeros((480, 640, 3), np.uint8)
    settings = dict(width=640, height=480, fps=25, time_base=Fraction(1, 25))
    with VideoWriter(sys.argv[2], audio=sys.argv[1], preset="ultrafast", **settings) as out:
        for pts in range(frames):
            out.write(image, pts)
    assert sum(1 for _ in read_frames(sys.argv[2])) == frames
    for _ in stream_audio(sys.argv[1], block_s=1.0):
        pass

round_trip(50)
before = peak_mb()
round_trip(200)
print(peak_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", tone(48_000, 60), 48_000, "stereo")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(sound), str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 20  # the frames take 184 MB, the sound 23 MB
