"""The opening of the mouth, by a case worked by hand."""

from __future__ import annotations

import numpy as np

from difftalker.face.landmarks import CONTOUR, UPPER
from difftalker.face.lips import open_mouth, relative_opening, set_openings
from helpers_track import FACE, still


def test_the_mouth_opens_about_its_midline() -> None:
    wide = open_mouth(still(1), 1.5)[0]
    moved = wide - FACE
    # The inner lips were 0.02 from the midline at y = 0.66; half as much again is 0.03.
    np.testing.assert_allclose(wide[[61, 62, 63], 1], 0.63, atol=1e-6)
    np.testing.assert_allclose(wide[[65, 66, 67], 1], 0.69, atol=1e-6)
    # Lips keep their thickness, corners their place; beside the corners half the way.
    np.testing.assert_allclose(moved[[50, 51, 52], 1], -0.01, atol=1e-6)
    np.testing.assert_allclose(moved[[56, 57, 58], 1], 0.01, atol=1e-6)
    np.testing.assert_allclose(moved[[49, 53], 1], -0.005, atol=1e-6)
    np.testing.assert_allclose(moved[[55, 59], 1], 0.005, atol=1e-6)
    assert not moved[[48, 54, 60, 64]].any()
    assert not moved[list(UPPER + CONTOUR)].any()
    closed = open_mouth(still(1), 0)
    np.testing.assert_allclose(closed[0, [61, 62, 63, 67, 66, 65], 1], 0.66, atol=1e-6)
    np.testing.assert_allclose(open_mouth(closed, 5), closed, atol=1e-6)


def test_openings_are_set_where_they_are_numbers_and_closed_lips_open_too() -> None:
    points = still(3)
    points[1] = open_mouth(points[1:2], 0)[0]
    wanted = np.array([0.3, 0.2, np.nan], np.float32)
    made = set_openings(points, wanted)
    np.testing.assert_allclose(relative_opening(made)[:2], wanted[:2], atol=1e-4)
    np.testing.assert_allclose(made[2], points[2], atol=1e-6)
    # Straight down the face, and nothing but the lips.
    moved = made[1] - points[1]
    np.testing.assert_allclose(moved[[61, 62, 63, 65, 66, 67], 0], 0, atol=1e-6)
    assert not moved[list(UPPER + CONTOUR)].any()
