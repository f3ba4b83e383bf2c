"""The speech of a job: decoded once, encoded once, and the same as when it was streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.face.detect.track import FaceTrack
from difftalker.media import decoder
from difftalker.media.audio import SAMPLE_RATE_HZ, read_audio, stream_audio
from difftalker.speech.encoder import LogMelEncoder
from difftalker.speech.silence import silent_frames, sound_level_db
from difftalker.speech.speech import Speech
from difftalker.speech.windows import windows
from synthetic import debug_avatar, located, pictures, still_track, write_footage, write_tone

Floats = NDArray[np.float32]


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 1.5)


@pytest.mark.parametrize("seconds", [0.7, 1.5, 3.0])
def test_windows_are_those_of_the_sound_cut_or_followed_by_silence(
    tone: Path, seconds: float
) -> None:
    times_s = np.arange(round(seconds * 25)) / 25
    samples = np.zeros(int((times_s[-1] + 1) * SAMPLE_RATE_HZ), np.float32)
    sound = read_audio(tone)[: len(samples)]
    samples[: len(sound)] = sound
    features = np.concatenate(list(LogMelEncoder().encode([samples])))
    found = Speech(tone, LogMelEncoder, window=16).windows(times_s).take(times_s)
    np.testing.assert_allclose(found, windows(features, times_s), atol=1e-5)


def test_time_after_the_sound_is_not_encoded(tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames an hour apart: the later one is in silence, and that is encoded once."""
    samples: list[int] = []
    encode = LogMelEncoder.encode

    def counting(self: LogMelEncoder, blocks: Iterable[Floats]) -> Iterator[Floats]:
        heard = list(blocks)
        samples.append(sum(map(len, heard)))
        return encode(self, heard)

    monkeypatch.setattr(LogMelEncoder, "encode", counting)
    times_s = np.array([0.0, 1.0, 3600.0])
    taken = Speech(tone, LogMelEncoder, window=16).windows(times_s).take(times_s)
    assert samples == [round(2.5 * SAMPLE_RATE_HZ)]
    silence = np.zeros(4 * SAMPLE_RATE_HZ, np.float32)
    silence[: SAMPLE_RATE_HZ // 2] = read_audio(tone)[-SAMPLE_RATE_HZ // 2 :]
    silent = np.concatenate(list(LogMelEncoder().encode([silence])))[-50]
    np.testing.assert_allclose(taken[2], np.tile(silent, (16, 1)), atol=1e-5)


def test_silence_and_length_are_those_of_the_file(tone: Path) -> None:
    speech, times_s = Speech(tone, LogMelEncoder, window=16), np.arange(75) / 25
    level_db = sound_level_db(stream_audio(tone), times_s, rate_hz=SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(
        speech.silent(times_s, 0.3), silent_frames(level_db, times_s, 0.3)
    )
    assert speech.duration_s == pytest.approx(1.5, abs=1e-3)


def test_sound_of_zero_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        Speech(write_tone(tmp_path / "none.wav", 0), LogMelEncoder, window=16)


def test_a_full_disk_is_told(tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(MediaError, match=r"could not write to .*No space left.*TMPDIR"):
        Speech(tone, LogMelEncoder, window=16)


@pytest.mark.parametrize("guidance", ["landmarks", "both"])
def test_a_dub_decodes_once_and_encodes_once(
    tmp_path: Path, tone: Path, monkeypatch: pytest.MonkeyPatch, guidance: str
) -> None:
    decoded: list[str] = []
    encoded: list[int] = []
    ask, encode = decoder.ask, LogMelEncoder.encode

    def asked(what: str, path: Any, **options: Any) -> Any:
        if what == "sound":
            decoded.append(str(path))
        return ask(what, path, **options)

    def encoding(self: LogMelEncoder, blocks: Iterable[Floats]) -> Iterator[Floats]:
        encoded.append(1)
        return encode(self, blocks)

    monkeypatch.setattr("difftalker.media.audio.ask", asked)
    monkeypatch.setattr(LogMelEncoder, "encode", encoding)
    video = write_footage(tmp_path / "video.mp4", pictures(40))
    track: FaceTrack = still_track(40)
    avatar = debug_avatar(guidance)
    avatar.dub(video, tone, located=located(video, track)).save(tmp_path / "out.mp4", fit="loop")
    # Once for all that listens, and once by the writer, which copies the sound into the video.
    assert decoded == [str(tone)] * 2
    assert encoded == [1]
