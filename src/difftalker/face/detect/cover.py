"""Covered mouths: hands, microphones and cloth before the lower face.

MediaPipe finds a mouth behind them all the same. They are noticed by the colours of the lower face
(``looks.lower_face``), against those that the same person usually has in the same shot: speech
changes the cells about the lips and does so all the time, a cover changes most cells at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import EYES, JAW, NOSE_BASE

MEAN_UNUSUAL = 1.25
"""A face is covered where its cells differ from the usual by this many deviations in the mean,"""
MANY_UNUSUAL = 1.47
"""or where 3 of 10 cells differ by this many."""
UNCOVERED = 0.75
"""Share of both thresholds below which a face is uncovered again."""
AROUND_S = 0.12
"""Margin before and after a cover that counts as covered, seconds: it comes and goes."""

_STEADY = np.array([5.0, 2.5, 2.5], np.float32)
"""Differences of L*, a* and b* that never count."""
_FEW_FRAMES = 12
_LARGE_SHARE = 0.25
_MOUTH, _NO_FACE = 3.0, 11.0
_STILL_POSE, _POSE = 0.1, 0.5
"""Light changes on a head that turns or nods: beyond the first pose change (``_pose_change``), each
further second one allows for the threshold once more."""
LIGHT = 2.5
"""Factor on the threshold against all shots of a video, between which the light changes."""


def find_covered(
    lower: NDArray[np.int8],
    points_px: NDArray[np.float32],
    times_s: NDArray[np.float64],
    shot: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Detect frames of one person in which something covers the lower face; (n,).

    ``lower`` (n, 6, 6, 3) as ``looks.lower_face`` gives it, ``points_px`` (n, 68, 2), ``times_s``
    (n,) rising, ``shot`` (n,) a number for each shot; only frames with a face. What is there in
    most frames counts as the face, unless the rest is more like the skin about the eyes.
    """
    covered = _covered(lower, points_px, LIGHT)
    for number in np.unique(shot):
        here = shot == number
        covered[here] |= _covered(lower[here], points_px[here], 1)
    when = times_s[covered]
    after = np.searchsorted(when, times_s - AROUND_S)
    before = np.searchsorted(when, times_s + AROUND_S, side="right")
    return np.asarray(before > after)


def _covered(
    lower: NDArray[np.int8], points_px: NDArray[np.float32], least: float
) -> NDArray[np.bool_]:
    """Detect covers among frames in one light, (n,), without margins in time."""
    if len(lower) < _FEW_FRAMES:
        return np.zeros(len(lower), bool)
    colours = lower.astype(np.float32)
    allowed = least + np.maximum(_pose_change(points_px) - _STILL_POSE, 0) / _POSE
    covered = _held(_unusual(colours, colours) / allowed)
    if covered.mean() > _LARGE_SHARE:
        # Two looks share the shot. The usual one is no face if it is far from the person's own
        # skin and the other one is near, though not as near as a hand: a mouth is no skin.
        usual, other = (_unlike_skin(colours[each]) for each in (~covered, covered))
        if usual > _NO_FACE and _MOUTH < other < _NO_FACE:
            covered = _held(_unusual(colours, colours[covered]) / allowed)
    return covered


def _unusual(colours: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,): how much each frame differs from usual ones; 1 and more is a cover."""
    middle = np.median(usual, axis=0)
    spread = 1.4826 * np.median(np.abs(usual - middle), axis=0)
    apart = np.abs(colours - middle) / np.sqrt((2 * spread) ** 2 + _STEADY**2)
    cells = apart.max(-1).reshape(len(colours), -1)
    many = np.percentile(cells, 70, axis=1)
    return np.asarray(np.maximum(cells.mean(1) / MEAN_UNUSUAL, many / MANY_UNUSUAL), np.float32)


def _held(unusual: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Threshold with hysteresis: (n,) differences -> whether the face is covered."""
    low, high = unusual > UNCOVERED, unusual > 1
    runs = np.cumsum(np.diff(low, prepend=False) & low) * low
    return np.isin(runs, np.unique(runs[high])) & low


def _unlike_skin(colours: NDArray[np.float32]) -> float:
    """Distance of the median cells from the skin about the eyes, whose colour is zero here."""
    return float(np.abs(np.median(colours, axis=0)).mean())


def _pose_change(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,): how far the head is turned or nods against its usual pose, in parts of the face."""
    left, right = points_px[:, JAW[0]], points_px[:, JAW[16]]
    nose, eyes = points_px[:, NOSE_BASE], points_px[:, EYES].mean(1)
    across = np.maximum(np.linalg.norm(right - left, axis=-1), 1e-3)
    turn = 2 * ((nose - left) * (right - left)).sum(-1) / across**2
    nod = np.linalg.norm(nose - eyes, axis=-1) / across
    pose = np.stack([turn, nod], 1)
    return np.asarray(np.abs(pose - np.median(pose, axis=0)).sum(1), np.float32)
