"""The 68 landmarks of iBUG: index groups, and the map from MediaPipe's 478 points.

Source of the groups: Sagonas et al., "300 Faces in-the-Wild" (2013), and Section 2.3 of the paper,
which splits them into given (upper) and predicted (lower contour, mouth) points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[np.float32], NDArray[np.floating], "Tensor")
"""Points as an array of numpy, or as a tensor."""

POINTS = 68

JAW = tuple(range(17))
BROWS = tuple(range(17, 27))
NOSE = tuple(range(27, 36))
EYES = tuple(range(36, 48))
OUTER_LIPS = tuple(range(48, 60))
INNER_LIPS = tuple(range(60, 68))
ABOVE_GAP, BELOW_GAP = (61, 62, 63), (67, 66, 65)
"""Points of the inner upper lip, and those of the inner lower lip opposite them."""

MOUTH = OUTER_LIPS + INNER_LIPS
CONTOUR = JAW[3:14]
UPPER = JAW[:3] + JAW[14:] + BROWS + NOSE + EYES
LOWER = CONTOUR + MOUTH

NOSE_BASE = 33
CHIN = 8

MIRRORED = (
    *reversed(JAW),
    *reversed(BROWS),
    *NOSE[:4],
    *reversed(NOSE[4:]),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
"""What each point is called in a mirror."""

# Lines to draw: (indices, closed).
CURVES: dict[str, tuple[tuple[tuple[int, ...], bool], ...]] = {
    "jaw": ((JAW, False),),
    "brows": ((BROWS[:5], False), (BROWS[5:], False)),
    "nose": ((NOSE[:4], False), (NOSE[4:], False)),
    "eyes": ((EYES[:6], True), (EYES[6:], True)),
    "outer_lips": ((OUTER_LIPS, True),),
    "inner_lips": ((INNER_LIPS, True),),
}

# Vertices of MediaPipe's face mesh that lie on the iBUG points, in iBUG order.
MEDIAPIPE_TO_IBUG = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)


def from_mediapipe(mesh: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., 478, 2) mesh vertices -> (..., 68, 2) iBUG points, in the same unit."""
    return mesh[..., MEDIAPIPE_TO_IBUG, :]


def lip_gaps(points: Array) -> Array:
    """(..., 68, 2) -> (..., 3, 2): vectors from the inner upper lip to the lower one."""
    gaps: Array = points[..., BELOW_GAP, :] - points[..., ABOVE_GAP, :]
    return gaps


def mouth_opening(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., 68, 2) -> (...): mean distance of the inner lips, in the unit of the points."""
    opening: NDArray[np.floating] = np.linalg.norm(lip_gaps(points), axis=-1).mean(axis=-1)
    return opening


def roll_deg(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Measure how far heads are rolled, (..., 68, 2) -> (...), degrees, -180 to 180.

    The angle from the horizontal to the line from eye to eye: 0 upright, positive clockwise, 180
    upside down. Not a number without a face.
    """
    across = points[..., EYES[6:], :].mean(-2) - points[..., EYES[:6], :].mean(-2)
    angle: NDArray[np.floating] = np.degrees(np.arctan2(across[..., 1], across[..., 0]))
    return angle
