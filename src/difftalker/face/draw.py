"""Drawn landmarks: the maps that condition the landmark branch, and overlays for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import CURVES, INNER_LIPS

CHANNELS = (*CURVES, "open_mouth")
"""Channels of a landmark map: groups of lines, and the filled inside of the mouth."""

_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel


def landmark_map(points_crop: NDArray[np.float32], size_px: int) -> NDArray[np.uint8]:
    """Draw landmarks (68, 2), crop units, as a map (channels, size, size), 0 to 255."""
    canvas = np.zeros((len(CHANNELS), size_px, size_px), np.uint8)
    fixed = _fixed_point(points_crop * size_px)
    thickness = max(1, round(size_px / 128))
    for channel, curves in zip(canvas, CURVES.values(), strict=False):
        for indices, closed in curves:
            line = [fixed[list(indices)]]
            cv2.polylines(channel, line, closed, 255, thickness, cv2.LINE_AA, _SHIFT)
    cv2.fillPoly(canvas[-1], [fixed[list(INNER_LIPS)]], 255, cv2.LINE_AA, _SHIFT)
    return canvas


def landmark_maps(points_crop: NDArray[np.float32], size_px: int) -> NDArray[np.uint8]:
    """Draw landmarks (frames, 68, 2), crop units, as maps (frames, channels, size, size)."""
    return np.stack([landmark_map(points, size_px) for points in points_crop])


def overlay(
    image: NDArray[np.uint8],
    points_px: NDArray[np.float32],
    colour: tuple[int, int, int] = (80, 255, 80),
) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with the landmarks (68, 2) drawn over it."""
    out = image.copy()
    fixed = _fixed_point(points_px)
    for curves in CURVES.values():
        for indices, closed in curves:
            cv2.polylines(out, [fixed[list(indices)]], closed, colour, 1, cv2.LINE_AA, _SHIFT)
    return out


def outline(points_px: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The convex hull of points (n, 2) filled, (H, W): 1 within, else 0."""
    mask = np.zeros(shape[:2], np.uint8)
    bounded = np.clip(np.rint(points_px), -(1 << 14), 1 << 14).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(bounded), 1)
    return mask


def contact_sheet(tiles: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Pictures of one size, (H, W, 3) each, in rows; empty places stay black."""
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return np.vstack(rows)


def _fixed_point(points_px: NDArray[np.float32]) -> NDArray[np.int32]:
    """Pixel coordinates (edges at whole numbers) -> OpenCV's (centres at whole numbers) / 16."""
    bounded = np.clip(np.nan_to_num(points_px) - 0.5, -2000, 20000)
    fixed: NDArray[np.int32] = np.rint(bounded * (1 << _SHIFT)).astype(np.int32)
    return fixed
