"""A mouth that rests where nothing is said.

Completion hears breath and noise, and lips that move there are seen as a mouth that moves by
itself. In silence the lower face therefore follows the head alone, and the lips stay as closed as
they come there. Speakers open them before they speak, and close them after, for longer than the
margin that belongs to speech; so lips do near speech, but slowly, and never wider than completed.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import LOWER
from difftalker.face.lips import open_to, relative_opening
from difftalker.landmarks.edits import NO_CUTS, Cuts, Points, head_of, smooth_motion
from difftalker.speech.silence import SILENT_MARGIN_S

SETTLE_S = 0.4
"""Standard deviation of the Gaussian over motion within a silence."""
HELD_S = 0.04
"""How long beside a silence the face stays as it is at its end; then it fades into speech."""
OPENS_S = 0.6
"""How long before speech lips begin to open, and how long after it they are closed again."""
OPENED_S = ((0.0, 0.0), (0.02, 0.08), (0.07, 0.45), (1.07, 4.45))
"""Openings, face scales, and how long lips take at least to open so far in silence, or to close.

What the evaluation calls a mouth that moves is 0.3 a second. Thinner gaps than the second hardly
show where they are painted, and up to the third they show more and more: lips are slowest there.
"""


def hold_silence(
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
        if found[run].any():
            still[run] = _still(points, times_s, found, run)
    head, lower = head_of(points), list(LOWER)
    nearest = _nearest(silent, times_s)
    apart = np.abs(times_s - times_s[nearest])
    share = np.clip((SILENT_MARGIN_S - apart) / (SILENT_MARGIN_S - HELD_S), 0, 1)
    share = np.where(found & found[nearest], share * share * (3 - 2 * share), 0)
    rested = (still[:, lower] - head)[nearest] + head
    moved = points[:, lower] + share[:, None, None] * (rested - points[:, lower])
    out = points.copy()
    out[:, lower] = np.where((share > 0)[:, None, None], moved, points[:, lower])
    return out


def _still(
    points: Points, times_s: NDArray[np.float64], found: NDArray[np.bool_], silence: slice
) -> Points:
    """Points (f, 68, 2) in one silence of a shot, whose ends are not speech.

    Next to speech the face is as completed, but for lips that open too far or too fast.
    """
    now, now_s, seen = points[silence], times_s[silence], found[silence]
    said_s = [times_s[i] for i in (silence.start - 1, silence.stop) if 0 <= i < len(times_s)]
    apart_s = np.min([np.full(len(now_s), np.inf), *(np.abs(now_s - s) for s in said_s)], 0)
    near = np.maximum(0, 1 - apart_s / OPENS_S)
    calm = smooth_motion(now, now_s, seen, SETTLE_S)
    completed = np.where(seen, relative_opening(now), np.inf)
    wanted = _slowly(completed, now_s, OPENS_S * near)
    # The jaw and all else open with the lips.
    resting = relative_opening(calm)
    way = np.maximum(completed - resting, 1e-6)
    share = np.clip((wanted - resting) / way, 0, near)
    calm += share[:, None, None].astype(np.float32) * (now - calm)
    return open_to(calm, wanted)


def _slowly(
    opening: NDArray[np.float64], times_s: NDArray[np.float64], left_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(f,): the widest openings that are nowhere wider and change no faster than ``OPENED_S`` says.

    From the least of them lips have ``left_s`` (f,) seconds to open.
    """
    openings, seconds = np.transpose(OPENED_S)
    took_s = np.interp(opening, openings, seconds)
    opens = np.minimum.accumulate(took_s - times_s) + times_s
    closes = np.minimum.accumulate((took_s + times_s)[::-1])[::-1] - times_s
    slow_s = np.min([opens, closes, took_s.min() + left_s], 0)
    slowly: NDArray[np.float64] = np.interp(slow_s, seconds, openings)
    return slowly


def _nearest(silent: NDArray[np.bool_], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """(F,): the number of the silent frame that is nearest in time."""
    numbers = np.flatnonzero(silent)
    after = np.searchsorted(numbers, np.arange(len(silent))).clip(0, len(numbers) - 1)
    before = (after - 1).clip(0)
    gaps = [np.abs(times_s - times_s[numbers[side]]) for side in (before, after)]
    nearest: NDArray[np.int64] = numbers[np.where(gaps[0] < gaps[1], before, after)]
    return nearest
