"""The sound of a live session: order, silence, interruption, and how little is kept."""

from __future__ import annotations

import numpy as np
import pytest

from difftalker.speech.live import AHEAD_S, LiveLogMelEncoder
from difftalker.speech.timeline import KEPT_S, SpeechTimeline

RATE_HZ, FPS, WINDOW = 16_000, 25, 16
Floats = np.ndarray[tuple[int], np.dtype[np.float32]]


def noise(seconds: float, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ))).astype(
        np.float32
    )


def played(speech: SpeechTimeline, start: int, stop: int) -> Floats:
    """What is heard with some frames."""
    parts = []
    for number in range(start, stop):
        speech.until((number + 1) / FPS)
        parts.append(speech.sound(number / FPS, (number + 1) / FPS))
    return np.concatenate(parts)


def test_what_is_pushed_is_heard_once_in_order_with_silence_after_it() -> None:
    speech, sound = SpeechTimeline(LiveLogMelEncoder(), window=WINDOW), noise(1)
    for part in np.split(sound, [7, 4000, 9001]):
        speech.push(part)
    assert speech.queued == len(sound)
    heard = played(speech, 0, 50)
    assert len(heard) == 2 * RATE_HZ
    np.testing.assert_array_equal(heard[: len(sound)], sound)
    assert not heard[len(sound) :].any()
    assert speech.queued == 0


def test_late_sound_follows_what_is_known_already() -> None:
    speech, sound = SpeechTimeline(LiveLogMelEncoder(), window=WINDOW), noise(0.5)
    before = played(speech, 0, 10)
    known_s = speech.known_s
    assert known_s == pytest.approx(10 / FPS + AHEAD_S)
    speech.push(sound)
    heard = np.concatenate([before, played(speech, 10, 50)])
    start = round(known_s * RATE_HZ)
    np.testing.assert_array_equal(heard[start : start + len(sound)], sound)
    assert not heard[:start].any()


def test_after_a_clear_there_is_silence_and_features_of_silence() -> None:
    speech, other = (SpeechTimeline(LiveLogMelEncoder(), window=WINDOW) for _ in range(2))
    sound = noise(2)
    speech.push(sound)
    played(speech, 0, 20)
    speech.clear(20 / FPS)
    assert not played(speech, 20, 40).any()
    # As if no more had been pushed than was heard.
    other.push(sound[: round(20 / FPS * RATE_HZ)])
    played(other, 0, 40)
    np.testing.assert_allclose(speech.window(39 / FPS), other.window(39 / FPS), atol=1e-5)
    assert speech.silent(39 / FPS)
    speech.push(sound)
    assert played(speech, 40, 60).any()


class Counting(LiveLogMelEncoder):
    """Counts the hops that it encodes."""

    hops = 0

    def encode_hops(self, sounds: Floats) -> Floats:
        self.hops += len(sounds)
        return super().encode_hops(sounds)


def test_a_clear_encodes_nothing_anew_and_later_features_are_as_ever() -> None:
    encoder = Counting()
    speech, other = (SpeechTimeline(one, window=WINDOW) for one in (encoder, LiveLogMelEncoder()))
    sound, later, stop = noise(4), noise(1, 1), 81
    speech.push(sound)
    other.push(sound[: round(stop / FPS * RATE_HZ)])
    other.push(later)
    for number in range(stop):
        for one in (speech, other):
            one.until((number + 1) / FPS)
            one.window(number / FPS)
    before = encoder.hops
    speech.clear(stop / FPS)
    speech.push(later)
    assert encoder.hops == before
    for number in range(stop, stop + 20):
        for one in (speech, other):
            one.until((number + 1) / FPS)
        np.testing.assert_allclose(
            speech.window(number / FPS), other.window(number / FPS), atol=1e-6
        )
    # What was known beyond the interruption, and each frame's own hop.
    assert encoder.hops - before <= 20 + round((AHEAD_S + 0.04) / 0.04)


def test_silence_is_told_by_the_level_of_the_speech_so_far() -> None:
    speech = SpeechTimeline(LiveLogMelEncoder(), window=WINDOW)
    speech.push(np.concatenate([noise(2), 0.001 * noise(1, 1), noise(1, 2)]))
    quiet = []
    for number in range(100):
        speech.until((number + 1) / FPS)
        quiet.append(speech.silent(number / FPS))
    # Speech to 2 s and from 3 s on, and a margin around it.
    assert not any(quiet[:50])
    assert all(quiet[56:71])
    assert not any(quiet[75:])


def test_little_is_kept_of_a_long_session() -> None:
    speech = SpeechTimeline(LiveLogMelEncoder(), window=WINDOW)
    sizes = []
    for number in range(60 * FPS):
        speech.push(noise(1 / FPS, number))
        speech.until((number + 1) / FPS)
        sizes.append((len(speech._known), len(speech._features), len(speech._levels)))
    known, features, levels = np.max(sizes, axis=0)
    assert known < (KEPT_S + 2) * RATE_HZ
    assert features < (KEPT_S + 2) * 50
    assert levels <= 250
    assert len(speech.window(60.0)) == WINDOW
