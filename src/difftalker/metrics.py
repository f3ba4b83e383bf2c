"""Measures of a dubbed face, as pure functions of points, pixels and sound.

Shapes: F frames, H rows, W columns. Pictures are 8-bit RGB, ``(H, W, 3)`` or ``(F, H, W, 3)``;
masks are true where a picture counts, ``(H, W)`` or ``(F, H, W)``. Points are ``(F, 68, 2)``, not a
number in frames without a face, which are left out. Where nothing is left to measure the result is
not a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from difftalker.core.arrays import luma
from difftalker.face.landmarks import JAW, LOWER, MOUTH
from difftalker.face.lips import relative_opening

Floats = NDArray[np.floating]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

RESAMPLES = 5000
"""Number of draws of the bootstrap."""

SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5
"""Radius of the Gaussian window, 3.5 sigma rounded, which is also the border without SSIM."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

MOVING = (*JAW[5:12], *MOUTH)
"""Chin and mouth: their hull is the region that moves when a still head speaks."""

SEAM_OUTSIDE_PX = 3
SEAM_INSIDE_PX = 12
"""Distances from the mask's edge between which a seam is measured, past the fade of ten pixels."""

MOVING_PER_S = 0.3
"""Least speed of a mouth that moves, face scales a second: 1 of 256 pixels at 25 Hz."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % confidence interval over ``n`` clips."""

    mean: float
    low: float
    """Lower bound; not a number below two clips, like ``high``."""
    high: float
    n: int


def interval(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean over clips with the bootstrap's 95 % interval; values that are not finite are left out.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), 13.3: percentiles.
    """
    return ratio_interval(values, np.ones(len(values)), seed=seed)


def ratio_interval(
    over: ArrayLike, under: ArrayLike, *, seed: int = 0, less: float = 0.0
) -> Estimate:
    """The mean of ``over`` over that of ``under``, less a number; (clips,) each, drawn in pairs."""
    pairs = np.stack([np.asarray(over, np.float64), np.asarray(under, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    n = pairs.shape[1]
    if not n:
        return Estimate(mean=np.nan, low=np.nan, high=np.nan, n=0)
    top, bottom = pairs.mean(1)
    low = high = np.nan
    if n > 1:
        from scipy.stats import bootstrap

        found = bootstrap(
            tuple(pairs),
            lambda tops, bottoms, axis: tops.mean(axis) / bottoms.mean(axis),
            n_resamples=RESAMPLES,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = np.array(found.confidence_interval) - less
    return Estimate(mean=float(top / bottom) - less, low=float(low), high=float(high), n=n)


def landmark_error(found: Floats, true: Floats, indices: Sequence[int] = LOWER) -> float:
    """Mean Euclidean distance over frames and the points of ``indices``, in the points' unit.

    Source: Section 3.3 of the paper ("average Euclidean distance").
    """
    gaps = np.linalg.norm((found - true)[:, list(indices)].astype(np.float64), axis=-1)
    return _mean(gaps[np.isfinite(gaps).all(1)])


def landmark_error_frame(
    found_px: Floats,
    true_px: Floats,
    frame_size_px: tuple[int, int],
    indices: Sequence[int] = LOWER,
) -> float:
    """Landmark error in frame units: x is divided by the frame's width and y by its height.

    ``frame_size_px`` is (width, height). Over all 68 points this is the paper's LD (Table 1).
    """
    return landmark_error(found_px / frame_size_px, true_px / frame_size_px, indices)


def mouth_opening_correlation(
    points: NDArray[np.float32],
    times_s: Floats,
    reference: NDArray[np.float32],
    reference_times_s: Floats,
) -> float:
    """Pearson correlation, over frames, of a mouth's relative opening with the reference's.

    The reference is read at the mouth's own times (F,), by linear interpolation; frames beyond
    its end are left out.
    """
    wanted = np.interp(
        times_s, reference_times_s, relative_opening(reference), left=np.nan, right=np.nan
    )
    return correlation(relative_opening(points), wanted)


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation of two series (F,); not a number below three frames or without change."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return np.nan
    return float(np.corrcoef(a[both], b[both])[0, 1])


def psnr(a: Image, b: Image, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, peak 255; of a video, the mean over its frames.

    Infinite where pictures are equal.
    """
    if a.ndim == 4:
        return _mean([psnr(*one) for one in _frames(a, b, mask)])
    squared = (a.astype(np.float64) - b) ** 2
    error = _mean(squared if mask is None else squared[mask])
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(255**2 / np.float64(error)))


def ssim(a: Image, b: Image, mask: Mask | None = None) -> float:
    """Structural similarity, mean over places and channels; of a video, over its frames.

    Source: Wang et al., "Image quality assessment" (2004), with its Gaussian window (sigma 1.5,
    population variances, peak 255), as scikit-image computes it: the outermost 5 pixels, which the
    window does not cover, do not count, in a mask either.
    """
    if a.ndim == 4:
        return _mean([ssim(*one) for one in _frames(a, b, mask)])
    return masked_mean(ssim_map(a, b), mask)


def masked_mean(similarity: NDArray[np.float64], mask: Mask | None = None) -> float:
    """The mean of an SSIM map, or of its part within a mask (H, W) of the whole picture."""
    inner = slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
    return _mean(similarity if mask is None else similarity[mask[inner, inner]])


