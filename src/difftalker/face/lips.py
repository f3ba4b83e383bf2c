"""Lip opening: measured, set, and calibrated between drawn landmarks and generated faces.

Points are (frames, 68, 2), in any unit; openings (frames,) are in face scales, brows to the base of
the nose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from difftalker.face.crop import face_scale
from difftalker.face.landmarks import (
    ABOVE_GAP,
    BELOW_GAP,
    BROWS,
    NOSE_BASE,
    lip_gaps,
    mouth_opening,
)
from difftalker.store.calibration import MOST_ADDED, OPENINGS

SEEN_SHARE = 0.02
"""An opening is calibrated where at least this share of the generated mouths is wider."""
FEWEST_FRAMES = 100
"""Fewest generated mouths, frames, from which openings are calibrated."""
_LEAST = 1e-4
"""Opening of lips that meet, face scales; no gain opens them."""
_NEARLY_CLOSED = 0.02
"""Opening below which the gaps of the lips have no direction to speak of."""

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
"""(outer, inner, share): outer points follow the nearest inner ones, beside the corners by half."""

Floats = NDArray[np.floating]
Points = NDArray[np.float32]


def relative_opening(points: Points) -> Floats:
    """(F, 68, 2) -> (F,): opening of the lips in face scales (brows to the base of the nose)."""
    opening: Floats = mouth_opening(points) / face_scale(points)
    return opening


def open_mouth(points: Points, gain: float | Floats) -> Points:
    """Open the mouth of points (F, 68, 2) ``gain`` times as far; one gain, or one a frame (F,).

    The inner lips are scaled about the midline between them, and the outer lips follow. Lips keep
    their thickness, corners keep their place, and a closed mouth stays closed.
    """
    gaps = np.reshape(np.asarray(gain), (-1, 1, 1)) * lip_gaps(points)
    return _with_gaps(points, gaps.astype(np.float32))


def open_as(points: Points, other: Points) -> Points:
    """Open the mouth of ``points`` (F, 68, 2) by the lip gaps of ``other`` (F, 68, 2)."""
    return _with_gaps(points, lip_gaps(other))


def _with_gaps(points: Points, gaps: Points) -> Points:
    move = np.zeros_like(points)
    half = (gaps - lip_gaps(points)) / 2
    move[:, list(BELOW_GAP)] = half
    move[:, list(ABOVE_GAP)] = -half
    for outer, inner, share in OUTER_FOLLOWS:
        move[:, outer] = share * move[:, inner]
    return (points + move).astype(np.float32)


def open_to(points: Points, opening: Floats) -> Points:
    """Open the mouth (F, 68, 2) to ``opening`` (F,), face scales; closed lips stay closed."""
    return open_mouth(points, opening / np.maximum(relative_opening(points), _LEAST))


def set_openings(points: Points, opening: Floats) -> Points:
    """Open the mouth (F, 68, 2) to ``opening`` (F,), face scales, where that is a number.

    Unlike ``open_to`` it opens closed lips too: along the face, all three gaps alike.
    """
    now, scale = relative_opening(points), face_scale(points)
    wanted = np.where(np.isnan(opening), now, opening)
    down = points[:, NOSE_BASE] - points[:, BROWS].mean(1)
    down = down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), _LEAST)
    straight = (wanted * scale)[:, None, None] * down[:, None]
    gaps = lip_gaps(points)
    scaled = gaps * (wanted / np.maximum(now, _LEAST))[:, None, None]
    made = np.where((now > _NEARLY_CLOSED)[:, None, None], scaled, straight)
    kept = np.isnan(opening)[:, None, None]
    return _with_gaps(points, np.where(kept, gaps, made).astype(np.float32))


def correct_openings(points: Points, correction: tuple[float, ...]) -> Points:
    """Lips to draw, (F, 68, 2), so that the generated face shows those of ``points`` (F, 68, 2).

    ``correction`` is what :func:`opening_correction` measured at ``OPENINGS``, face scales; it is
    interpolated between them.
    """
    opening = relative_opening(points)
    wanted = opening + np.interp(opening, (0.0, *OPENINGS), (0.0, *correction))
    return open_to(points, np.maximum(wanted, 0))


def opening_correction(drawn: Floats, generated: Floats) -> tuple[float, ...]:
    """Calibrate openings: how much wider mouths were drawn than they were generated, face scales.

    ``drawn`` and ``generated`` (n,) are openings of drawn landmarks and of generated faces. Their
    quantiles are matched, as a regression on single frames would flatten the relation by noise.
    The result has one value for each of ``OPENINGS``, smoothed over its neighbours. Beyond the
    widest opening seen it is constant. It is empty below ``FEWEST_FRAMES`` frames.
    """
    known = np.isfinite(drawn) & np.isfinite(generated)
    drawn, generated = drawn[known], np.sort(generated[known])
    if len(drawn) < FEWEST_FRAMES:
        return ()
    below = np.searchsorted(generated, OPENINGS, side="right") / len(generated)
    added = np.clip(np.quantile(drawn, below) - OPENINGS, -MOST_ADDED, MOST_ADDED)
    seen = int((below <= 1 - SEEN_SHARE).sum())
    added[seen:] = added[seen - 1] if seen else 0.0
    # An unsteady curve would make unsteady lips.
    edges = np.pad(added, 1, mode="edge")
    added = (edges[:-2] + 2 * added + edges[2:]) / 4
    return tuple(round(float(one), 4) for one in added)
