"""Readers and writers of sound and picture, on media made here with PyAV."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypedDict, Unpack

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.audio import probe_audio, read_audio, stream_audio
from difftalker.media.video import Image, VideoWriter, probe_video, read_frames

TONE_HZ = 440
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


# Sound in


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_sound_keeps_pitch_level_and_length(tmp_path: Path, rate_hz: int, layout: str) -> None:
    path = write_sound(tmp_path / "a.wav", tone(rate_hz, 1.0), rate_hz, layout)
    sound = read_audio(path)
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert abs(len(sound) - 16_000) <= 2
    assert dominant_hz(sound, 16_000) == pytest.approx(TONE_HZ, abs=1)
    middle = slice(1000, 15_000)
    assert np.std(sound[middle]) * 2**0.5 == pytest.approx(0.5, rel=0.01)
    # In time as well: the same tone, made at the wanted rate.
    np.testing.assert_allclose(sound[middle], tone(16_000, 1.0)[middle], atol=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.flac", "flac", "stereo"),
        ("a.mp3", "libmp3lame", "stereo"),
        ("a.m4a", "aac", "5.1"),
        ("a.ogg", "libopus", "mono"),
        ("a.wav", "pcm_u8", "mono"),
        ("a.wav", "pcm_s24le", "stereo"),
        ("a.wav", "pcm_f32le", "5.1"),
        ("a.wav", "pcm_f64le", "mono"),
    ],
)
def test_any_codec_and_sample_format(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    path = write_sound(tmp_path / name, tone(48_000, 1.0), 48_000, layout, codec)
    sound = read_audio(path)
    middle = sound[2000:14_000]
    assert dominant_hz(middle, 16_000) == pytest.approx(TONE_HZ, abs=2)
    assert np.std(middle) * 2**0.5 == pytest.approx(0.5, rel=0.06)  # LAME takes 5 %


def test_loud_surround_is_not_clipped_and_its_centre_is_heard(tmp_path: Path) -> None:
    loud = write_sound(tmp_path / "loud.wav", tone(48_000, 0.5, 0.99), 48_000, "5.1")
    assert np.max(np.abs(read_audio(loud))) == pytest.approx(0.99, abs=0.01)
    speech = np.zeros((6, 24_000), np.float32)
    speech[2] = tone(48_000, 0.5)  # front left, front right, front centre, ...
    centre = write_sound(tmp_path / "centre.wav", speech, 48_000, "5.1")
    assert 0.1 < np.max(np.abs(read_audio(centre))) <= 0.5


def test_sound_is_streamed_in_blocks_of_equal_length(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(44_100, 2.3), 44_100, "stereo")
    blocks = list(stream_audio(path, block_s=0.5))
    assert [len(block) for block in blocks[:-1]] == [8000] * 4
    assert len(blocks[-1]) == pytest.approx(0.3 * 16_000, abs=2)
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path))


def test_silence_is_sound(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", np.zeros((1, 8000), np.float32), 16_000)
    np.testing.assert_array_equal(read_audio(path), np.zeros(8000, np.float32))


@pytest.mark.parametrize(
    ("video_start", "sound_start", "silent_s", "length_s"),
    [("0", "0", 0, 1), ("0", "1/2", 0.5, 1.5), ("0", "3", 3, 4), ("2/5", "0", 0, 0.6)],
)
def test_sound_starts_with_the_picture(
    tmp_path: Path, video_start: str, sound_start: str, silent_s: float, length_s: float
) -> None:
    path = write_both(tmp_path / "a.mkv", Fraction(video_start), Fraction(sound_start))
    sound = read_audio(path)
    assert len(sound) == pytest.approx(length_s * 16_000, abs=20)
    assert np.argmax(sound > 0.25) == pytest.approx(silent_s * 16_000, abs=20)
    assert next(read_frames(path)).time_s == 0


def test_sound_is_described(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(44_100, 1.5), 44_100, "5.1")
    info = probe_audio(path)
    assert (info.rate_hz, info.channels, info.codec) == (44_100, 6, "pcm_s16le")
    assert info.duration_s == pytest.approx(1.5)


# Picture in


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
    assert [frame.pts for frame in read_frames(path)] == [0, 40, 41, 42, 80, 130]


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


# Bad input


def _reads(path: Path) -> Iterator[Callable[[], object]]:
    yield from (
        lambda: probe_video(path),
        lambda: list(read_frames(path)),
        lambda: probe_audio(path),
        lambda: read_audio(path),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.txt", b"hello world\n" * 500, "is not a media file"),
        ("text.mp4", b"hello world\n" * 500, "is not a media file"),
        ("noise.mp4", np.random.default_rng(0).bytes(20_000), "is not a media file"),
        ("noise.wav", np.random.default_rng(1).bytes(20_000), "is not a media file"),
        ("noise.mkv", np.random.default_rng(2).bytes(20_000), "is not a media file"),
    ],
)
def test_what_is_no_media_file(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in _reads(path):
        with pytest.raises(MediaError, match=message) as error:
            read()
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_is_no_media_file(tmp_path: Path) -> None:
    for read in _reads(tmp_path):
        with pytest.raises(MediaError, match="is not a file"):
            read()


def test_sound_without_picture_and_picture_without_sound(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", tone(16_000, 0.5), 16_000)
    for read in (probe_video, lambda path: next(read_frames(path))):
        with pytest.raises(MediaError, match="has no video track"):
            read(sound)
    picture = write_with(tmp_path / "a.mp4", [gradient(32, 32)] * 3)
    for read_sound in (probe_audio, read_audio):
        with pytest.raises(MediaError, match="has no sound track"):
            read_sound(picture)


def test_sound_of_zero_length(tmp_path: Path) -> None:
    whole = write_sound(tmp_path / "a.wav", tone(16_000, 0.5), 16_000).read_bytes()
    header = tmp_path / "header.wav"
    header.write_bytes(whole[: whole.index(b"data") + 4] + bytes(4))
    with pytest.raises(MediaError, match="holds no sound"):
        read_audio(header)


@pytest.mark.parametrize("size", [(12, 64), (64, 12), (8, 8), (8400, 16)])
def test_frames_of_a_size_out_of_range(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "a.mkv", [gradient(*size)], "ffv1", "bgr0")
    for read in (probe_video, lambda path: next(read_frames(path))):
        with pytest.raises(MediaError, match=f"{size[0]} x {size[1]}.*16 to 8192"):
            read(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_cut_tail_gives_what_decodes(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    images = [np.repeat(rng.integers(0, 256, (48, 64, 1), dtype=np.uint8), 3, 2) for _ in range(50)]
    path = write_with(tmp_path / name, images)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert 15 <= len(frames) <= 35
    assert path.name in caplog.text
    for frame, image in zip(frames[:10], images, strict=False):
        assert psnr_db(frame.image, image) > 15


def test_an_overwritten_tail_gives_what_decodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "a.nut", images, options={"bf": "2"})
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert 29 <= len(frames) <= 31  # those that wait in the decoder are not lost
    assert "breaks off" in caplog.text


def test_a_file_cut_before_its_first_frame(tmp_path: Path) -> None:
    path = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 5)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    for read in (probe_video, lambda path: list(read_frames(path))):
        with pytest.raises(MediaError, match=r"no frame of|is not a media file"):
            read(path)


# Writing


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
