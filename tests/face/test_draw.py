"""Landmarks drawn as maps."""

from __future__ import annotations

import numpy as np

from difftalker.face.draw import CHANNELS, landmark_maps
from difftalker.face.landmarks import (
    BROWS,
    EYES,
    INNER_LIPS,
    JAW,
    NOSE,
    POINTS,
)


def test_maps_show_what_they_are_named_for() -> None:
    points = np.random.default_rng(0).uniform(0.2, 0.8, (2, POINTS, 2)).astype(np.float32)
    maps = landmark_maps(points, 64)
    assert maps.shape == (2, len(CHANNELS), 64, 64)
    for name, group in (("jaw", JAW), ("brows", BROWS), ("nose", NOSE), ("eyes", EYES)):
        moved = points.copy()
        moved[:, list(group)] += 0.1
        changed = (landmark_maps(moved, 64) != maps).any(axis=(0, 2, 3))
        assert np.flatnonzero(changed).tolist() == [CHANNELS.index(name)]
    moved = points.copy()
    moved[:, list(INNER_LIPS)] += 0.1
    changed = (landmark_maps(moved, 64) != maps).any(axis=(0, 2, 3))
    lips = [CHANNELS.index("inner_lips"), CHANNELS.index("open_mouth")]
    assert np.flatnonzero(changed).tolist() == lips
