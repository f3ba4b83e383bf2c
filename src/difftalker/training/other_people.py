"""The lips of other people, moved to the face that is learned.

A sound opens the lips of everyone in much the same way; where the face lies and how far its lips
open is each one's own. So the landmarks of other people are taken as deviations from their mean
face, in the measure of their lips' movement.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from difftalker.data.dataset import ClipData
from difftalker.face.landmarks import UPPER
from difftalker.face.lips import relative_opening

Floats = NDArray[np.float32]


def by_person(clips: Sequence[ClipData]) -> dict[str, list[ClipData]]:
    """The clips of each person."""
    people: dict[str, list[ClipData]] = {}
    for clip in clips:
        people.setdefault(clip.person, []).append(clip)
    return people


def moved(clips: Sequence[ClipData], face: Sequence[ClipData]) -> list[ClipData]:
    """Clips of one person with the mean face, and the spread of the opening, of ``face``'s."""
    wanted, scale = mean_face(face), spread(face) / spread(clips)
    own = mean_face(clips)
    out = []
    for clip in clips:
        middle = clip.points_crop[:, list(UPPER)].mean(1, keepdims=True)
        there = copy(clip)
        there.points_crop = middle + wanted + scale * (clip.points_crop - middle - own)
        out.append(there)
    return out


def mean_face(clips: Sequence[ClipData]) -> Floats:
    """(68, 2): the mean landmarks around the middle of the upper ones, crop units."""
    points = np.concatenate([clip.points_crop[clip.found] for clip in clips])
    mean: Floats = (points - points[:, list(UPPER)].mean(1, keepdims=True)).mean(0)
    return mean


def spread(clips: Sequence[ClipData]) -> float:
    """Standard deviation of the lips' opening, face scales; tiny at least."""
    opening = np.concatenate([relative_opening(clip.points_crop[clip.found]) for clip in clips])
    return max(float(opening.std()), 1e-4)
