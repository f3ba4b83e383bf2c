"""Silence hold: the mouth stays still where nothing is said.

Breath and noise move the completed lips, which shows as a mouth that moves by itself. In silence
the lower face therefore follows the head alone, and the lips stay as closed as they were. Speakers
open them before they speak and close them after, for longer than the margin that belongs to speech.
Near speech the lips therefore move, but slowly, and never wider than completed.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from difftalker.core.arrays import smoothstep
from difftalker.face.landmarks import LOWER
from difftalker.face.lips import open_to, relative_opening
from difftalker.landmarks.edits import NO_CUTS, Cuts, Points, head_of, smooth_motion
from difftalker.speech.silence import SILENT_MARGIN_S

SETTLE_S = 0.4
"""Standard deviation of the Gaussian over motion within a silence."""
HELD_S = 0.04
"""Time beside a silence for which the face is held before it fades into speech, seconds."""
OPENS_S = 0.6
"""Time before speech at which lips begin to open, and after it until they are closed, seconds."""
OPENED_S = ((0.0, 0.0), (0.02, 0.08), (0.07, 0.45), (1.07, 4.45))
"""(opening, seconds): least time in which lips open this far in silence, face scales, or close.

The evaluation counts a mouth as moving from 0.3 face scales a second. Gaps below the second opening
hardly show in generated faces, and up to the third they show more and more: lips are slowest there.
"""


def hold_silence(
    points: Points,
    times_s: NDArray[np.float64],
    found: NDArray[np.bool_],
    silent: NDArray[np.bool_],
    cuts: Cuts = NO_CUTS,
) -> Points:
    """Hold the lower face of points (F, 68, 2), crop units, against the head in silence.

    ``found`` (F,) marks detected faces, ``silent`` (F,) frames in which nothing is said
    (:func:`difftalker.speech.silence.silent_frames`). Beside a silence the hold fades out; from
    ``SILENT_MARGIN_S`` on points stay as they are, bit for bit.
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
        if found[run].any():
            still[run] = _still(points, times_s, found, run)
    head, lower = head_of(points), list(LOWER)
    nearest = _nearest(silent, times_s)
    apart = np.abs(times_s - times_s[nearest])
    share = np.clip((SILENT_MARGIN_S - apart) / (SILENT_MARGIN_S - HELD_S), 0, 1)
    share = np.where(found & found[nearest], smoothstep(share), 0)
    rested = (still[:, lower] - head)[nearest] + head
    moved = points[:, lower] + share[:, None, None] * (rested - points[:, lower])
    out = points.copy()
    out[:, lower] = np.where((share > 0)[:, None, None], moved, points[:, lower])
    return out


def _still(
    points: Points, times_s: NDArray[np.float64], found: NDArray[np.bool_], silence: slice
) -> Points:
    """Hold the points of one silence of a shot, (f, 68, 2); the ends of a shot are not speech.

    Next to speech the face is as completed, except for lips that open too far or too fast.
    """
    now, now_s, seen = points[silence], times_s[silence], found[silence]
    said_s = [times_s[i] for i in (silence.start - 1, silence.stop) if 0 <= i < len(times_s)]
    apart_s = np.min([np.full(len(now_s), np.inf), *(np.abs(now_s - s) for s in said_s)], 0)
    near = np.maximum(0, 1 - apart_s / OPENS_S)
    calm = smooth_motion(now, now_s, seen, SETTLE_S)
    completed = np.where(seen, relative_opening(now), np.inf)
    wanted = _slowly(completed, now_s, OPENS_S * near)
    # The jaw and all else open with the lips.
    held = relative_opening(calm)
    way = np.maximum(completed - held, 1e-6)
    share = np.clip((wanted - held) / way, 0, near)
    calm += share[:, None, None].astype(np.float32) * (now - calm)
    return open_to(calm, wanted)


def _slowly(
    opening: NDArray[np.float64], times_s: NDArray[np.float64], left_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Limit openings (f,) to the speed of ``OPENED_S``; the result is nowhere wider than given.

    From the smallest of them lips have ``left_s`` (f,) seconds to open.
    """
    openings, seconds = np.transpose(OPENED_S)
    took_s = np.interp(opening, openings, seconds)
    opens = np.minimum.accumulate(took_s - times_s) + times_s
    closes = np.minimum.accumulate((took_s + times_s)[::-1])[::-1] - times_s
    slow_s = np.min([opens, closes, took_s.min() + left_s], 0)
    slowly: NDArray[np.float64] = np.interp(slow_s, seconds, openings)
    return slowly


def _nearest(silent: NDArray[np.bool_], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """(F,): index of the silent frame that is nearest in time."""
    numbers = np.flatnonzero(silent)
    after = np.searchsorted(numbers, np.arange(len(silent))).clip(0, len(numbers) - 1)
    before = (after - 1).clip(0)
    gaps = [np.abs(times_s - times_s[numbers[side]]) for side in (before, after)]
    nearest: NDArray[np.int64] = numbers[np.where(gaps[0] < gaps[1], before, after)]
    return nearest
