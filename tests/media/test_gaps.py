"""Time without sound or frames costs nothing, and what is about it keeps its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from difftalker.media.audio import read_audio, sound_parts
from difftalker.media.gaps import GAP_MARGIN_S, Gaps, find_gaps
from difftalker.media.limits import Limits, limited
from difftalker.media.timeline import fit
from difftalker.media.video import probe_video, read_frames
from difftalker.speech.encoder import LogMelEncoder
from difftalker.speech.speech import ENCODED_AFTER_S, Speech
from media.made import sound_frame, tone
from synthetic import debug_avatar, located, pictures, still_track, write_footage

Floats = NDArray[np.float32]
HOUR_S, RATE_HZ = 3600, 16_000


def write_apart(path: Path, places_s: list[float], seconds: float = 1.0) -> Path:
    """A tone of so many seconds at each of these times."""
    with av.open(str(path), "w") as out:
        track = out.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        assert isinstance(track, AudioStream)
        samples = tone(RATE_HZ, seconds)[None]
        for place_s in places_s:
            for at in range(0, samples.shape[1], 320):
                frame = sound_frame(samples[:, at : at + 320], RATE_HZ, "mono")
                frame.pts = round(place_s * RATE_HZ) + at
                frame.time_base = Fraction(1, RATE_HZ)
                out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Two seconds of sound, an hour between them."""
    return write_apart(tmp_path / "apart.mka", [0, HOUR_S])


STARTS = st.lists(st.floats(0, 100), min_size=1, max_size=6).map(sorted)


@settings(max_examples=200, deadline=None)
@given(starts_s=STARTS, lengths_s=st.lists(st.floats(0.01, 30), min_size=6, max_size=6), t=STARTS)
def test_gaps_are_what_is_far_from_sound_or_from_frames(
    starts_s: list[float], lengths_s: list[float], t: list[float]
) -> None:
    ends_s = np.minimum(np.array(starts_s) + lengths_s[: len(starts_s)], [*starts_s[1:], np.inf])
    frames_s, sound_s = np.array(t), np.stack([starts_s, ends_s], 1)
    gaps = find_gaps(sound_s, frames_s)
    assert all(a < b for a, b in pairwise(np.stack([gaps.starts_s, gaps.stops_s], 1).ravel()))
    for time_s in np.linspace(0, 140, 300):
        to_sound = np.maximum(sound_s[:, 0] - time_s, time_s - sound_s[:, 1]).clip(0).min()
        far = max(
            to_sound if time_s < sound_s[-1, 0] else 0,
            np.abs(frames_s - time_s).min() if time_s < frames_s[-1] else 0,
        )
        if time_s > GAP_MARGIN_S + 0.02 and abs(far - GAP_MARGIN_S) > 0.02:
            assert gaps.contain(np.array([time_s]))[0] == (far > GAP_MARGIN_S), (time_s, far)


def test_a_clock_without_gaps() -> None:
    gaps = Gaps(np.array([10.0, 30.0]), np.array([20.0, 100.0]))
    times_s = np.array([0.0, 10.0, 15.0, 20.0, 25.0, 99.0, 100.0, 101.0])
    assert gaps.closed(times_s).tolist() == [0, 10, 10, 10, 15, 20, 20, 21]
    assert gaps.contain(times_s).tolist() == [False, False, True, False, False, True, False, False]
    assert list(gaps.between(102)) == [(0, 10), (20, 30), (100, 102)]
    assert list(gaps.between(25)) == [(0, 10), (20, 25)]
    nothing = find_gaps(np.array([[0.0, 3.0]]), np.arange(75) / 25)
    odd = np.array([0.1, 1 / 3, 9e9])
    assert np.array_equal(nothing.closed(odd), odd)


