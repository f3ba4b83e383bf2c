"""Windows of speech features centred on video frames, at any frame rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError

Floats = NDArray[np.float32]
Times = NDArray[np.float64]


def windows(features: Floats, times_s: Times, *, size: int = 16, rate_hz: float = 50.0) -> Floats:
    """Features (T, C) -> one window for each time (F,), as (F, size, C).

    Slot ``k`` of a window lies at position ``time * rate + k - (size - 1) / 2``, taken by linear
    interpolation: a window is centred on its frame exactly at every frame rate (the nearest would
    jitter by half a feature, 10 ms). Beyond both ends the edge feature repeats: it is a sound that
    the encoder does give, mostly silence, whereas zeros are none.

    Raises:
        MediaError: there is no feature at all.
    """
    positions = _positions(times_s, size, rate_hz)
    return _interpolate(features, positions, length=len(features))


class WindowStream:
    """The same windows from a stream of feature chunks (T_i, C), holding only what is needed."""

    def __init__(
        self,
        chunks: Iterable[Floats],
        size: int = 16,
        *,
        rate_hz: float = 50.0,
        clock: Callable[[Times], Times] = lambda times_s: times_s,
    ) -> None:
        """``clock`` gives the times of features for those of frames, seconds, in their order."""
        self.size, self.rate_hz, self._clock = size, rate_hz, clock
        self._chunks = iter(chunks)
        self._held: Floats | None = None
        self._first = 0
        self._ended = False

    def take(self, times_s: Times) -> Floats:
        """Windows (n, size, C) for times (n,) in ascending order, within a call and between calls.

        Raises:
            MediaError: there is no feature at all, or a time goes back to what was let go.
        """
        positions = _positions(self._clock(times_s), self.size, self.rate_hz)
        if not positions.size:
            self._read_until(0)
            return np.zeros((0, self.size, self._features().shape[1]), np.float32)
        self._read_until(int(np.floor(positions.max())) + 1)
        held = self._features()
        if np.floor(positions.min()) < self._first and self._first:
            raise MediaError(f"a window at {np.min(times_s)} s", wanted="times that never go back")
        taken = _interpolate(held, positions - self._first, length=len(held))
        self._let_go(int(np.floor(positions[-1, 0])))
        return taken

    def _features(self) -> Floats:
        if self._held is None:
            raise _no_features()
        return self._held

    def _read_until(self, index: int) -> None:
        """Hold feature ``index``, or everything to the end of the stream."""
        fresh = [] if self._held is None else [self._held]
        end = self._first + sum(map(len, fresh))
        while not self._ended and (end <= index or not end):
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
            elif len(chunk):
                fresh.append(chunk)
                end += len(chunk)
        if fresh:
            self._held = np.concatenate(fresh)

    def _let_go(self, index: int) -> None:
        """Drop what lies before feature ``index``; the last feature stays, for the edge."""
        held = self._features()
        dropped = min(max(index - self._first, 0), len(held) - 1)
        self._held = held[dropped:].copy()
        self._first += dropped


class SpokenWindows:
    """The windows of the frames of one video, in order; zeros where nothing is said.

    There networks would make mouths of noise and breath. Frames may be left out.
    """

    def __init__(self, stream: WindowStream, times_s: Times, silent: NDArray[np.bool_]) -> None:
        """``silent`` (frames,) are the frames without speech, of those at ``times_s`` (frames,)."""
        self._stream, self._times_s, self._silent = stream, times_s, silent

    def take(self, times_s: Times) -> Floats:
        """Windows (n, size, C) of later frames, which are at these times (n,)."""
        taken = self._stream.take(times_s)
        taken[self._silent[np.searchsorted(self._times_s, times_s)]] = 0
        return taken


def _no_features() -> MediaError:
    return MediaError("speech without a single feature", wanted="some audio")


def _positions(times_s: Times, size: int, rate_hz: float) -> Times:
    """Positions (F, size) in features."""
    centres = np.asarray(times_s, np.float64) * rate_hz
    return centres[:, None] + np.arange(size) - (size - 1) / 2


def _interpolate(features: Floats, positions: Times, *, length: int) -> Floats:
    if not length:
        raise _no_features()
    clipped = np.clip(positions, 0, length - 1)
    low = np.floor(clipped).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    weight = (clipped - low).astype(np.float32)[..., None]
    return (features[low] + weight * (features[high] - features[low])).astype(np.float32)
