"""Reading sound, on files made here with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream

from difftalker.media.audio import probe_audio, read_audio, stream_audio
from difftalker.media.video import read_frames
from media.made import (
    TONE_HZ,
    dominant_hz,
    tone,
    write_both,
    write_sound,
)


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


def write_pieces(path: Path, codec: str, pieces: list[tuple[float, float, float]]) -> Path:
    """Write a sound of (start_s, length_s, level) pieces, each a steady tone."""
    rate_hz = 48_000
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=rate_hz, layout="stereo")
        assert isinstance(track, AudioStream)
        for start_s, length_s, level in pieces:
            for at in range(0, round(length_s * rate_hz), 960):
                phase = np.arange(at, at + 960) * 2 * np.pi * 500 / rate_hz
                tone = np.repeat((level * np.sin(phase)).astype(np.float32), 2)[None]
                frame = av.AudioFrame.from_ndarray(tone, format="flt", layout="stereo")
                frame.sample_rate = rate_hz
                frame.pts = round(start_s * rate_hz) + at
                frame.time_base = Fraction(1, rate_hz)
                out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.nut", "pcm_u8")])
def test_lost_sound_does_not_move_what_follows(tmp_path: Path, name: str, codec: str) -> None:
    path = write_pieces(tmp_path / name, codec, [(0, 0.5, 0.2), (2.0, 0.5, 0.8), (2.9, 0.2, 0.4)])
    sound = np.abs(read_audio(path))
    assert len(sound) == pytest.approx(3.1 * 16_000, abs=320)
    for start_s, stop_s, level in [(0, 0.5, 0.2), (2.0, 2.5, 0.8), (2.9, 3.1, 0.4)]:
        inside = sound[round(start_s * 16_000) + 160 : round(stop_s * 16_000) - 160]
        assert np.max(inside) == pytest.approx(level, abs=0.03)
        assert np.mean(inside) > level / 2
    for start_s, stop_s in [(0.5, 2.0), (2.5, 2.9)]:
        assert np.max(sound[round(start_s * 16_000) + 160 : round(stop_s * 16_000) - 160]) < 0.02


def test_sound_from_a_clock_that_runs_fast_stays_in_step(tmp_path: Path) -> None:
    """Every 20 ms of sound are said to last 21: after 4 s they are a fifth of a second behind."""
    pieces = [(0.021 * i, 0.02, 0.9 if i == 190 else 0.1) for i in range(200)]
    sound = np.abs(read_audio(write_pieces(tmp_path / "a.mkv", "pcm_s16le", pieces)))
    loud_s = np.flatnonzero(sound > 0.5)[0] / 16_000
    assert loud_s == pytest.approx(190 * 0.021, abs=0.025)
