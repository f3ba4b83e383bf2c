"""What the person of a dataset looks like, for the calibration of an avatar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from difftalker.data.dataset import ClipData
from difftalker.face.detect.looks import look
from difftalker.face.detect.tracklets import look_distances

MOST_LOOKS = 8
"""Looks that an avatar keeps."""
FRAMES_A_CLIP = 12
"""Frames of a clip that are looked at,"""
MOST_FRAMES = 2000
"""and those of all clips: each is compared with each."""


def look_in(clip: ClipData, frame: int) -> NDArray[np.float32]:
    """The look of the face in one frame of a clip, (LOOK_SIZE,)."""
    picture = np.asarray(clip.frames[frame])
    return look(picture, clip.points_crop[frame] * picture.shape[1])


def looks_of(clips: Sequence[ClipData]) -> tuple[tuple[float, ...], ...]:
    """A few looks of the person that differ most, from clips in which the face was found.

    The first is the most usual one; each further one is that which is farthest from those before.
    """
    found = [
        (clip, int(frame))
        for clip in clips
        for frames in [np.flatnonzero(clip.found)]
        for frame in frames[:: max(1, len(frames) // FRAMES_A_CLIP)]
    ]
    looks = np.stack([look_in(*one) for one in found[:: -(-len(found) // MOST_FRAMES)]])
    # Single frames of a blink or a turned head are no look to recognise somebody by.
    apart = look_distances(looks, looks)
    usual = np.flatnonzero(np.median(apart, axis=1) <= np.quantile(np.median(apart, axis=1), 0.9))
    chosen = [int(np.median(apart, axis=1).argmin())]
    while len(chosen) < min(MOST_LOOKS, len(usual)):
        chosen.append(int(usual[apart[usual][:, chosen].min(1).argmax()]))
    return tuple(tuple(round(float(x), 4) for x in looks[i]) for i in chosen)
