"""Inputs of the lip reader: grey mouth pictures and lip points, steady against the head.

Head units: the origin is the base of the nose, x runs from the left to the right eye of the
picture, and 1 is the distance between the middles of the eyes. All of it is taken from the upper
face, smoothed over time, so that the picture does not move with the mouth.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.detect.track import smooth
from difftalker.face.landmarks import EYES, LOWER, NOSE

Floats = NDArray[np.float32]

VIEW_HEIGHT_PX, VIEW_WIDTH_PX = 56, 72
"""A mouth picture, with a margin that training may cut away at random."""
PIXELS_PER_UNIT = 52.0
"""About the resolution of a face whose eyes stand 52 pixels apart."""
BELOW_NOSE = 0.5
"""Distance of the picture's middle below the base of the nose, head units."""
STEADY_FRAMES = 2.0
"""Standard deviation of the Gaussian that steadies the head's frame of reference, frames."""


def head_maps(points: Floats) -> NDArray[np.float64]:
    """(F, 68, 2), finite, any unit -> (F, 2, 3): the affine maps from that unit to head units."""
    left, right = points[:, EYES[:6]].mean(1), points[:, EYES[6:]].mean(1)
    base = points[:, NOSE[-5:]].mean(1)
    steady = smooth(np.concatenate([right - left, base], 1), STEADY_FRAMES).astype(np.float64)
    across, origin = steady[:, :2], steady[:, 2:]
    squared = np.square(across).sum(1)[:, None]
    x_axis = across / squared
    y_axis = np.stack([-across[:, 1], across[:, 0]], 1) / squared
    turn = np.stack([x_axis, y_axis], 1)
    return np.concatenate([turn, -turn @ origin[..., None]], 2)


def lip_points(points: Floats) -> Floats:
    """(F, 68, 2), finite -> (F, 31, 2): lower contour and mouth in head units."""
    maps = head_maps(points)
    lower = points[:, list(LOWER)].astype(np.float64)
    moved = lower @ maps[:, :, :2].transpose(0, 2, 1) + maps[:, None, :, 2]
    return moved.astype(np.float32)


def mouth_views(images: Iterable[NDArray[np.uint8]], points_px: Floats) -> NDArray[np.uint8]:
    """Pictures of the mouth, (F, 56, 72) luma, from F pictures (H, W, 3) RGB and their points.

    ``points_px`` (F, 68, 2), finite, in pixels of those pictures, whose edges lie at whole numbers.
    """
    views = np.empty((len(points_px), VIEW_HEIGHT_PX, VIEW_WIDTH_PX), np.uint8)
    maps = head_maps(points_px)
    for i, (image, head) in enumerate(zip(images, maps, strict=True)):
        luma = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        cv2.warpAffine(luma, _to_view(head), (VIEW_WIDTH_PX, VIEW_HEIGHT_PX), views[i],
                       flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return views


def _to_view(head: NDArray[np.float64]) -> NDArray[np.float64]:
    """From pixel centres of the picture to those of the view, for one map to head units."""
    middle = np.array([VIEW_WIDTH_PX / 2, VIEW_HEIGHT_PX / 2])
    turn = head[:, :2] * PIXELS_PER_UNIT
    offset = (head[:, 2] - (0, BELOW_NOSE)) * PIXELS_PER_UNIT + middle
    # OpenCV counts pixels from their centres, the points from their edges.
    return np.concatenate([turn, (offset + turn @ (0.5, 0.5) - 0.5)[:, None]], 1)
