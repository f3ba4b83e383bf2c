"""The steady square crop around the face, its mask box, and the map from pixels to crop units.

Crop units: 0 to 1 from the left to the right and from the top to the bottom edge of the crop.
Crop and mask depend on the upper points alone, so they carry no information about the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.config import MASKS
from difftalker.errors import UsageError
from difftalker.face.detect.track import FaceTrack, smooth
from difftalker.face.landmarks import BROWS, EYES, JAW, NOSE, NOSE_BASE

CELL = 8
"""Pixels of the crop that one latent covers; mask boxes lie on this grid."""

STEADY_S = 0.4
"""Standard deviation of the Gaussian that steadies crop and mask, seconds."""

_ANCHORS = (*BROWS, *EYES, *NOSE)
_CROP_PER_FACE = 3.2
"""Crop side over the face's scale: the distance from the brows to the base of the nose."""
_CENTRE_BELOW = 0.5
"""Distance of the crop's centre below that of brows, eyes and nose, face scales."""
_BOX_TOP = -0.08
_BOX_BOTTOM = {"jaw": 1.38, "mouth": 0.7}
"""Top and bottom of mask boxes below the base of the nose, in heights from the brows to there."""
_BOX_INSET = {"jaw": 0.0, "mouth": 0.2}
"""Distance of their sides within the ends of the jaw, in widths between these."""
_BOX_MARGIN = {"jaw": 0.02, "mouth": 0.0}
"""Margin of their sides beyond that, crop units."""