def ssim_map(a: Image, b: Image) -> NDArray[np.float64]:
    """Structural similarity of each place and channel, (H, W, 3) -> (H - 10, W - 10, 3)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _windowed(x * y) - product
    variances = _windowed(x * x + y * y) - squares
    similarity: NDArray[np.float64] = ((2 * product + _C1) * (2 * covariance + _C2)) / (
        (squares + _C1) * (variances + _C2)
    )
    return similarity


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means, where the window fits; in double precision, as variances are differences."""
    weights = np.exp(-0.5 * (np.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1) / SSIM_SIGMA_PX) ** 2)
    weights /= weights.sum()
    inner = slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
    # OpenCV's separable filter is about eight times as fast as SciPy's, with the same result.
    return cv2.sepFilter2D(values, -1, weights, weights)[inner, inner]  # type: ignore[return-value]


def detail_energy(image: Image, mask: Mask) -> float:
    """Mean squared Laplacian of the luma of one picture (H, W, 3) within a mask (H, W).

    Sharpness is this value of the output over that of the footage: 1 is equal, blur is below.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (2000).
    """
    return _mean(np.square(cv2.Laplacian(luma(image), cv2.CV_32F)[mask]))


def frame_change(image: Image, previous: Image, mask: Mask) -> float:
    """Mean absolute change of the luma from one picture (H, W, 3) to the next within a mask (H, W).

    Flicker is this value of the output over that of the footage: 1 is equal, jitter is above. The
    moving part of the lower region is the hull of chin and mouth (``MOVING``) before and after, in
    both videos. The static part is the remainder, where unstable texture on cheeks and neck shows.
    """
    return _mean(np.abs(luma(image) - luma(previous))[mask])


def seam_step(image: Image, box: NDArray[np.integer]) -> float:
    """Mean absolute step of the luma across the edge of a mask box, from outside it to within.

    ``image`` (H, W, 3); ``box`` (4,): top, bottom, left, right in pixels, half-open. Both ends of a
    step are means of 5 x 5 pixels; edges that lie on the picture's border do not count. Seam is
    this value of the output over that of the footage: 1 is invisible, a visible box is above.
    """
    mean: NDArray[np.float32] = cv2.blur(luma(image), (5, 5))  # type: ignore[assignment]
    top, bottom, left, right = (int(v) for v in box)
    steps = [
        *_steps_across(mean, (top, bottom), (left, right)),
        *_steps_across(mean.T, (left, right), (top, bottom)),
    ]
    return _mean(np.concatenate(steps)) if steps else np.nan


def hull_mask(points_px: Floats, size_px: int) -> Mask:
    """(S, S): the pixels whose centres lie within the convex hull of points (n, 2), pixels.

    Empty where points are missing.
    """
    if not np.isfinite(points_px).all():
        return np.zeros((size_px, size_px), bool)
    start = cv2.convexHull(np.asarray(points_px, np.float32))[:, 0].astype(np.float64)
    stop, centres = np.roll(start, -1, 0), np.arange(size_px) + 0.5
    with np.errstate(divide="ignore", invalid="ignore"):  # edges along a row cross no other
        along = (centres[:, None] - start[:, 1]) / (stop - start)[:, 1]
        x = start[:, 0] + along * (stop - start)[:, 0]
    crossed = (along >= 0) & (along <= 1)
    left = np.where(crossed, x, np.inf).min(1)
    right = np.where(crossed, x, -np.inf).max(1)
    mask: Mask = (centres >= left[:, None]) & (centres <= right[:, None])
    return mask


def _steps_across(
    mean: NDArray[np.float32], edges: tuple[int, int], along: tuple[int, int]
) -> list[NDArray[np.float32]]:
    """Steps over the two edges of a box that lie across the rows; corners are left out."""
    kept = slice(along[0] + SEAM_INSIDE_PX, max(along[1] - SEAM_INSIDE_PX, 0))
    places = (
        (edges[0] - SEAM_OUTSIDE_PX, edges[0] + SEAM_INSIDE_PX),
        (edges[1] - 1 + SEAM_OUTSIDE_PX, edges[1] - 1 - SEAM_INSIDE_PX),
    )
    return [
        np.abs(mean[outside, kept] - mean[inside, kept])
        for outside, inside in places
        if 0 <= outside < len(mean) and 0 <= inside < len(mean)
    ]


def silence_leak(points: NDArray[np.float32], times_s: Floats, silent: Mask) -> float:
    """Share of the silent frames (F,) in which the mouth opens or closes.

    It moves where the relative opening changes by 0.3 face scales a second or more, by central
    differences. On real footage the share is not zero: compare with that.
    """
    if len(times_s) < 2:
        return np.nan
    speed = np.abs(np.gradient(relative_opening(points).astype(np.float64), times_s))
    return _mean(speed[silent & np.isfinite(speed)] >= MOVING_PER_S)


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else np.nan


def _frames(a: Image, b: Image, mask: Mask | None) -> list[tuple[Image, Image, Mask | None]]:
    """Two videos and their masks, frame by frame; one mask may serve all frames."""
    masks = [mask] * len(a) if mask is None or mask.ndim == 2 else list(mask)
    return list(zip(a, b, masks, strict=True))
