"""Generated faces blended into frames: colours matched at the mask's edge, resampled, grained.

Pixels outside the mask keep their values, bit for bit. The footage is measured outside the mask
only, so nothing inside depends on the footage's own mouth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.core.arrays import luma, smoothstep
from difftalker.face.compose.grain import Grain
from difftalker.face.crop import CELL, CropTrack, crop_map
from difftalker.face.draw import outline
from difftalker.face.landmarks import JAW, UPPER

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

FEATHER_PX = 10
"""Width of the fade from the footage to the new face, within the mask box, pixels of the crop."""
RING_PX = 2 * CELL
"""Margin around the mask box in which footage and decoded picture are compared, crop pixels."""
MAX_SHIFT = 24.0
"""Largest colour shift at the mask's edge, grey levels of 255."""
SETTLE_S = 0.2
"""Time constant of the colour shift, seconds: it follows the light, not the mouth."""

_REACH_CELLS = 3.0
_SINC_LOBES = 3
_PASSED = 1.2
"""Detail is kept up to this many times the smaller picture's resolution: sharper, few artefacts."""


class Blender:
    """Blends the new faces of one video into its frames, in order.

    Its state over time (colour shift, grain) depends on the frames shown so far alone, so a run
    that resumes after a kill gives the same pictures.
    """

    def __init__(
        self,
        crop: CropTrack,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        times_s: NDArray[np.float64],
        *,
        size_px: int,
        seed: int,
    ) -> None:
        """Take the crops, boxes (frames, 4) and completed landmarks (frames, 68, 2) of a video."""
        self._crop, self._boxes, self._times_s = crop, boxes, times_s
        self._points_crop, self._size_px = points_crop, size_px
        self._grain = Grain(seed)
        self._shift: tuple[Floats, float] | None = None
        self._before: tuple[int, Image] | None = None

    def reset(self) -> None:
        """Forget colour shift and grain: a new shot begins."""
        self._shift = self._before = None
        self._grain.reset()

    def blend(self, i: int, image: Image, crop: Image, face: Image, strength: float) -> Image:
        """Blend the new face (S, S, 3) of frame ``i`` (H, W, 3) over its crop (S, S, 3).

        ``strength`` is the weight of the new face, 0 to 1.
        """
        alpha = np.float32(strength) * blend_mask(self._boxes[i], len(crop))
        patch = Patch.of(image, self._joined(i, crop, face), alpha, self._crop, i)
        if patch is None:
            return image
        if self._grain.is_due(float(self._times_s[i])):
            self._measure_grain(i, image, patch)
        self._before = i, image
        return patch.blend(image, self._grain.field(i, patch.weight.shape))

    def _joined(self, i: int, crop: Image, face: Image) -> Image:
        """The face with its colours moved to meet the footage around the mask."""
        box, time_s = self._boxes[i], float(self._times_s[i])
        found = edge_shift(crop, face, box)
        before, then_s = self._shift or (found, time_s)
        share = np.float32(1 - np.exp(-max(0.0, time_s - then_s) / SETTLE_S))
        shift = before + share * (found - before)
        self._shift = shift, time_s
        whole = cv2.resize(shift, (len(crop), len(crop)), interpolation=cv2.INTER_LINEAR)
        inside = np.s_[box[0] : box[1], box[2] : box[3]]
        out = face.copy()
        out[inside] = np.clip(np.rint(face[inside] + whole[inside]), 0, 255)
        return out

    def _measure_grain(self, i: int, image: Image, patch: Patch) -> None:
        """Measure the grain of the skin above the mask and of the new face."""
        points = self._crop.part(slice(i, i + 1)).to_px(self._points_crop[i : i + 1])[0]
        time_s = float(self._times_s[i])
        follows = self._before is not None and self._before[0] == i - 1
        hidden = min(self._top_px(i), self._top_px(i - 1)) if follows else self._top_px(i)
        place = _around(points[list(UPPER)], (hidden, image.shape[1]))
        if place is not None:
            skin, corner = luma(image[place]), (place[1].start, place[0].start)
            mask = outline(points[list(UPPER)] - corner, skin.shape)
            before = luma(self._before[1][place]) if self._before and follows else None
            self._grain.footage(skin, mask, before, time_s)
        corner = patch.place[1].start, patch.place[0].start
        chin = outline(points[list(JAW)] - corner, patch.weight.shape)
        chin[patch.weight < patch.weight.max()] = 0
        self._grain.face(luma(patch.new), chin, time_s)

    def _top_px(self, i: int) -> int:
        """The last row of the frame that lies whole above the mask, and is not shown with it."""
        side = float(self._crop.side_px[i])
        top = float(self._crop.centre_px[i, 1]) - side / 2
        return int(top + side * float(self._boxes[i, 0]) / self._size_px)


