"""A mouth that rests where nothing is said.

Completion hears breath and noise, and opens lips long before speech, as speakers do. Beside footage
that is seen as a mouth that moves by itself. In silence the lower face therefore follows the head
alone, and comes to rest, and out of it, within the margin that belongs to speech.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from difftalker.edits import NO_CUTS, Cuts, Points, head_of, smooth_motion
from difftalker.face.landmarks import LOWER
from difftalker.speech.silence import SILENT_MARGIN_S

SETTLE_S = 0.4
"""Standard deviation of the Gaussian over motion within a silence."""


def at_rest(
    points: Points,
    times_s: NDArray[np.float64],
    found: NDArray[np.bool_],
    silent: NDArray[np.bool_],
    cuts: Cuts = NO_CUTS,
) -> Points:
    """Points (F, 68, 2) with a lower face that hardly moves against the head in silence.

    ``found`` (F,) tells where a face was seen, ``silent`` (F,) where nothing is said
    (:func:`difftalker.speech.silence.silent_frames`). Beside a silence the motion fades into what
    it is there; from ``SILENT_MARGIN_S`` on points stay as they are, bit for bit.
    """
    out = points.copy()
    for start, stop in pairwise(sorted({0, *cuts.tolist(), len(points)})):
        shot = slice(start, stop)
        if silent[shot].any():
            out[shot] = _shot(points[shot], times_s[shot], found[shot], silent[shot])
    return out


def _shot(
    points: Points,
    times_s: NDArray[np.float64],
    found: NDArray[np.bool_],
    silent: NDArray[np.bool_],
) -> Points:
    still = points.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
    for start, stop in edges.reshape(-1, 2):
        run = slice(int(start), int(stop))
        still[run] = smooth_motion(points[run], times_s[run], found[run], SETTLE_S)
    head, lower = head_of(points), list(LOWER)
    nearest = _nearest(silent, times_s)
    apart = np.abs(times_s - times_s[nearest])
    share = np.clip(1 - apart / SILENT_MARGIN_S, 0, 1)
    share = np.where(found & found[nearest], share * share * (3 - 2 * share), 0)
    rested = (still[:, lower] - head)[nearest] + head
    moved = points[:, lower] + share[:, None, None] * (rested - points[:, lower])
    out = points.copy()
    out[:, lower] = np.where((share > 0)[:, None, None], moved, points[:, lower])
    return out


def _nearest(silent: NDArray[np.bool_], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """(F,): the number of the silent frame that is nearest in time."""
    numbers = np.flatnonzero(silent)
    after = np.searchsorted(numbers, np.arange(len(silent))).clip(0, len(numbers) - 1)
    before = (after - 1).clip(0)
    gaps = [np.abs(times_s - times_s[numbers[side]]) for side in (before, after)]
    nearest: NDArray[np.int64] = numbers[np.where(gaps[0] < gaps[1], before, after)]
    return nearest
