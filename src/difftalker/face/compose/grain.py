"""Grain: the noise of the footage's flat skin is measured and added to new faces.

Networks generate faces without grain, which shows beside skin that has some. Noise differs from
texture in that it changes from frame to frame. Only what the new face lacks is added.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
"""Luma, (H, W), 0 to 255."""
Mask = NDArray[np.uint8]
"""(H, W): not zero where a pixel counts."""
Levels = NDArray[np.float64]
"""(2,): variance of noise at single pixels, and at pixels of twice the size."""

SETTLE_S = 0.5
"""Time constant within which estimates follow the footage, seconds."""
EVERY_S = 0.1
"""Interval at which they are measured, once they are known, seconds."""
MAX_VARIANCE = 100.0
"""Largest variance of grain, levels squared: above it noise cannot be separated from texture."""

_SECOND = np.array([1, -2, 1]) / np.sqrt(6)
_FLAT_SHARE = 0.5
"""Share of the pixels that count as flat: those with the least slope."""
_LEAST_PIXELS, _LEAST_SIDE = 100, 8
_COARSE_SIGMA_PX = 1.0
_ROUNDING = np.array([1 / 12, 1 / 48])
"""The noise levels that rounding to whole grey levels adds."""


def noise_levels(luma: Plane, mask: Mask, previous: Plane | None = None) -> Levels | None:
    """Measure the noise in the flat half of the masked pixels; None where these are few.

    With ``previous``, the same place in the frame before, it is half of the variance of the
    difference: noise that is new in every frame.

    Source: Immerkaer, "Fast noise variance estimation" (1996): second differences both ways,
    which are zero on planes and on straight edges along the axes.
    """
    flat = _flat(luma, mask)
    if int(flat.sum()) < _LEAST_PIXELS or min(luma.shape) < _LEAST_SIDE:
        return None
    values, share = (luma, 1.0) if previous is None else (luma - previous, 0.5)
    smaller = _halved(flat) > 0.99
    if not smaller.any():
        return None
    pairs = ((values, flat > 0), (_halved(values), smaller))
    return share * np.array([_variance(plane, where) for plane, where in pairs])


def noise(shape: tuple[int, int], levels: Levels, rng: np.random.Generator) -> Plane:
    """Draw a field (H, W) of noise with these levels, and never more than either."""
    fine, coarse = np.sqrt(_amplitudes(levels))
    field = np.zeros(shape, np.float32)
    if fine > 0:
        field += np.float32(fine) * rng.standard_normal(shape, np.float32)
    if coarse > 0:
        blotches = rng.standard_normal(shape, np.float32)
        field += np.float32(coarse) * cv2.GaussianBlur(blotches, (0, 0), _COARSE_SIGMA_PX)
    return field


class Grain:
    """Tracks the grain of the footage and of the new faces over time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: dict[str, tuple[Levels, float]] = {}
        self._measured_s = -np.inf

    def reset(self) -> None:
        """Forget all estimates: a new shot begins."""
        self._kept.clear()

    def is_due(self, time_s: float) -> bool:
        """Whether to measure at this time; says yes once, and again after ``EVERY_S``."""
        due = len(self._kept) < 3 or abs(time_s - self._measured_s) >= EVERY_S
        if due:
            self._measured_s = time_s
        return due

    def footage(self, luma: Plane, mask: Mask, previous: Plane | None, time_s: float) -> None:
        """Take the visible skin of the next frame, and the same place in the frame before."""
        self._follow("texture", noise_levels(luma, mask), time_s)
        if previous is not None:
            self._follow("noise", noise_levels(luma, mask, previous), time_s)

    def face(self, luma: Plane, mask: Mask, time_s: float) -> None:
        """Take the skin of the next new face."""
        self._follow("face", noise_levels(luma, mask), time_s)

    @property
    def lacking(self) -> Levels:
        """Noise to add, (2,): what is new in every frame of the footage, less the new face's."""
        if len(self._kept) < 3:
            return np.zeros(2)
        texture, changing, face = (self._kept[name][0] for name in ("texture", "noise", "face"))
        wanted = np.minimum(np.minimum(texture, changing), MAX_VARIANCE)
        lacking: Levels = np.maximum(0, wanted - face - _ROUNDING)
        return lacking

    def field(self, frame: int, shape: tuple[int, int]) -> Plane | None:
        """Draw the grain (H, W) of a frame, the same at every call; None where there is none."""
        lacking = self.lacking
        if not lacking.any():
            return None
        return noise(shape, lacking, np.random.default_rng((self._seed, frame)))

    def _follow(self, name: str, levels: Levels | None, time_s: float) -> None:
        if levels is None:
            return
        before, then_s = self._kept.get(name, (levels, time_s))
        share = 1 - np.exp(-max(0.0, time_s - then_s) / SETTLE_S)
        self._kept[name] = before + share * (levels - before), time_s


def _flat(luma: Plane, mask: Mask) -> Mask:
    """The half of the masked pixels where brightness changes least, 1 there."""
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0
    if not inner.any():
        return np.zeros(mask.shape, np.uint8)
    smooth = cv2.GaussianBlur(luma, (0, 0), 2)
    slope = cv2.magnitude(*(cv2.Sobel(smooth, cv2.CV_32F, *way) for way in ((1, 0), (0, 1))))
    limit = np.quantile(slope[inner], _FLAT_SHARE)
    flat: Mask = (inner & (slope <= limit)).astype(np.uint8)
    return flat


def _variance(plane: Plane, where: NDArray[np.bool_]) -> float:
    """Variance by the mean absolute second difference: outliers count less than in squares."""
    second = cv2.sepFilter2D(plane, -1, _SECOND, _SECOND)[where]
    return float(np.square(np.abs(second).mean(dtype=np.float64))) * np.pi / 2


def _halved(plane: Plane | Mask) -> Plane:
    """Means of 2 x 2 pixels; an odd row or column at the end is left out."""
    rows, columns = (n // 2 for n in plane.shape)
    even = plane[: 2 * rows, : 2 * columns].astype(np.float32)
    means: Plane = even.reshape(rows, 2, columns, 2).mean((1, 3))
    return means


def _amplitudes(levels: Levels) -> Levels:
    """Variances of white and of blurred noise that together have these levels."""
    white, soft = _levels_of(np.ones(1)), _levels_of(_soft_kernel())
    mixed = np.linalg.solve(np.stack([white, soft], 1), levels)
    if (mixed >= 0).all():
        return np.asarray(mixed)
    alone = np.array([(levels / white).min(), (levels / soft).min()])
    return np.asarray(np.where(mixed > 0, alone, 0))


def _soft_kernel() -> NDArray[np.float64]:
    kernel = cv2.getGaussianKernel(_gaussian_size(), _COARSE_SIGMA_PX)
    return np.asarray(kernel, np.float64).ravel()


def _gaussian_size() -> int:
    """Kernel size that OpenCV chooses for 32-bit floats."""
    return round(_COARSE_SIGMA_PX * 8 + 1) | 1


def _levels_of(kernel: NDArray[np.float64]) -> Levels:
    """The levels of white noise of variance 1 through a separable filter, one way's weights."""
    doubled = np.convolve(np.convolve(kernel, [0.5, 0.5]), [1, 0, -2, 0, 1]) / np.sqrt(6)
    fine = np.convolve(kernel, _SECOND)
    return np.array([np.square(fine).sum() ** 2, np.square(doubled).sum() ** 2])
