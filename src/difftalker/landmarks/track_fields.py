"""The fields of a landmark track: names, types, shapes and bounds (``docs/format/track.md``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from difftalker.errors import TrackError
from difftalker.face.landmarks import POINTS

MAX_FRAMES = 250_000
"""The longest track: an hour at 60 frames a second, and some."""
MAX_JSON_FRAMES = 22_500
"""The longest track as JSON, whose numbers are texts: 15 minutes at 25 frames a second."""
MAX_TEXT = 255


class Array(NamedTuple):
    """Type and row shape of a field with one row a frame."""

    dtype: type[np.generic]
    row: tuple[int, ...] = ()


ARRAYS = {
    "times_s": Array(np.float64),
    "points_crop": Array(np.float32, (POINTS, 2)),
    "points_px": Array(np.float32, (POINTS, 2)),
    "found": Array(np.bool_),
    "cut": Array(np.bool_),
    "centre_px": Array(np.float32, (2,)),
    "side_px": Array(np.float32),
    "boxes": Array(np.int32, (4,)),
}
NUMBERS: dict[str, tuple[int, ...]] = {"version": (), "size_px": (), "frame_px": (2,)}
TEXTS = ("video", "video_sha256", "avatar")
DERIVED = "points_px"
KEYS = (*NUMBERS, *TEXTS, *ARRAYS)


def check_keys(found: Iterable[str]) -> None:
    """Refuse names that are not those of a track's fields; ``points_px`` may be absent.

    Raises:
        TrackError: a field is missing, unknown or there twice.
    """
    keys = list(found)
    missing = [name for name in KEYS if name not in keys and name != DERIVED]
    if missing:
        raise TrackError(f"it has no {missing[0]}", wanted="a landmark track")
    if len(keys) > len(set(keys)) or not set(keys) <= set(KEYS):
        raise TrackError("it has fields that are unknown or there twice", wanted=", ".join(KEYS))
