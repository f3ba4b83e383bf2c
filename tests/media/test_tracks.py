"""Tracks and files of unusual kinds: many channels, stills by any name, unknown codecs, alpha."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from difftalker.media.audio import probe_audio, read_audio, stream_audio
from difftalker.media.video import VideoWriter, probe_video, read_frames
from media.made import dominant_hz, gradient, tone, write_video

RATE_HZ = 16_000


def write_channels(path: Path, channels: int, sample_type: str) -> Path:
    """A WAV of a tone in the first channel, half as loud in the second, none in the rest."""
    samples = np.zeros((RATE_HZ, channels))
    samples[:, 0] = tone(RATE_HZ, 1.0, 0.8)
    samples[:, 1] = samples[:, 0] / 2
    loudest = {"<i2": 2**15 - 1, "<i4": 2**31 - 1, "<f4": 1}[sample_type]
    data = (samples * loudest).astype(sample_type).tobytes()
    size = np.dtype(sample_type).itemsize
    head = struct.pack("<HHIIHH", 3 if sample_type == "<f4" else 1, channels, RATE_HZ,
                       RATE_HZ * channels * size, channels * size, 8 * size)  # fmt: skip
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize("sample_type", ["<i2", "<i4", "<f4"])
@pytest.mark.parametrize("channels", [9, 32, 48])
def test_many_channels_are_averaged(tmp_path: Path, channels: int, sample_type: str) -> None:
    path = write_channels(tmp_path / "a.wav", channels, sample_type)
    assert probe_audio(path).channels == channels
    sound = read_audio(path)
    assert dominant_hz(sound, RATE_HZ) == pytest.approx(440, abs=1)
    assert np.abs(sound).max() == pytest.approx(1.2 / channels, rel=0.02)
    output = tmp_path / "out.mp4"
    with VideoWriter(
        output, width=32, height=32, fps=25, time_base=Fraction(1, 25), audio=path
    ) as writer:
        for pts in range(25):
            writer.write(gradient(32, 32), pts)
    assert len(read_audio(output)) == pytest.approx(RATE_HZ, abs=1100)


@pytest.mark.parametrize("name", ["STILL.JPG", "still.jpg", "a%03d.jpg", "a.bin", "B.PNG", "c.BMP"])
def test_a_still_is_one_frame_whatever_its_name(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    codec, pixels = {"B.PNG": ("png", "rgb24"), "c.BMP": ("bmp", "bgr24")}.get(
        name, ("mjpeg", "yuvj420p")
    )
    made = write_video(tmp_path / "x", [noise], codec, pixels, container_format="image2pipe")
    path = made.rename(tmp_path / name)
    (frame,) = read_frames(path)
    assert frame.image.shape == (256, 256, 3)
    assert probe_video(path).width == 256


def write_unknown(path: Path) -> Path:
    """Two video and two sound tracks; the codec of each first one is renamed to one of no one's."""
    with av.open(str(path), "w") as out:
        pictures = [out.add_stream("mjpeg", rate=25), out.add_stream("libx264", rate=25)]
        sounds = [
            out.add_stream("alac", rate=RATE_HZ, layout="mono"),
            out.add_stream("aac", rate=RATE_HZ, layout="mono"),
        ]
        for picture in pictures:
            assert isinstance(picture, VideoStream)
            picture.width, picture.height = 64, 48
            picture.pix_fmt = "yuvj420p" if picture is pictures[0] else "yuv420p"
        for picture in pictures:
            for _ in range(10):
                image = VideoFrame.from_ndarray(gradient(64, 48), "rgb24")
                out.mux(picture.encode(image.reformat(format=picture.pix_fmt)))
        for sound in sounds:
            assert isinstance(sound, AudioStream)
            block = av.AudioFrame.from_ndarray(tone(RATE_HZ, 0.4)[None], "fltp", "mono")
            block.sample_rate = RATE_HZ
            out.mux(sound.encode(block))
        for track in (*pictures, *sounds):
            assert isinstance(track, VideoStream | AudioStream)
            out.mux(track.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"jpeg", b"zzzz").replace(b"alac", b"zzzy"))
    return path


def test_the_first_track_that_can_be_decoded_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_unknown(tmp_path / "a.mov")
    info = probe_video(path)
    assert (info.codec, info.unknown_tracks) == ("h264", 1)
    assert len(list(read_frames(path))) == 10
    with caplog.at_level(logging.WARNING):
        info.warn()
    (line,) = caplog.messages
    assert "first video track cannot be decoded" in line
    assert probe_audio(path).codec == "aac"
    assert np.abs(np.concatenate(list(stream_audio(path)))).max() > 0.3


def test_alpha_is_dropped_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = gradient(64, 48)
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as out:
        track = out.add_stream("png", rate=25)
        assert isinstance(track, VideoStream)
        track.width, track.height, track.pix_fmt = 64, 48, "rgba"
        clear = np.dstack([image, np.full((48, 64), 7, np.uint8)])
        out.mux(track.encode(VideoFrame.from_ndarray(clear, "rgba")))
        out.mux(track.encode(None))
    (frame,) = read_frames(path)
    np.testing.assert_array_equal(frame.image, image)
    with caplog.at_level(logging.WARNING):
        probe_video(path).warn()
    assert any("alpha channel" in line for line in caplog.messages)
