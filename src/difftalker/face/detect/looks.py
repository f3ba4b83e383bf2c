"""Descriptors of a face: a vector that identifies people, and a grid that shows covers.

Both need no trained weights: they hold gradients, low frequencies, colours and proportions of the
face, aligned by its eyes and the base of its nose.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import BROWS, EYES, NOSE

LOOK_SIZE = 305
"""Numbers in a look."""
LOWER_CELLS = 6
"""Rows and columns of the grid over the lower face."""

_SIDE = 48
"""Side of the aligned pictures, pixels."""
_UPPER_ANCHORS = np.array([[0.3, 0.36], [0.7, 0.36], [0.5, 0.62]])
"""Places of both eyes and the nose in them, for looks, which show forehead to nose."""
_WHOLE_ANCHORS = np.array([[0.3, 0.14], [0.7, 0.14], [0.5, 0.40]])
"""Places of both eyes and the nose for the grid, which shows eyes to chin."""
_UPPER_ROWS = slice(0, 32)
_CHEEKS = (slice(2, 18), slice(10, 38))
_LOWER = (slice(21, 45), slice(7, 41))
_PROPORTIONS = (*BROWS, *NOSE, *EYES)
_ANGLES = 8
_CELL = 8
_WEIGHTS = {"edges": 1.0, "waves": 0.3, "shape": 0.7, "colours": 0.4}
"""Chosen on speakers of the GRID corpus under changed light, sharpness and size."""


def look(image: NDArray[np.uint8], points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """The look of the upper face, (LOOK_SIZE,): what speech does not change.

    ``image`` (H, W, 3) RGB, ``points_px`` (68, 2). Euclidean distances between looks of one person
    are about 0.3, between those of two people 0.5 and more.
    """
    face = _aligned(image, points_px, _UPPER_ANCHORS)[_UPPER_ROWS]
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    parts = {
        "edges": _edges(grey),
        "waves": _waves(grey),
        "shape": _shape(points_px),
        "colours": _colours(face),
    }
    return np.concatenate([parts[name] * _WEIGHTS[name] for name in parts]).astype(np.float32)


def lower_face(image: NDArray[np.uint8], points_px: NDArray[np.float32]) -> NDArray[np.int8]:
    """Colours of the lower face less those of the cheeks and eyes, (6, 6, 3) CIE L*a*b*.

    The grid is laid by the upper points alone, so a mouth moves within it, not with it.
    """
    # In 8 bits: L* is stretched to 255, a* and b* are whole numbers about 128.
    face = cv2.cvtColor(_aligned(image, points_px, _WHOLE_ANCHORS), cv2.COLOR_RGB2LAB)
    lab = face.astype(np.float32) * (100 / 255, 1, 1)
    cells = cv2.resize(lab[_LOWER], (LOWER_CELLS, LOWER_CELLS), interpolation=cv2.INTER_AREA)
    own = np.median(lab[_CHEEKS].reshape(-1, 3), axis=0)
    return np.asarray(np.clip(np.rint(cells - own), -127, 127), np.int8)


def _aligned(
    image: NDArray[np.uint8], points_px: NDArray[np.float32], anchors: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """The face turned and scaled (least squares) so that eyes and nose stand on ``anchors``."""
    places = (EYES[:6], EYES[6:], NOSE[4:])
    source = np.stack([points_px[list(group)].mean(0) for group in places]).astype(np.float64)
    wanted = anchors * _SIDE
    a, b = source - source.mean(0), wanted - wanted.mean(0)
    spread = max(float((a * a).sum()), 1e-6)
    along = (a * b).sum() / spread
    across = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[along, -across], [across, along]])
    to_face = np.c_[turn, wanted.mean(0) - turn @ source.mean(0)]
    image, to_face = _small_surroundings(image, to_face, float(np.hypot(along, across)))
    return cv2.warpAffine(  # type: ignore[return-value]
        image, to_face, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _small_surroundings(
    image: NDArray[np.uint8], to_face: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The picture around the face, made smaller where the face is far larger than its target."""
    factor = int(1 / max(scale, 1e-3))
    if factor < 2:
        return image, to_face
    corners = np.array([[0, 0, 1], [_SIDE, 0, 1], [0, _SIDE, 1], [_SIDE, _SIDE, 1]], np.float64)
    places = corners @ cv2.invertAffineTransform(to_face).T
    height, width = image.shape[:2]
    x0, y0 = np.clip(places.min(0).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(places.max(0)).astype(int), [x0 + 1, y0 + 1], [width, height])
    part = image[y0:y1, x0:x1]
    size = (max(1, part.shape[1] // factor), max(1, part.shape[0] // factor))
    step = np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    moved = np.c_[to_face[:, :2] * step, to_face[:, 2] + to_face[:, :2] @ (x0, y0)]
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8), moved


def _edges(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Histograms of gradient directions in 4 x 6 cells (Dalal and Triggs, 2005), square roots."""
    gx = np.asarray(cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1))
    gy = np.asarray(cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1))
    size, angle = np.hypot(gx, gy), np.mod(np.arctan2(gy, gx), np.pi) * (_ANGLES / np.pi)
    low = np.floor(angle).astype(np.int64) % _ANGLES
    share = angle - np.floor(angle)
    rows, columns = np.indices(grey.shape) // _CELL
    place = (rows * (_SIDE // _CELL) + columns) * _ANGLES
    count = grey.size // _CELL**2 * _ANGLES
    held = np.bincount((place + low).ravel(), (size * (1 - share)).ravel(), count)
    held += np.bincount((place + (low + 1) % _ANGLES).ravel(), (size * share).ravel(), count)
    cells = held.reshape(-1, _ANGLES)
    total = cells.sum(-1, keepdims=True)
    level = np.sqrt(cells / ((total + total.mean()) / 2 + 1e-3))
    return np.asarray(level.ravel() / np.sqrt(len(cells)), np.float32)


def _waves(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lowest frequencies of the picture, brightness and contrast taken out."""
    small = cv2.resize(
        (grey - grey.mean()) / (grey.std() + 5), (32, 24), interpolation=cv2.INTER_AREA
    )
    waves = np.asarray(cv2.dct(small))
    low = np.concatenate([waves[row, : 7 - row] for row in range(7)])[1:]
    return np.asarray(low / 10, np.float32)


def _shape(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brows, nose and eyes in units of the distance between the eyes, upright."""
    upper = points_px[list(_PROPORTIONS)].astype(np.float64)
    x, y = points_px[list(EYES[6:])].mean(0) - points_px[list(EYES[:6])].mean(0)
    upright = np.array([[x, y], [-y, x]], np.float64) / max(float(x * x + y * y), 1e-6)
    return np.asarray(((upper - upper.mean(0)) @ upright.T).ravel(), np.float32)


def _colours(face: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hues of 3 x 4 cells against the face's own: hair, brows, skin; the light's hue taken out."""
    cells = np.asarray(cv2.resize(_lab(face), (4, 3), interpolation=cv2.INTER_AREA))[..., 1:]
    return np.asarray((cells - np.median(cells, axis=(0, 1))).ravel() / 60, np.float32)


def _lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
