"""Reading pictures, on files made here with PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from difftalker.errors import MediaError
from difftalker.media.audio import read_audio
from difftalker.media.video import Image, probe_video, read_frames
from media.made import (
    gradient,
    psnr_db,
    sound_frame,
    tone,
    write_sound,
    write_video,
    write_with,
)


@pytest.mark.parametrize(
    ("matrix", "rotation_deg", "turn"),
    [
        ([1, 0, 0, 1], 0, lambda image: image),
        ([0, 1, -1, 0], 90, lambda image: np.rot90(image, -1)),
        ([-1, 0, 0, -1], 180, lambda image: np.rot90(image, 2)),
        ([0, -1, 1, 0], 270, lambda image: np.rot90(image, 1)),
        ([-1, 0, 0, 1], 180, lambda image: image[:, ::-1]),  # a mirrored selfie
    ],
)
def test_rotation_is_applied(
    tmp_path: Path, matrix: list[int], rotation_deg: int, turn: Callable[[Image], Image]
) -> None:
    a, b, c, d = (value << 16 for value in matrix)
    image = gradient(64, 48, blue=90)
    display = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "a.mp4", [image] * 3, matrix=display, options={"crf": "5"})
    wanted = turn(image)
    info = probe_video(path)
    assert (info.height, info.width) == wanted.shape[:2]
    assert info.rotation_deg == rotation_deg
    frame = next(read_frames(path))
    assert frame.image.flags.c_contiguous
    assert psnr_db(frame.image, wanted) > 35


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size", "colorspace"),
    [
        ("a.avi", "mpeg4", "yuv420p", (320, 240), Colorspace.ITU601),
        ("a.avi", "mpeg4", "yuv420p", (1280, 720), Colorspace.ITU709),
        ("a.mkv", "ffv1", "yuv420p10le", (64, 48), Colorspace.ITU601),
        ("a.mkv", "ffv1", "yuv444p", (63, 47), Colorspace.ITU601),
        ("a.mkv", "ffv1", "gray", (64, 48), Colorspace.ITU601),
        ("a.webm", "libvpx-vp9", "yuv420p", (64, 48), Colorspace.ITU601),
        ("a.mpg", "mpeg1video", "yuv420p", (64, 48), Colorspace.ITU601),
        ("a.ts", "mpeg2video", "yuv420p", (64, 48), Colorspace.ITU601),
        ("a.avi", "mjpeg", "yuvj420p", (64, 48), Colorspace.ITU601),
    ],
)
def test_any_container_and_pixel_format(
    tmp_path: Path,
    name: str,
    codec: str,
    pix_fmt: str,
    size: tuple[int, int],
    colorspace: Colorspace,
) -> None:
    image = gradient(*size, blue=60)
    quality = {"crf": "4", "b": "0"} if codec == "libvpx-vp9" else {"qmin": "1", "qmax": "4"}
    path = write_video(tmp_path / name, [image] * 5, codec, pix_fmt, colorspace, options=quality)
    frames = list(read_frames(path))
    assert len(frames) == 5
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(5)])
    wanted = image
    if pix_fmt == "gray":
        luma = image @ np.array([0.299, 0.587, 0.114])
        wanted = np.repeat(luma[..., None], 3, axis=2).astype(np.uint8)
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.shape == (size[1], size[0], 3)
        assert np.max(np.abs(frame.image.mean((0, 1)) - wanted.mean((0, 1)))) < 2
        assert psnr_db(frame.image, wanted) > 33


def test_missing_timestamps_come_from_the_rate(tmp_path: Path) -> None:
    images = [gradient(64, 48, blue) for blue in range(0, 100, 10)]
    path = write_video(tmp_path / "a.h264", images, container_format="h264", options={"bf": "0"})
    with av.open(str(path)) as raw:
        assert any(frame.pts is None for frame in raw.decode(video=0))
    frames = list(read_frames(path))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(10)])
    assert all(a.pts < b.pts for a, b in itertools.pairwise(frames))


def test_repeated_timestamps_are_made_to_rise(tmp_path: Path) -> None:
    ticks_ms = [0, 40, 40, 40, 80, 130]
    images = [gradient(64, 48)] * len(ticks_ms)
    path = write_video(tmp_path / "a.mkv", images, "ffv1", "bgr0", ticks_ms=ticks_ms)
    with av.open(str(path)) as raw:
        assert [frame.pts for frame in raw.decode(video=0)] == ticks_ms
    assert [frame.pts for frame in read_frames(path)] == [0, 40, 80, 120, 160, 210]


def test_sound_of_a_recording_cut_within_a_picture_group(tmp_path: Path) -> None:
    rate_hz, path = 48_000, tmp_path / "a.ts"
    loudness = np.arange(4 * rate_hz) / (4 * rate_hz)  # like the pictures, tells the time
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg2video", rate=25, options={"g": "50", "bf": "2"})
        sound = out.add_stream("mp2", rate=rate_hz, layout="mono")
        assert isinstance(picture, VideoStream)
        assert isinstance(sound, AudioStream)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for index in range(100):
            grey = VideoFrame.from_ndarray(np.full((48, 64, 3), index * 2, np.uint8), "rgb24")
            out.mux(picture.encode(grey.reformat(format="yuv420p")))
            piece = slice(index * 1920, (index + 1) * 1920)
            samples = (tone(rate_hz, 4.0, 1.0) * loudness)[piece].astype(np.float32)
            block = sound_frame(samples[None], rate_hz, "mono")
            block.pts = piece.start
            out.mux(sound.encode(block))
        for track in (picture, sound):
            out.mux(track.encode(None))
    content = path.read_bytes()
    packets = len(content) // 188
    path.write_bytes(content[:564] + content[packets // 5 * 188 :])  # the tables, then a hole
    first = next(read_frames(path))
    shown_at_s = first.image.mean() / 2 / 25
    with av.open(str(path)) as raw:  # the header's start is not that of the first picture
        header = raw.streams.video[0]
        assert header.start_time is not None
        assert first.pts - header.start_time > 0.2 * 90_000
    heard = read_audio(path)[:1600]
    heard_at_s = float(np.std(heard)) * 2**0.5 * 4 - 0.05
    assert heard_at_s == pytest.approx(shown_at_s, abs=0.05)


def test_video_is_described(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", tone(16_000, 1.0), 16_000)
    images = [gradient(64, 48)] * 25
    info = probe_video(
        write_with(
            tmp_path / "a.mp4",
            images,
            audio=sound,
            comment="AI-generated: é",
            sample_aspect_ratio=Fraction(16, 15),
        )
    )
    assert (info.width, info.height, info.rotation_deg) == (64, 48, 0)
    assert info.fps == 25
    assert (info.time_base, info.frames_estimate) == (Fraction(1, 25), 25)
    assert info.duration_s == pytest.approx(1.0)
    assert (info.codec, info.has_audio, info.comment) == ("h264", True, "AI-generated: é")
    assert info.sample_aspect_ratio == Fraction(16, 15)
    silent = probe_video(write_with(tmp_path / "b.mp4", images))
    assert (silent.has_audio, silent.comment) == (False, "")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=16_000, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        assert isinstance(sound, AudioStream)
        assert isinstance(cover, VideoStream)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = VideoFrame.from_ndarray(gradient(64, 48), "rgb24")
        out.mux(cover.encode(picture.reformat(format="yuvj420p")))
        out.mux(cover.encode(None))
        out.mux(sound.encode(sound_frame(tone(16_000, 1.0)[None], 16_000, "mono")))
        out.mux(sound.encode(None))
    with av.open(str(path)) as written:
        assert len(written.streams.video) == 1
    with pytest.raises(MediaError, match="has no video track"):
        probe_video(path)
    assert len(read_audio(path)) > 15_000
