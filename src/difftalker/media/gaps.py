"""Time without sound or without frames: the one rule by which it is left out of all work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAP_MARGIN_S = 5.0
"""Time that is farther than this from all sound, or from all frames, is a gap. Pauses and slide
shows are none, and what is encoded has its surroundings."""
GRID_S = 0.02
"""Gaps begin and end at multiples of this: the time of a feature of speech."""

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Gaps:
    """Stretches of time, apart from each other and rising; none begins before ``GAP_MARGIN_S``."""

    starts_s: Times
    """(n,), seconds."""
    stops_s: Times
    """(n,)."""

    def contain(self, times_s: Times) -> NDArray[np.bool_]:
        """Whether times (m,), seconds, lie within a gap."""
        begun = np.searchsorted(self.starts_s, times_s, side="left")
        ended = np.searchsorted(self.stops_s, times_s, side="right")
        return np.asarray(begun > ended)

    def closed(self, times_s: Times) -> Times:
        """Times (m,), seconds, on a clock that stands still in the gaps."""
        lengths_s = np.r_[0.0, np.cumsum(self.stops_s - self.starts_s)]
        begun = np.searchsorted(self.starts_s, times_s, side="left")
        left_out_s = lengths_s[begun]
        if len(self.stops_s):  # within one, time stands where it began
            inside = self.contain(times_s)
            last = self.stops_s[np.maximum(begun - 1, 0)]
            left_out_s = left_out_s - np.where(inside, last - times_s, 0.0)
        return np.asarray(times_s - left_out_s, np.float64)

    def between(self, end_s: float) -> Iterator[tuple[float, float]]:
        """The stretches outside of the gaps, from zero to ``end_s``, seconds."""
        begins = [0.0, *self.stops_s.tolist()]
        for begin_s, stop_s in zip(begins, [*self.starts_s.tolist(), end_s], strict=True):
            if min(stop_s, end_s) > begin_s:
                yield begin_s, min(stop_s, end_s)


def find_gaps(sound_s: Times, frames_s: Times | None = None) -> Gaps:
    """Find the gaps of sound and frames together, up to the end of either.

    ``sound_s`` (n, 2) says where there is sound, rising, seconds; ``frames_s`` (m,) are the times
    of frames, rising; by default there are some everywhere.
    """
    starts_s, stops_s = _apart(sound_s[:, 0], sound_s[:, 1])
    if frames_s is not None:
        more = _apart(frames_s, frames_s)
        starts_s, stops_s = _merged(np.r_[starts_s, more[0]], np.r_[stops_s, more[1]])
    return Gaps(starts_s, stops_s)


def _apart(begins_s: Times, ends_s: Times) -> tuple[Times, Times]:
    """The gaps before and between stretches of time."""
    starts = np.ceil((np.r_[0.0, ends_s[:-1]] + GAP_MARGIN_S) / GRID_S)
    stops = np.floor((begins_s - GAP_MARGIN_S) / GRID_S)
    is_gap = stops > starts
    return starts[is_gap] * GRID_S, stops[is_gap] * GRID_S


def _merged(starts_s: Times, stops_s: Times) -> tuple[Times, Times]:
    """Stretches of time that may overlap, as some that do not."""
    order = np.argsort(starts_s, kind="stable")
    starts_s, stops_s = starts_s[order], np.maximum.accumulate(stops_s[order])
    is_first = np.r_[True, starts_s[1:] > stops_s[:-1]][: len(starts_s)]
    is_last = np.r_[is_first[1:], True][: len(starts_s)]
    return starts_s[is_first], stops_s[is_last]