@dataclass(frozen=True)
class Patch:
    """A new face in the pixels of its frame."""

    new: Image
    """(h, w, 3)"""
    weight: Floats
    """(h, w): its weight, 0 to 1; zero outside the mask."""
    place: tuple[slice, slice]
    """Rows and columns of the frame."""

    @classmethod
    def of(
        cls, image: Image, face: Image, alpha: Floats, crop: CropTrack, frame: int
    ) -> Patch | None:
        """``face`` (S, S, 3) brought to the frame's pixels where ``alpha`` (S, S) is not zero.

        None where that lies outside of the frame.
        """
        to_crop, scale = crop_map(crop, frame, len(face))
        place = _seen_place(alpha, to_crop, scale, image.shape)
        if place is None:
            return None
        corner = np.array([[1, 0, place[1].start], [0, 1, place[0].start], [0, 0, 1]], np.float64)
        size = place[1].stop - place[1].start, place[0].stop - place[0].start

        def resampled(values: NDArray[Any], how: int) -> NDArray[Any]:
            return cv2.warpAffine(
                values,
                to_crop @ corner,
                size,
                flags=how | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE if values is not alpha else cv2.BORDER_CONSTANT,
            )

        new = resampled(_without_fine_detail(face, scale), cv2.INTER_LANCZOS4)
        return cls(new, resampled(alpha, cv2.INTER_LINEAR), place)

    def blend(self, image: Image, grain: Floats | None = None) -> Image:
        """A copy of the frame with the face over it; where the weight is zero not a bit changes."""
        out = image.copy()
        region = out[self.place]
        new = self.new.astype(np.float32)
        if grain is not None:
            new += grain[..., None]
        weight = self.weight[..., None]
        # In this form a weight of one gives the new face exactly, whatever lies below it, and a
        # weight of zero the frame.
        mixed = (1 - weight) * region
        new *= weight
        mixed += new
        np.rint(mixed, out=mixed)
        region[...] = np.clip(mixed, 0, 255, out=mixed)
        return out


def paste(image: Image, face: Image, alpha: Floats, crop: CropTrack, frame: int) -> Image:
    """The frame with ``face`` (size, size, 3) laid over its crop where ``alpha`` (size, size) > 0.

    Pixels at which alpha is zero stay as they are, bit for bit.
    """
    patch = Patch.of(image, face, alpha, crop, frame)
    return image if patch is None else patch.blend(image)


def blend_mask(box: NDArray[np.int32], size_px: int, feather_px: int = FEATHER_PX) -> Floats:
    """Weight of the new face, (size, size): 1 within the mask box, fading to 0 at its edge."""
    top, bottom, left, right = (int(v) for v in box)
    rows = _ramp(top, bottom, size_px, feather_px)
    columns = _ramp(left, right, size_px, feather_px)
    return np.outer(rows, columns).astype(np.float32)


