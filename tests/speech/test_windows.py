"""Windows of speech features around video frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.speech.windows import SpokenWindows, WindowStream, windows


def ramp(length: int, channels: int = 3) -> NDArray[np.float32]:
    """Features whose value is their own position, times the channel."""
    return (np.arange(length)[:, None] * np.arange(1, channels + 1)).astype(np.float32)


@pytest.mark.parametrize("fps", [25.0, 30_000 / 1001, 24_000 / 1001, 50.0, 59.94])
def test_windows_are_centred_at_any_frame_rate(fps: float) -> None:
    times_s = 1 + np.arange(40) / fps
    taken = windows(ramp(200), times_s)
    assert taken.shape == (40, 16, 3)
    np.testing.assert_allclose(taken.mean(1)[:, 0], times_s * 50, rtol=1e-5)
    np.testing.assert_allclose(np.diff(taken[..., 1], axis=1), 2, atol=1e-4)


def test_windows_of_odd_size_hold_the_feature_itself() -> None:
    taken = windows(ramp(100), np.array([1.0]), size=3)
    np.testing.assert_array_equal(taken[0, :, 0], [49, 50, 51])


def test_windows_repeat_the_edges() -> None:
    taken = windows(ramp(10), np.array([-5.0, 0.0, 0.2, 9.0]), size=5)[..., 0]
    np.testing.assert_array_equal(taken, [[0] * 5, [0, 0, 0, 1, 2], [8, 9, 9, 9, 9], [9] * 5])


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 120),
    cuts=st.lists(st.integers(0, 120), max_size=8),
    times=st.lists(st.floats(-0.5, 3.5), min_size=1, max_size=30),
    calls=st.lists(st.integers(0, 30), max_size=5),
    size=st.integers(1, 20),
)
def test_stream_gives_the_windows_of_the_whole(
    length: int, cuts: list[int], times: list[float], calls: list[int], size: int
) -> None:
    features = np.random.default_rng(length).standard_normal((length, 2)).astype(np.float32)
    times_s = np.sort(np.array(times))
    stream = WindowStream(iter(np.split(features, sorted(cuts))), size)
    taken = [stream.take(part) for part in np.split(times_s, sorted(calls))]
    np.testing.assert_allclose(
        np.concatenate(taken), windows(features, times_s, size=size), atol=1e-6
    )


def test_stream_reads_and_holds_little() -> None:
    read = 0

    def endless() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        while True:
            read += 10
            yield np.zeros((10, 4), np.float32)

    stream = WindowStream(endless())
    assert read == 0
    for frame in range(0, 5000, 25):
        stream.take(np.arange(frame, frame + 25) / 25)
        held = stream._held
        assert held is not None
        assert len(held) <= 16 + 2 + 10
        assert read <= (frame + 25) * 2 + 8 + 10


def test_stream_refuses_to_go_back() -> None:
    stream = WindowStream([ramp(100)])
    stream.take(np.array([1.0]))
    with pytest.raises(MediaError, match="never go back"):
        stream.take(np.array([0.9]))


def test_no_features_are_refused() -> None:
    with pytest.raises(MediaError, match="without a single feature"):
        windows(np.zeros((0, 4), np.float32), np.array([0.0]))
    with pytest.raises(MediaError, match="without a single feature"):
        WindowStream([np.zeros((0, 4), np.float32)]).take(np.array([0.0]))
    with pytest.raises(MediaError, match="without a single feature"):
        WindowStream([]).take(np.array([]))


def test_where_nothing_is_said_windows_are_empty() -> None:
    times, silent = np.arange(10) / 25, np.arange(10) % 4 == 1
    stream = SpokenWindows(WindowStream([ramp(100)]), times, silent)
    taken = np.concatenate([stream.take(times[:3]), stream.take(times[3:])])
    whole = windows(ramp(100), times)
    assert not taken[silent].any()
    assert whole[~silent].any()
    np.testing.assert_array_equal(taken[~silent], whole[~silent])
    later = SpokenWindows(WindowStream([ramp(100)]), times, silent)
    np.testing.assert_array_equal(later.take(times[5:]), taken[5:])  # frames were left out
