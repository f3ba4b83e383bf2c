"""Functions of arrays that several layers share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def smoothstep(share: NDArray[np.floating]) -> NDArray[np.floating]:
    """Ease shares (...), 0 to 1, in and out: 3 t^2 - 2 t^3, whose slope is zero at both ends."""
    eased: NDArray[np.floating] = share * share * (3 - 2 * share)
    return eased


def luma(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unrounded BT.601 luma: (H, W, 3) RGB -> (H, W), 0 to 255."""
    return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]
