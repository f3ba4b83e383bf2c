"""The groups of the 68 points, their vertices in MediaPipe's mesh, and mouth openings."""

from __future__ import annotations

import numpy as np

from difftalker.face.landmarks import (
    BROWS,
    CONTOUR,
    EYES,
    INNER_LIPS,
    JAW,
    LOWER,
    MEDIAPIPE_TO_IBUG,
    MOUTH,
    NOSE,
    OUTER_LIPS,
    POINTS,
    UPPER,
    from_mediapipe,
    mouth_opening,
)


def test_the_groups_are_the_68_points() -> None:
    assert sorted((*JAW, *BROWS, *NOSE, *EYES, *OUTER_LIPS, *INNER_LIPS)) == list(range(POINTS))
    assert sorted((*UPPER, *LOWER)) == list(range(POINTS))
    assert (*CONTOUR, *MOUTH) == LOWER
    assert tuple(range(3, 14)) == CONTOUR
    assert (len(UPPER), len(CONTOUR), len(MOUTH)) == (37, 11, 20)


def test_the_map_from_mediapipe_names_68_vertices() -> None:
    assert len(MEDIAPIPE_TO_IBUG) == len(set(MEDIAPIPE_TO_IBUG)) == POINTS
    assert all(0 <= vertex < 478 for vertex in MEDIAPIPE_TO_IBUG)
    mesh = np.random.default_rng(0).random((5, 478, 2))
    points = from_mediapipe(mesh)
    assert points.shape == (5, POINTS, 2)
    assert np.array_equal(points[:, 8], mesh[:, 152])  # the chin
    assert np.array_equal(points[:, 62], mesh[:, 13])  # the middle of the upper lip's inside


def test_mouth_opening_by_hand() -> None:
    points = np.zeros((2, POINTS, 2))
    points[0, [65, 66, 67], 1] = (0.3, 0.6, 0.3)
    np.testing.assert_allclose(mouth_opening(points), [0.4, 0])