def edge_shift(crop: Image, face: Image, box: NDArray[np.int32]) -> Floats:
    """The colour shift that makes a face meet its crop around the mask box; (S / 8, S / 8, 3).

    The decoder generates the surroundings too, where the footage is known. Their difference, one
    value a latent, is extended into the mask by normalised convolution (Knutsson and Westin, 1993)
    and fades with the distance from the edge.
    """
    cells = len(crop) // CELL
    top, bottom, left, right = (int(v) // CELL for v in box)
    ring = RING_PX // CELL
    rows = slice(max(0, top - ring), min(cells, bottom + ring))
    columns = slice(max(0, left - ring), min(cells, right + ring))
    known = np.zeros((cells, cells), np.float32)
    known[rows, columns] = 1
    known[top:bottom, left:right] = 0
    pixels = tuple(slice(s.start * CELL, s.stop * CELL) for s in (rows, columns))
    gaps = cv2.subtract(crop[pixels], face[pixels], dtype=cv2.CV_32F)
    size = columns.stop - columns.start, rows.stop - rows.start
    difference = np.zeros((cells, cells, 3), np.float32)
    difference[rows, columns] = cv2.resize(gaps, size, interpolation=cv2.INTER_AREA)
    difference *= known[..., None]
    spread, weight = (_blurred(values) for values in (difference, known))
    shift: Floats = np.clip(spread / (weight[..., None] + 0.02), -MAX_SHIFT, MAX_SHIFT)
    return shift


def _blurred(values: Floats) -> Floats:
    """Blur cells with a Gaussian; the picture is mirrored at its edge."""
    mirror = cv2.BORDER_REFLECT
    return np.asarray(cv2.GaussianBlur(values, (0, 0), _REACH_CELLS, borderType=mirror), np.float32)


def _ramp(start: int, stop: int, size_px: int, feather_px: int) -> Floats:
    place = np.arange(size_px) + 0.5
    # The crop's own edge is no seam inside the frame's picture of it, but fades all the same.
    # Zero on the box's outermost pixels, so that interpolation carries nothing beyond the box.
    inside = (np.minimum(place - start, stop - place) - 0.5) / feather_px
    t = np.clip(inside, 0, 1)
    return smoothstep(t).astype(np.float32)


def _without_fine_detail(face: Image, scale: float) -> Image:
    """The face without what ``scale`` times fewer pixels cannot hold: a windowed sinc (Lanczos)."""
    stretch = scale / _PASSED
    if stretch <= 1:
        return face
    radius = int(np.ceil(_SINC_LOBES * stretch))
    place = np.arange(-radius, radius + 1) / stretch
    kernel = np.sinc(place) * np.sinc(place / _SINC_LOBES) * (np.abs(place) < _SINC_LOBES)
    kernel /= kernel.sum()
    filtered = cv2.sepFilter2D(face, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(filtered, np.uint8)


def _seen_place(
    alpha: Floats, to_crop: NDArray[np.float64], scale: float, shape: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Rows and columns of the frame at which the weight may be above zero."""
    place = []
    for axis, (offset, length) in enumerate(zip(to_crop[::-1, 2], shape, strict=False)):
        seen = np.flatnonzero(alpha.any(1 - axis))
        if not len(seen):
            return None
        # Interpolation reaches one pixel of the crop further.
        low = int(np.floor((seen[0] - 1 - offset) / scale))
        high = int(np.ceil((seen[-1] + 1 - offset) / scale)) + 1
        place.append(slice(max(0, low), min(length, high)))
    return (place[0], place[1]) if all(s.start < s.stop for s in place) else None


def _around(points_px: Floats, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns that hold the points, within a picture; None where it holds none."""
    low, high = np.floor(points_px.min(0)).astype(int), np.ceil(points_px.max(0)).astype(int) + 1
    rows = slice(max(0, int(low[1])), min(shape[0], int(high[1])))
    columns = slice(max(0, int(low[0])), min(shape[1], int(high[0])))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
