"""How far lips are open, lips opened as far as wanted, and how far a painting opens them.

Points are (frames, 68, 2), in any unit; openings (frames,) are in face scales, brows to the base of
the nose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from difftalker.config import MOST_ADDED, OPENINGS
from difftalker.face.crop import face_scale
from difftalker.face.landmarks import ABOVE_GAP, BELOW_GAP, mouth_opening

SEEN_SHARE = 0.02
"""Of what was painted, wider than an opening of which anything is said."""
FEWEST_FRAMES = 100
"""Of painted mouths from which anything is said."""
_LEAST = 1e-4
"""Opening of lips that meet: of them no gain makes an open mouth."""

OUTER_FOLLOWS = (
    (49, 61, 0.5),
    (50, 61, 1.0),
    (51, 62, 1.0),
    (52, 63, 1.0),
    (53, 63, 0.5),
    (59, 67, 0.5),
    (58, 67, 1.0),
    (57, 66, 1.0),
    (56, 65, 1.0),
    (55, 65, 0.5),
)
"""Outer points go with the inner ones nearest, those beside the corners half as far."""

Floats = NDArray[np.floating]
Points = NDArray[np.float32]


def relative_opening(points: Points) -> Floats:
    """(F, 68, 2) -> (F,): opening of the lips in face scales (brows to the base of the nose)."""
    opening: Floats = mouth_opening(points) / face_scale(points)
    return opening


def open_mouth(points: Points, gain: float | Floats) -> Points:
    """The mouth opened ``gain`` times as far, one gain for all frames or one for each.

    The inner lips are scaled about the midline between them and the outer ones go with them, so
    that lips keep their thickness, corners their place, and a closed mouth stays closed.
    """
    gaps = np.reshape(np.asarray(gain), (-1, 1, 1)) * _gaps(points)
    return _with_gaps(points, gaps.astype(np.float32))


def open_as(points: Points, other: Points) -> Points:
    """The mouth of ``points`` (F, 68, 2) as far open, at each pair of lips, as that of others."""
    return _with_gaps(points, _gaps(other))


def _gaps(points: Points) -> Points:
    """(F, 3, 2): ways from the inner upper lip to the lower one."""
    return points[:, list(BELOW_GAP)] - points[:, list(ABOVE_GAP)]


def _with_gaps(points: Points, gaps: Points) -> Points:
    move = np.zeros_like(points)
    half = (gaps - _gaps(points)) / 2
    move[:, list(BELOW_GAP)] = half
    move[:, list(ABOVE_GAP)] = -half
    for outer, inner, share in OUTER_FOLLOWS:
        move[:, outer] = share * move[:, inner]
    return (points + move).astype(np.float32)


def open_to(points: Points, opening: Floats) -> Points:
    """The mouth as far open as ``opening`` (F,) says; lips that meet stay together."""
    return open_mouth(points, opening / np.maximum(relative_opening(points), _LEAST))


def drawn_for(points: Points, added: tuple[float, ...]) -> Points:
    """Lips to be drawn, that those of these points (F, 68, 2) may be painted.

    ``added`` is what :func:`too_little` found; between its openings it is interpolated.
    """
    opening = relative_opening(points)
    wanted = opening + np.interp(opening, (0.0, *OPENINGS), (0.0, *added))
    return open_to(points, np.maximum(wanted, 0))


def too_little(drawn: Floats, painted: Floats) -> tuple[float, ...]:
    """By how much mouths were drawn wider open than painted ones are that have ``OPENINGS``.

    Of openings drawn and painted, (n,) each, equal shares lie below what belongs together; one by
    one they would tell of chance as well, which makes all relations flatter. Neighbours are
    averaged, one with half of each. Wider than what was seen it is as much as at the widest;
    nothing is said of few frames.
    """
    known = np.isfinite(drawn) & np.isfinite(painted)
    drawn, painted = drawn[known], np.sort(painted[known])
    if len(drawn) < FEWEST_FRAMES:
        return ()
    below = np.searchsorted(painted, OPENINGS, side="right") / len(painted)
    added = np.clip(np.quantile(drawn, below) - OPENINGS, -MOST_ADDED, MOST_ADDED)
    seen = int((below <= 1 - SEEN_SHARE).sum())
    added[seen:] = added[seen - 1] if seen else 0.0
    # An unsteady curve would make unsteady lips.
    edges = np.pad(added, 1, mode="edge")
    added = (edges[:-2] + 2 * added + edges[2:]) / 4
    return tuple(round(float(one), 4) for one in added)
