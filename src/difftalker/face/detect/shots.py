"""Hard cuts: where one shot ends and another begins, by the pictures and by the face together."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import BROWS, EYES, NOSE

JUMP_ALONE = 0.8
"""Movement from one frame to the next, face widths, that alone means a cut or another face."""
JUMP_SEEN = 0.08
"""Least movement, face widths, where the picture changes as well;"""
COLOURS_SEEN = 0.3
"""or the least share of the histogram that changes."""
CHANGE_SEEN = 0.03
"""A picture changes if its thumbnail differs by this share of full scale,"""
CHANGE_OVER_OTHERS = 3.0
"""and by this many times the changes near it: pans, shaken cameras and hands are no cuts."""
SMALL_JUMP, SMALL_CHANGE = 0.04, 0.012
"""Least movement and change between two takes before one background,"""
SMALL_OVER_OTHERS = 6.0
"""where the change is this many times those near it, as in still shots alone."""

_NEAR_FRAMES = 3
_THUMBNAIL = (48, 27)
_UPPER = (*BROWS, *EYES, *NOSE)


class ChangeMeter:
    """Measures how much each picture differs from the one before; holds two numbers a frame."""

    def __init__(self) -> None:
        self._seen: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
        self._changes: list[tuple[float, float]] = []

    def update(self, image: NDArray[np.uint8]) -> bool:
        """Take the next picture, (H, W, 3) RGB; returns whether it may begin a new shot.

        It knows past frames only and returns true too often; ``cuts`` decides.
        """
        # Nearest first: an exact mean of every pixel of a 4K frame would cost more than the face.
        step = max(1, min(image.shape[:2]) // 270)
        small = cv2.resize(image[::step, ::step], _THUMBNAIL, interpolation=cv2.INTER_AREA)
        thumbnail = small.astype(np.float32) / 255
        bins = (small // 32).astype(np.int64) @ (64, 8, 1)
        colours = np.bincount(bins.ravel(), minlength=512) / bins.size
        change = (0.0, 0.0)
        if self._seen is not None:
            change = (
                float(np.abs(thumbnail - self._seen[0]).mean()),
                float(np.abs(colours - self._seen[1]).sum() / 2),
            )
        usual = np.median([c for c, _ in self._changes[-2 * _NEAR_FRAMES :]] or [0.0])
        self._changes.append(change)
        self._seen = thumbnail, colours
        return change[0] > max(CHANGE_SEEN, CHANGE_OVER_OTHERS * float(usual))

    def cuts(self, points_px: NDArray[np.float32]) -> NDArray[np.int64]:
        """The frames that begin a new shot, rising; ``points_px`` (frames, 68, 2) may have gaps."""
        change, colours = np.array(self._changes, np.float32).reshape(-1, 2).T
        return find_cuts(change, colours, points_px)


def find_cuts(
    change: NDArray[np.float32], colours: NDArray[np.float32], points_px: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The frames that begin a new shot, from what changed since the frame before.

    ``change`` (frames,) is the mean difference of thumbnails, 0 to 1; ``colours`` (frames,) the
    share of the histogram that moved; ``points_px`` (frames, 68, 2) the face, with gaps.
    """
    jump = face_jumps(points_px)
    near = _near(change)
    seen = (change > CHANGE_SEEN) & (change > CHANGE_OVER_OTHERS * near)
    moved = (jump > JUMP_SEEN) | (colours > COLOURS_SEEN)
    small = (change > SMALL_CHANGE) & (change > SMALL_OVER_OTHERS * near) & (jump > SMALL_JUMP)
    # Without a face on both sides there is nothing to jump; the picture alone decides.
    cut = (seen & (moved | np.isnan(jump))) | small | (jump > JUMP_ALONE)
    cut[:1] = False
    return np.flatnonzero(cut)


def face_jumps(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """(frames,): how far brows, eyes and nose moved or grew since the frame before, in face widths.

    Not a number where one of the two frames has no face.
    """
    upper = points_px[:, _UPPER]
    centre, width = upper.mean(1), np.ptp(upper[..., 0], axis=1)
    jumps = np.full(len(points_px), np.nan, np.float32)
    smaller = np.minimum(width[1:], width[:-1])
    moved = np.linalg.norm(np.diff(centre, axis=0), axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        jumps[1:] = np.maximum(moved, np.abs(np.diff(width))) / smaller
    return jumps


def _near(change: NDArray[np.float32]) -> NDArray[np.float32]:
    """The second largest of the changes near each frame, its own left out.

    The largest may belong to the same cut, where a changed frame rate has blended its two sides.
    """
    around = [k for k in range(-_NEAR_FRAMES, _NEAR_FRAMES + 1) if k]
    places = np.arange(len(change))[:, None] + around
    # The first frame has no change; beyond the ends those of the ends count.
    places = np.clip(places, min(1, len(change) - 1), len(change) - 1)
    near: NDArray[np.float32] = np.sort(change[places], axis=1)[:, -2]
    return near
