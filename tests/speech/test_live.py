"""Features of sound as it comes: what they know, and when."""

from __future__ import annotations

import numpy as np
import pytest

from difftalker.errors import MediaError
from difftalker.speech.encoder import encode_all
from difftalker.speech.live import AHEAD_S, LAG_FEATURES, LiveLogMelEncoder
from difftalker.speech.windows import windows

RATE_HZ = 16_000
WINDOW = 16


def noise(seconds: float, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ))).astype(
        np.float32
    )


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 641, 16_000, 40_123])
def test_there_is_a_feature_for_every_fiftieth_of_a_second(samples: int) -> None:
    features = encode_all(LiveLogMelEncoder(), [noise(3)[:samples]])
    assert features.shape == (-(-samples // 320), 80)


def test_blocks_of_any_size_give_the_same() -> None:
    sound = noise(1.7)
    whole = encode_all(LiveLogMelEncoder(), [sound])
    rng = np.random.default_rng(1)
    places = np.sort(rng.integers(0, len(sound), 40))
    parts = encode_all(LiveLogMelEncoder(), np.split(sound, places))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_a_window_around_a_frame_depends_on_a_fifth_of_a_second_after_it() -> None:
    sound, time_s = noise(3), 1.0
    latest = round((time_s + AHEAD_S) * RATE_HZ)

    def window(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> object:
        features = encode_all(LiveLogMelEncoder(), [samples])
        return windows(features, np.array([time_s]), size=WINDOW)

    known = window(sound)
    for first, alike in ((latest, True), (latest - 2400, False)):
        changed = sound.copy()
        changed[first:] = noise(3, 1)[first:]
        assert np.array_equal(np.asarray(window(changed)), np.asarray(known)) == alike


def test_a_feature_tells_of_the_sound_before_its_time() -> None:
    sound = np.zeros(2 * RATE_HZ, np.float32)
    click = 50  # the feature's number
    sound[click * 320 : (click + 1) * 320] = noise(0.02)
    features = encode_all(LiveLogMelEncoder(), [sound])
    assert int(features.mean(1).argmax()) == click + LAG_FEATURES


def test_broken_sound_is_refused() -> None:
    for wrong in (np.zeros((2, 3), np.float32), np.full(9, np.nan, np.float32)):
        with pytest.raises(MediaError):
            encode_all(LiveLogMelEncoder(), [wrong])
