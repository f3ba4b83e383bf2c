"""Measures of generated pictures beside the footage, by which a renderer is calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from difftalker.data.dataset import ClipData
from difftalker.errors import FaceError
from difftalker.face.compose.blend import paste
from difftalker.face.crop import CropTrack, cut
from difftalker.face.detect.track import track
from difftalker.face.lips import opening_correction, relative_opening
from difftalker.media.video import Frame
from difftalker.synthesis.autoencoder import high_pass, to_images, to_pixels

HALVINGS = 8
CHUNK = 32
"""Frames that are generated at once, to detect their mouths."""
EDGE_PX = 4
"""At a crop's lower edge, where there is no footage in this measurement."""
MOST_DETAIL = 1.0
"""More of the finest would show as an edge's double."""


def missing_detail(true: Tensor, made: Tensor, boxes: Tensor, side_px: float) -> float:
    """How much of their finest generated pictures lack (``Calibration.detail``).

    Pictures (N, S, S, 3) uint8, boxes (N, 4), ``side_px`` the width of crops in the footage. With
    it the detail of the hidden region, as it comes out of a dubbing in the pixels of the footage,
    is the footage's own, by the measure of the evaluation: the mean squared Laplacian of the luma.
    """
    wanted, pixels = _detail_energy(true.numpy(), boxes), to_pixels(made)
    low, high = 0.0, MOST_DETAIL
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shown = to_images(pixels + middle * high_pass(pixels)).cpu().numpy()
        found = _detail_energy(np.stack([_dubbed(one, side_px) for one in shown]), boxes)
        low, high = (middle, high) if found < wanted else (low, middle)
    return round(low, 2)


def openings_of(
    clips: Sequence[ClipData], render: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> tuple[float, ...]:
    """How much wider mouths are drawn than they are generated (``Calibration.openings``).

    By what is detected on the clips and on the pictures that ``render`` makes of rows (n, 2), clip
    and frame; of few frames, or faces that are not found, nothing is said.
    """
    seen: list[NDArray[np.floating]] = []
    generated: list[NDArray[np.floating]] = []
    for number, clip in enumerate(clips):
        rows = np.array([(number, f) for f in np.flatnonzero(clip.found)]).reshape(-1, 2)
        true = [clip.frames[f] for _, f in rows]
        made: list[NDArray[np.uint8]] = []
        for start in range(0, len(rows), CHUNK):
            made += [*render(rows[start : start + CHUNK])]
        for pictures, found in ((true, seen), (made, generated)):
            found.append(openings_found(pictures, clip.times_s[rows[:, 1]]))
    return opening_correction(np.concatenate(seen), np.concatenate(generated))


def openings_found(
    pictures: Sequence[NDArray[np.uint8]], times_s: NDArray[np.float64]
) -> NDArray[np.floating]:
    """(n,): how far the mouths are open that are found on pictures (S, S, 3); else not numbers."""
    frames = [
        Frame(image=np.ascontiguousarray(one), pts=i, time_s=float(time_s))
        for i, (one, time_s) in enumerate(zip(pictures, times_s, strict=True))
    ]
    try:
        return relative_opening(track(frames).points_px)
    except FaceError:
        return np.full(len(frames), np.nan)


def _dubbed(picture: NDArray[np.uint8], side_px: float) -> NDArray[np.uint8]:
    """A crop (S, S, 3) laid into footage where it is ``side_px`` wide, and cut out of it again."""
    size, whole = len(picture), int(side_px)
    crop = CropTrack(
        centre_px=np.full((1, 2), whole / 2, np.float32), side_px=np.full(1, whole, np.float32)
    )
    frame = np.zeros((whole, whole, 3), np.uint8)
    return cut(paste(frame, picture, np.ones((size, size), np.float32), crop, 0), crop, 0, size)


def _detail_energy(pictures: NDArray[np.uint8], boxes: Tensor) -> float:
    """Mean squared Laplacian of the luma within boxes; (N, S, S, 3), (N, 4)."""
    found = []
    for picture, (top, bottom, left, right) in zip(pictures, boxes.tolist(), strict=True):
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        detail = cv2.Laplacian(luma, cv2.CV_32F)[top : bottom - EDGE_PX, left:right]
        found.append(float(np.mean(np.square(detail))))
    return float(np.mean(found))
