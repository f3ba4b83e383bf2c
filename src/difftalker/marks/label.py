"""The visible label of GB 45438: the text "AI生成" in a corner at the start of a video."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SHOWN_S = 3.0
"""The standard wants two seconds at least."""
_HEIGHT = 0.05
"""The text's height over the shorter side of the picture; the standard's least."""

_STROKES: tuple[tuple[tuple[float, float], ...], ...] = (
    # A, I
    ((0.0, 1.0), (0.35, 0.0), (0.7, 1.0)),
    ((0.13, 0.65), (0.57, 0.65)),
    ((0.95, 0.0), (0.95, 1.0)),
    # 生
    ((1.6, 0.02), (1.5, 0.22), (1.34, 0.42)),
    ((1.52, 0.24), (2.2, 0.24)),
    ((1.45, 0.58), (2.15, 0.58)),
    ((1.3, 0.97), (2.3, 0.97)),
    ((1.8, 0.0), (1.8, 0.97)),
    # 成
    ((2.62, 0.22), (3.55, 0.22)),
    ((2.62, 0.22), (2.62, 0.55), (2.56, 0.8), (2.46, 1.0)),
    ((2.62, 0.5), (3.0, 0.5), (2.98, 0.72), (2.93, 0.88), (2.82, 0.84)),
    ((3.1, 0.0), (3.14, 0.35), (3.26, 0.68), (3.42, 0.92), (3.53, 0.98), (3.56, 0.76)),
    ((3.47, 0.38), (3.32, 0.64), (3.05, 0.92)),
    ((3.3, 0.02), (3.46, 0.13)),
)
"""Lines of the text, in heights of it: x to the right, y down."""
_WIDTH = 3.6

Image = NDArray[np.uint8]


def labelled(image: Image) -> Image:
    """A copy of a picture (H, W, 3) with the label in its upper left corner."""
    height = max(8, round(1.3 * _HEIGHT * min(image.shape[:2])))
    edge = max(2, height // 2)
    out = image.copy()
    width, weight = round(_WIDTH * height), max(1, height // 10)
    box = out[edge // 2 : edge + height + edge // 2 + 1, edge // 2 : edge + width + edge // 2]
    box[:] = box // 3
    for stroke in _STROKES:
        points = np.rint((np.array(stroke) * height + edge) * 16).astype(np.int32)
        cv2.polylines(out, [points], False, (255, 255, 255), weight, cv2.LINE_AA, 4)
    return out
