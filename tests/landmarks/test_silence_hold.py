"""Silence by its level, and a mouth that rests in it."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.dubbing import avatar as pipeline
from difftalker.face.landmarks import CHIN, INNER_LIPS, LOWER, POINTS, UPPER, mouth_opening
from difftalker.face.lips import relative_opening
from difftalker.landmarks.silence_hold import OPENED_S, OPENS_S, hold_silence
from difftalker.packaged import samples
from difftalker.speech.silence import SILENT_MARGIN_S, silent_frames, sound_level_db
from helpers import face_points

RATE_HZ = 16_000
FRAMES = 50
TIMES_S = np.arange(FRAMES) / 25
EVERYWHERE = np.ones(FRAMES, bool)


def test_sound_level_of_known_sounds() -> None:
    seconds = np.arange(RATE_HZ) / RATE_HZ
    sine = np.sin(2 * np.pi * 1000 * seconds)
    level = sound_level_db([sine], np.array([0.5, 0.9, 5.0]), rate_hz=RATE_HZ)
    assert level[:2] == pytest.approx(-3.01, abs=0.01)
    assert level[2] == -120
    quiet = sound_level_db([sine / 100], np.array([0.5]), rate_hz=RATE_HZ)
    assert quiet == pytest.approx(-43.01, abs=0.01)


@pytest.mark.parametrize("block", [1, 37, 320, 16_000, 10**6])
def test_the_level_is_the_same_in_blocks_of_any_length(block: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 3001 if block == 1 else 40_000)
    times_s = np.array([-0.1, 0.0, 0.01, 0.1, 0.19, 1.0, 1.0, 2.49, 2.5, 2.6])
    by_hand = []
    for time_s in times_s:
        first, last = (round(time_s * RATE_HZ) + side for side in (-320, 320))
        power = np.square(sound[max(first, 0) : max(last, 0)]).sum() / 640
        by_hand.append(10 * np.log10(max(power, 1e-12)))
    blocks = [sound[i : i + block] for i in range(0, len(sound), block)]
    found = sound_level_db(blocks, times_s, rate_hz=RATE_HZ)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_silence_is_quiet_and_away_from_speech() -> None:
    level = np.full(FRAMES, -50.0)
    level[10:20] = -15
    silent = silent_frames(level, TIMES_S)
    margin = 3  # frames of 40 ms within 0.12 s
    expected = [i < 10 - margin or i > 19 + margin for i in range(FRAMES)]
    assert silent.tolist() == expected


def test_a_wider_margin_leaves_less_silence() -> None:
    level = np.full(FRAMES, -50.0)
    level[10:20] = -15
    silent = silent_frames(level, TIMES_S, 0.42)
    assert silent.tolist() == [i > 19 + 10 for i in range(FRAMES)]


@pytest.mark.parametrize(("level_db", "silent"), [(-120, True), (-61, True), (-30, False)])
def test_an_even_level_is_silence_only_where_it_is_low(level_db: float, silent: bool) -> None:
    frames = silent_frames(np.full(FRAMES, level_db), TIMES_S)
    assert frames.tolist() == [silent] * FRAMES


def restless() -> NDArray[np.float32]:
    """A head that drifts, and lips that open and close all the time."""
    points = np.tile(np.linspace(0.2, 0.8, POINTS)[:, None], (FRAMES, 1, 2)).astype(np.float32)
    points += (0.1 * TIMES_S)[:, None, None].astype(np.float32)
    points[:, list(INNER_LIPS[4:]), 1] += (0.02 * np.sin(20 * TIMES_S))[:, None]
    return points


def test_the_mouth_rests_in_silence_and_goes_with_the_head() -> None:
    points, silent = restless(), TIMES_S < 1
    rested = hold_silence(points, TIMES_S, EVERYWHERE, silent)
    openings = [mouth_opening(x) for x in (points, rested)]
    before, after = (np.ptp(x[silent]) for x in openings)
    assert after < 0.2 * before
    assert np.ptp(openings[1][TIMES_S < 1 - OPENS_S]) < 0.01 * before
    head = rested[:, list(LOWER)].mean(1) - rested[:, list(UPPER)].mean(1)
    assert np.ptp(head[silent], axis=0).max() < 0.003  # the head itself moves by 0.1
    np.testing.assert_array_equal(rested[:, list(UPPER)], points[:, list(UPPER)])


def test_speech_stays_as_it_is_and_the_rest_fades_in() -> None:
    points, silent = restless(), TIMES_S < 1
    rested = hold_silence(points, TIMES_S, EVERYWHERE, silent)
    np.testing.assert_array_equal(rested[28:], points[28:])  # 0.12 s after the silence
    moved = np.abs(rested - points).max((1, 2))
    assert moved[25:27].min() > 0
    # The first frame of speech is held as the last one of the silence is.
    assert mouth_opening(rested)[25] == pytest.approx(mouth_opening(rested)[24], abs=1e-6)
    assert abs(np.diff(mouth_opening(points)[24:26])[0]) > 1e-3
    np.testing.assert_array_equal(hold_silence(points, TIMES_S, EVERYWHERE, silent & False), points)


def anticipating(opens_s: float) -> NDArray[np.float32]:
    """Lips that are hardly open until speech comes near, at 1.6 s, and then open fast."""
    gaps = 0.002 + 0.1 * np.clip((TIMES_S - opens_s) / 0.2, 0, 1)
    return np.stack([face_points(float(gap)) for gap in gaps]).astype(np.float32)


def test_lips_open_slowly_before_speech_and_never_wider_than_completed() -> None:
    points, silent = anticipating(1.2), TIMES_S < 1.6
    opening, before = (
        relative_opening(x) for x in (hold_silence(points, TIMES_S, EVERYWHERE, silent), points)
    )
    assert (opening[silent] <= before[silent] + 1e-3).all()
    took_s = np.interp(opening[silent], *np.transpose(OPENED_S))
    assert (np.diff(took_s) / np.diff(TIMES_S[silent])).max() == pytest.approx(1, rel=0.05)
    assert 0.6 * OPENS_S < took_s.max() < 1.1 * OPENS_S
    far = TIMES_S < 1.6 - OPENS_S
    assert np.ptp(opening[far]) < 1e-3


def test_lips_are_slowest_while_they_are_seen_to_part() -> None:
    points, silent = anticipating(1.2), TIMES_S < 1.6
    opening = relative_opening(hold_silence(points, TIMES_S, EVERYWHERE, silent))[silent]
    speeds, middles = np.diff(opening) * 25, (opening[1:] + opening[:-1]) / 2
    parting = (middles > 0.03) & (middles < 0.06)
    assert parting.sum() > 3
    assert 0 < speeds[parting].max() < 0.2 < speeds[middles > 0.07].max() < 0.3


def test_the_jaw_opens_with_the_lips() -> None:
    points, silent = anticipating(1.2), TIMES_S < 1.6
    completed = relative_opening(points)
    drop = 0.5 * completed.astype(np.float32)
    points[:, CHIN, 1] += drop
    rested = hold_silence(points, TIMES_S, EVERYWHERE, silent)
    fallen = (rested - points)[:, CHIN, 1] + drop
    # Next to speech, where lips come slowly: as far as they have come.
    near = (TIMES_S > 1.4) & silent
    assert (relative_opening(rested)[near] < 0.7 * completed[near]).all()
    assert (fallen[near] < 0.7 * drop[near]).all()
    assert (np.diff(fallen[near]) > 0).all()


def test_lips_that_move_far_from_speech_stay_as_closed_as_they_come() -> None:
    gaps = 0.002 + 0.03 * (1 + np.sin(9 * TIMES_S))
    points = np.stack([face_points(float(gap)) for gap in gaps]).astype(np.float32)
    opening = relative_opening(hold_silence(points, TIMES_S, EVERYWHERE, EVERYWHERE))
    least = relative_opening(points).min()
    np.testing.assert_allclose(opening, least, atol=1e-4)


def test_a_rest_ends_at_a_cut_and_leaves_frames_without_a_face() -> None:
    points, silent, found = restless(), TIMES_S < 1, EVERYWHERE.copy()
    points[25:] += 0.1  # another shot, in which speech begins at once
    found[10:12] = False
    rested = hold_silence(points, TIMES_S, found, silent, np.array([25]))
    np.testing.assert_array_equal(rested[25:], points[25:])
    np.testing.assert_array_equal(rested[10:12], points[10:12])


def test_an_avatar_hears_silence_where_lips_may_open(tmp_path: Path) -> None:
    level = np.where(np.arange(3 * RATE_HZ) < RATE_HZ, 3000, 3)
    noise = (level * np.random.default_rng(0).normal(0, 1, len(level))).astype(np.int16)
    path = write_sound(tmp_path / "ends.wav", noise)
    times_s = np.arange(75) / 25
    avatar = pipeline.load(samples.AVATAR)
    windows = avatar.windows(avatar.speech(path), times_s)
    assert windows is not None
    heard = np.abs(windows.take(times_s)).max((1, 2)) > 0
    last_s = times_s[heard].max()
    assert heard[times_s <= last_s].all()
    assert last_s == pytest.approx(1 + SILENT_MARGIN_S + OPENS_S, abs=0.06)


def write_sound(path: Path, samples: NDArray[np.int16]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    return path


def test_an_avatar_rests_where_the_sound_is_silent(tmp_path: Path) -> None:
    avatar, speech = pipeline.load(samples.AVATAR), samples.speech()
    upper = avatar.networks.motion.sample(75, 25.0)
    times_s = np.arange(75) / 25
    noise = np.random.default_rng(0).normal(0, 3, 3 * RATE_HZ).astype(np.int16)
    breath = write_sound(tmp_path / "breath.wav", noise)
    openings = {
        path: mouth_opening(avatar.completer.complete(upper, times_s, avatar.speech(path)))
        for path in (breath, speech)
    }
    assert np.ptp(openings[breath]) < 0.3 * np.ptp(openings[speech])