def test_a_gap_is_not_decoded_and_keeps_what_follows_in_its_place(apart: Path) -> None:
    parts = list(sound_parts(apart, rate_hz=RATE_HZ, layout="mono"))
    assert sum(part.samples.shape[1] for part in parts) == 2 * RATE_HZ
    assert parts[-1].end == (HOUR_S + 1) * RATE_HZ
    sound = read_audio(apart)
    later = sound[HOUR_S * RATE_HZ :]
    np.testing.assert_allclose(later, tone(RATE_HZ, 1.0), atol=1e-3)
    assert not sound[RATE_HZ : HOUR_S * RATE_HZ].any()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples were encoded, each time."""
    samples: list[int] = []
    encode = LogMelEncoder.encode

    def counting(self: LogMelEncoder, blocks: Iterable[Floats]) -> Iterator[Floats]:
        heard = list(blocks)
        samples.append(sum(map(len, heard)))
        return encode(self, heard)

    monkeypatch.setattr(LogMelEncoder, "encode", counting)
    return samples


def test_gaps_of_sound_are_not_encoded(
    apart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = counted(monkeypatch)
    about = np.arange(0, 1, 0.04)
    times_s = np.r_[about, HOUR_S + about]
    speech = Speech(apart, LogMelEncoder, window=16)
    found = speech.windows(times_s).take(times_s)
    last_s = 1 + 2 * GAP_MARGIN_S + times_s[-1] - HOUR_S
    assert samples == [pytest.approx((last_s + ENCODED_AFTER_S) * RATE_HZ, abs=RATE_HZ * 0.05)]
    near = Speech(write_apart(tmp_path / "near.mka", [0, 8]), LogMelEncoder, window=16)
    near_s = np.r_[about, 8 + about]
    np.testing.assert_allclose(found, near.windows(near_s).take(near_s), atol=0.02)
    np.testing.assert_array_equal(speech.silent(times_s), near.silent(near_s))


def test_sound_between_frames_that_are_far_apart_is_not_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = counted(monkeypatch)
    path = write_apart(tmp_path / "long.mka", [0], seconds=60)
    times_s = np.r_[np.arange(25) / 25, 50 + np.arange(25) / 25]
    found = Speech(path, LogMelEncoder, window=16).windows(times_s).take(times_s)
    assert samples == [pytest.approx((times_s[24] * 2 + 10 + 1) * RATE_HZ, abs=RATE_HZ * 0.05)]
    every_s = np.arange(1500) / 25
    whole = Speech(path, LogMelEncoder, window=16).windows(every_s).take(every_s)
    np.testing.assert_allclose(found, whole[np.r_[:25, 1250:1275]], atol=0.02)


@pytest.mark.parametrize("mode", ["pad", "loop", "pingpong"])
def test_the_last_frame_stays_while_there_is_no_sound(
    apart: Path, tmp_path: Path, mode: str
) -> None:
    video = write_footage(tmp_path / "footage.mp4", pictures(10))
    info, times_s = probe_video(video), np.arange(10) / 25
    gaps = Speech(apart, LogMelEncoder, window=16).gaps()
    line = fit(times_s, info, mode, HOUR_S + 1, gaps)  # type: ignore[arg-type]
    steps_s = np.diff(line.times_s)
    assert len(line.times_s) < 25 * (2 + 2 * GAP_MARGIN_S + 1)
    assert np.count_nonzero(steps_s > 0.05) == 1
    assert steps_s.max() == pytest.approx(HOUR_S - 1 - 2 * GAP_MARGIN_S, abs=0.1)
    assert line.times_s[-1] == pytest.approx(HOUR_S + 1, abs=0.1)


@pytest.fixture
def minutes(tmp_path: Path) -> Path:
    """Two seconds of sound, two minutes between them."""
    return write_apart(tmp_path / "minutes.mka", [0, 120])


def test_a_talk_shows_no_frames_in_gaps(minutes: Path, tmp_path: Path) -> None:
    result = debug_avatar().talk(minutes, fps=10).save(tmp_path / "out.mp4")
    assert result.frames == pytest.approx(10 * (2 + 2 * GAP_MARGIN_S), abs=3)
    times_s = [frame.time_s for frame in read_frames(result.output)]
    assert len(times_s) == result.frames
    assert times_s[-1] == pytest.approx(121, abs=0.11)
    sound = np.abs(read_audio(result.output))
    assert sound[120 * RATE_HZ + 2000 :][:8000].max() > 0.2
    assert sound[2 * RATE_HZ : 119 * RATE_HZ].max() < 1e-3


def test_a_dub_shows_no_frames_in_gaps(minutes: Path, tmp_path: Path) -> None:
    video = write_footage(tmp_path / "footage.mp4", pictures(12))
    job = debug_avatar().dub(video, minutes, located=located(video, still_track(12)))
    result = job.save(tmp_path / "out.mp4", fit="loop")
    assert result.frames < 25 * (2 + 2 * GAP_MARGIN_S + 1)
    assert list(read_frames(result.output))[-1].time_s == pytest.approx(121, abs=0.1)


def test_a_gap_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = write_apart(tmp_path / "far.mka", [0, 50])
    with limited(Limits(duration_s=50)), pytest.raises(Exception, match="--max-duration"):
        read_audio(path)
    with limited(Limits(duration_s=51)):
        assert len(read_audio(path)) == 51 * RATE_HZ