@dataclass(frozen=True, kw_only=True)
class CropTrack:
    """Square crops of a video, one for each frame."""

    centre_px: NDArray[np.float32]
    """(frames, 2): centres, pixels of the frame."""
    side_px: NDArray[np.float32]
    """(frames,): sides, pixels of the frame."""

    def __len__(self) -> int:
        return len(self.side_px)

    def part(self, frames: slice) -> CropTrack:
        """The crops of some neighbouring frames."""
        return CropTrack(centre_px=self.centre_px[frames], side_px=self.side_px[frames])

    def to_crop(self, points_px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points (frames, n, 2) from pixels to crop units."""
        corner = (self.centre_px - self.side_px[:, None] / 2)[:, None]
        return ((points_px - corner) / self.side_px[:, None, None]).astype(np.float32)

    def to_px(self, points_crop: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points (frames, n, 2) from crop units to pixels."""
        corner = (self.centre_px - self.side_px[:, None] / 2)[:, None]
        return (points_crop * self.side_px[:, None, None] + corner).astype(np.float32)


def face_scale(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Size of the face, (frames, 68, 2) -> (frames,), that neither speech nor yaw changes."""
    brow_to_nose = points_px[:, BROWS].mean(1) - points_px[:, NOSE_BASE]
    temples = points_px[:, JAW[0]] - points_px[:, JAW[16]]
    height = np.linalg.norm(brow_to_nose, axis=-1)
    width = np.linalg.norm(temples, axis=-1)
    scale: NDArray[np.float32] = np.maximum(height, width * 0.45)
    return scale


def steady_crop(track: FaceTrack) -> CropTrack:
    """A crop that follows the head smoothly; between spans it is held or moved in a line."""
    found = np.flatnonzero(track.found)
    points = track.points_px[found]
    scale = face_scale(points)
    centre = points[:, _ANCHORS].mean(1) + np.stack([0 * scale, _CENTRE_BELOW * scale], 1)
    known = np.concatenate([centre, scale[:, None] * _CROP_PER_FACE], 1)
    frames = np.arange(len(track))
    filled = np.stack([np.interp(frames, found, column) for column in known.T], 1)
    steady = smooth(filled.astype(np.float32), STEADY_S * frame_rate(track.times_s))
    return CropTrack(centre_px=steady[:, :2], side_px=steady[:, 2])


def frame_rate(times_s: NDArray[np.float64]) -> float:
    """Frames a second, from the median interval of times (frames,); 25 for a single frame."""
    return 1 / float(np.median(np.diff(times_s))) if len(times_s) > 1 else 25.0


def mask_boxes(
    points_crop: NDArray[np.float32],
    times_s: NDArray[np.float64],
    size_px: int,
    mask: str = "jaw",
) -> NDArray[np.int32]:
    """The boxes of the region to generate, derived from the upper points alone.

    ``jaw`` is the lower face with its whole jaw line; ``mouth`` ends between the lips and the chin
    and within the cheeks. ``points_crop`` (frames, 68, 2), finite; result (frames, 4): top, bottom,
    left, right in pixels of a crop of ``size_px``, multiples of 8, half-open.

    Raises:
        UsageError: there is no such mask.
    """
    if mask not in MASKS:
        raise UsageError(f"no mask is called {mask!r}", wanted=" or ".join(MASKS))
    steady = smooth(points_crop, STEADY_S * frame_rate(times_s))
    brow, nose = steady[:, BROWS, 1].mean(1), steady[:, NOSE_BASE, 1]
    scale = nose - brow
    left, right = steady[:, JAW[0], 0], steady[:, JAW[16], 0]
    inward = _BOX_INSET[mask] * (right - left) - _BOX_MARGIN[mask]
    box = np.stack(
        [
            np.floor((nose + _BOX_TOP * scale) * size_px / CELL),
            np.ceil((nose + _BOX_BOTTOM[mask] * scale) * size_px / CELL),
            np.floor((left + inward) * size_px / CELL),
            np.ceil((right - inward) * size_px / CELL),
        ],
        1,
    )
    boxes: NDArray[np.int32] = np.clip(box * CELL, 0, size_px).astype(np.int32)
    return boxes


def boxes_hull(boxes: NDArray[np.int32], size_px: int, around_px: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the crop that hold all mask boxes (n, 4) with a margin, pixels."""
    low = np.clip(boxes.min(0) - around_px, 0, size_px)
    high = np.clip(boxes.max(0) + around_px, 0, size_px)
    return slice(int(low[0]), int(high[1])), slice(int(low[2]), int(high[3]))


def boxes_window(
    boxes: NDArray[np.int32], size_px: int, step_px: int, around_px: int = 0, grid_px: int = CELL
) -> tuple[slice, slice]:
    """Rows and columns that hold all boxes (n, 4) with a margin, multiples of ``step_px`` long.

    ``size_px`` is such a multiple; windows begin at multiples of ``grid_px``.
    """
    window = []
    for held in boxes_hull(boxes, size_px, around_px):
        low = held.start // grid_px * grid_px
        length = -(-(held.stop - low) // step_px) * step_px
        low = min(low, size_px - length)
        window.append(slice(low, low + length))
    return window[0], window[1]


def cut(image: NDArray[np.uint8], crop: CropTrack, frame: int, size_px: int) -> NDArray[np.uint8]:
    """Cut the crop of one frame, (H, W, 3) -> (size, size, 3) RGB; edges are repeated."""
    to_crop, scale = crop_map(crop, frame, size_px)
    if scale < 1:  # shrinking: take away what the smaller picture cannot hold
        sigma = 0.4 * (1 / scale - 1)
        image, to_crop = _blurred_surroundings(image, to_crop, size_px, sigma)
    return cv2.warpAffine(  # type: ignore[return-value]
        image, to_crop, (size_px, size_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def crop_map(crop: CropTrack, frame: int, size_px: int) -> tuple[NDArray[np.float64], float]:
    """The 2 x 3 map from pixel centres of the frame to those of the crop, and its scale."""
    scale = size_px / float(crop.side_px[frame])
    corner = crop.centre_px[frame].astype(np.float64) - crop.side_px[frame] / 2
    offset = (0.5 - corner) * scale - 0.5
    return np.array([[scale, 0, offset[0]], [0, scale, offset[1]]]), scale


def _blurred_surroundings(
    image: NDArray[np.uint8], to_crop: NDArray[np.float64], size_px: int, sigma: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    scale = to_crop[0, 0]
    margin = 3 * sigma + 2
    # At least one pixel, also where the crop has left the frame: its edge is repeated.
    last = np.array([image.shape[1] - 1, image.shape[0] - 1])
    x0, y0 = (-to_crop[:, 2] / scale - margin).astype(int).clip(0, last)
    x1, y1 = ((size_px - to_crop[:, 2]) / scale + margin).astype(int).clip(1)
    region = image[y0:y1, x0:x1]
    shifted = to_crop.copy()
    shifted[:, 2] += scale * np.array([x0, y0])
    blurred = cv2.GaussianBlur(region, (0, 0), sigma) if sigma > 0.1 else region
    return blurred, shifted  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Where the face stands in a video: crops, landmarks and mask boxes."""

    crop: CropTrack
    points_crop: NDArray[np.float32]
    """(frames, 68, 2), crop units; interpolated where no face was found."""
    found: NDArray[np.bool_]
    """(frames,): whether a face was found."""
    boxes: NDArray[np.int32]
    """(frames, 4): the mask box, top, bottom, left, right, in pixels of the crop."""


def frame_face(track: FaceTrack, size_px: int, mask: str = "jaw") -> Framing:
    """Crop, points in crop units and mask boxes of a track with at least one face.

    Every shot stands for itself: nothing is smoothed or interpolated across a cut.

    Raises:
        UsageError: there is no such mask.
    """
    shots = [_frame_shot(track.part(shot), size_px, mask) for shot in track.shots()]
    return Framing(
        crop=CropTrack(
            centre_px=np.concatenate([shot.crop.centre_px for shot in shots]),
            side_px=np.concatenate([shot.crop.side_px for shot in shots]),
        ),
        points_crop=np.concatenate([shot.points_crop for shot in shots]),
        found=track.found,
        boxes=np.concatenate([shot.boxes for shot in shots]),
    )


def _frame_shot(track: FaceTrack, size_px: int, mask: str) -> Framing:
    crop = steady_crop(track)
    points = crop.to_crop(track.points_px)
    frames, found = np.arange(len(track)), np.flatnonzero(track.found)
    flat = points.reshape(len(points), -1)
    filled = [np.interp(frames, found, column[found]) for column in flat.T]
    whole = np.stack(filled, 1).reshape(points.shape).astype(np.float32)
    boxes = mask_boxes(whole, track.times_s, size_px, mask)
    return Framing(crop=crop, points_crop=whole, found=track.found, boxes=boxes)
