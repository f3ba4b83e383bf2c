"""Faces that nobody has: their landmarks and boxes go with their pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from difftalker.face.landmarks import EYES, JAW, MIRRORED, MOUTH, UPPER
from difftalker.training.tasks.new_faces import NewFace, NewFaceRecipe, farthest_jaws, new_face
from helpers import draw_face, face_points

SIZE = 128
NEAR = 3e-4
"""Maps are read to a 32nd of a pixel."""
AS_IT_IS = {
    "mirrored_share": 0.0,
    "rotation_rad": 0.0,
    "scaling": 0.0,
    "shift_crop": 0.0,
    "warp_crop": 0.0,
    "colour": 0.0,
    "gamma": 0.0,
    "light": 0.0,
    "poor_share": 0.0,
}


def face(points: np.ndarray | None = None) -> NewFace:
    points = face_points(0.03) if points is None else points
    return NewFace(
        picture=draw_face(points, SIZE, np.random.default_rng(0)),
        points=points,
        box=np.array([64, 128, 24, 104], np.int32),
        jaws=farthest_jaws(points[None]),
    )


def recipe(**changes: float) -> NewFaceRecipe:
    return NewFaceRecipe(**{**AS_IT_IS, **changes})


def test_without_changes_it_is_the_face_of_the_footage() -> None:
    old = face()
    new = new_face(old, recipe(), np.random.default_rng(1))
    np.testing.assert_array_equal(new.picture, old.picture)
    np.testing.assert_allclose(new.points, old.points, atol=NEAR)
    np.testing.assert_array_equal(new.box, old.box)
    np.testing.assert_allclose(new.jaws, old.jaws, atol=NEAR)


def test_a_mirrored_face_has_its_points_by_their_names() -> None:
    old = face(face_points(0.03, shift=(0.05, 0)))
    new = new_face(old, recipe(mirrored_share=1.0), np.random.default_rng(1))
    np.testing.assert_array_equal(new.picture, old.picture[:, ::-1])
    np.testing.assert_allclose(new.points, old.points[list(MIRRORED)] * (-1, 1) + (1, 0), atol=NEAR)
    assert (new.points[list(EYES[:6]), 0] < new.points[list(EYES[6:]), 0].min()).all()
    assert (np.diff(new.points[list(JAW), 0]) > 0).all()
    np.testing.assert_array_equal(new.box, [64, 128, 24, 104])


@pytest.mark.parametrize("seed", range(4))
def test_points_stay_on_what_they_mark(seed: int) -> None:
    points = face_points(0.03)
    marked = points[[36, 45, 30, 48, 54, 57]]
    old = face(points)
    picture = np.zeros_like(old.picture)
    for x, y in marked * SIZE:
        cv2.circle(picture, (round(x - 0.5), round(y - 0.5)), 2, (255, 255, 255), -1)
    old = NewFace(picture=picture, points=points, box=old.box, jaws=old.jaws)
    much = recipe(
        mirrored_share=0.5, rotation_rad=0.1, scaling=0.1, shift_crop=0.03, warp_crop=0.02
    )
    new = new_face(old, much, np.random.default_rng(seed))
    count, _, _, centres = cv2.connectedComponentsWithStats(
        (new.picture[..., 0] > 100).astype(np.uint8)
    )
    assert count == 1 + len(marked)
    found = new.points[[36, 45, 30, 48, 54, 57]] * SIZE - 0.5
    away = np.linalg.norm(found[:, None] - centres[None, 1:], axis=-1).min(1)
    assert away.max() < 1.0
    at = new.points * SIZE
    top, bottom, left, right = new.box
    mouth = at[list(MOUTH)]
    assert (mouth > (left, top)).all()
    assert (mouth < (right, bottom)).all()
    assert (new.box % 8 == 0).all()


def test_jaws_are_turned_and_scaled_as_the_face_is() -> None:
    old = face()
    new = new_face(old, recipe(rotation_rad=0.1, scaling=0.1), np.random.default_rng(3))
    wanted = farthest_jaws(new.points[None])
    np.testing.assert_allclose(new.jaws.max(0), wanted.max(0), atol=2e-3)
    np.testing.assert_allclose(new.jaws.min(0), wanted.min(0), atol=2e-3)


def test_light_and_camera_change_colours_alone() -> None:
    old = face()
    much = recipe(colour=0.1, gamma=0.3, light=0.5, poor_share=1.0)
    new = new_face(old, much, np.random.default_rng(2))
    np.testing.assert_allclose(new.points, old.points, atol=NEAR)
    assert np.abs(new.picture.astype(int) - old.picture).mean() > 5


def test_the_farthest_jaws_are_as_far_as_any() -> None:
    points = np.stack([face_points(opening) for opening in (0.0, 0.02, 0.05)])
    lines = points[:, list(JAW)] - points[:, list(UPPER)].mean(1, keepdims=True)
    found = farthest_jaws(points)
    assert found[:, 1].max() == lines[..., 1].max()
    assert found[:, 0].min() == lines[..., 0].min()
