"""Lips opened as far as wanted, and drawn wider open where a rendering opens them too little."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import ABOVE_GAP, BELOW_GAP, INNER_LIPS, MOUTH, OUTER_LIPS
from difftalker.face.lips import (
    FEWEST_FRAMES,
    correct_openings,
    open_as,
    open_mouth,
    open_to,
    opening_correction,
    relative_opening,
)
from difftalker.store.calibration import MOST_ADDED, OPENINGS
from helpers import face_points


def speaking(gaps: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.stack([face_points(float(gap)) for gap in gaps]).astype(np.float32)


def test_a_mouth_is_opened_as_far_as_said_and_the_rest_of_the_face_stays() -> None:
    points = speaking(np.linspace(0.01, 0.1, 7))
    wanted = np.linspace(0.2, 0.02, 7)
    opened = open_to(points, wanted)
    np.testing.assert_allclose(relative_opening(opened), wanted, rtol=1e-3)
    others = [i for i in range(68) if i not in MOUTH]
    np.testing.assert_array_equal(opened[:, others], points[:, others])
    thick = [np.linalg.norm(x[:, OUTER_LIPS[3]] - x[:, INNER_LIPS[2]], axis=-1) for x in
             (points, opened)]  # fmt: skip
    np.testing.assert_allclose(thick[0], thick[1], atol=1e-6)


def test_each_frame_has_its_own_gain() -> None:
    points = speaking(np.full(3, 0.05))
    gains = np.array([0.5, 1, 2])
    together = open_mouth(points, gains)
    for i, gain in enumerate(gains):
        np.testing.assert_allclose(together[i], open_mouth(points[i : i + 1], float(gain))[0])


def test_a_mouth_is_as_far_open_at_each_pair_of_lips_as_that_of_another_face() -> None:
    points, others = speaking(np.array([0.0, 0.02, 0.1])), speaking(np.array([0.05, 0.0, 0.1]))
    others += np.float32(0.2)
    others[0, 66, 1] += 0.01  # open more in the middle
    opened = open_as(points, others)
    for above, below in zip(ABOVE_GAP, BELOW_GAP, strict=True):
        gap, wanted = (x[:, below] - x[:, above] for x in (opened, others))
        np.testing.assert_allclose(gap, wanted, atol=1e-6)
        middle, before = ((x[:, below] + x[:, above]) / 2 for x in (opened, points))
        np.testing.assert_allclose(middle, before, atol=1e-6)
    np.testing.assert_allclose(opened[2], points[2], atol=1e-6)


def rendered(drawn: NDArray[np.floating]) -> NDArray[np.floating]:
    """A rendering in which thin gaps fade: what is less than 0.01 open is closed."""
    found: NDArray[np.floating] = np.maximum(0, 0.95 * drawn - 0.01)
    return found


def test_what_is_painted_too_little_is_drawn_wider() -> None:
    rng = np.random.default_rng(0)
    openings = rng.uniform(0, 0.2, 600) * rng.integers(0, 2, 600)
    added = opening_correction(openings, rendered(openings) + rng.normal(0, 1e-4, 600))
    assert len(added) == len(OPENINGS)
    points = speaking(np.linspace(0.01, 0.06, 20))
    asked = relative_opening(points)
    before = np.abs(rendered(asked) - asked)
    after = np.abs(rendered(relative_opening(correct_openings(points, added))) - asked)
    assert after.max() < 0.2 * before.max()
    # Wider than all that was seen it is as much as at the widest of them.
    assert added[-1] == added[-2]


def test_a_true_painting_changes_nothing_and_few_frames_tell_nothing() -> None:
    openings = np.linspace(0, 0.3, 1000)
    assert np.abs(opening_correction(openings, openings)).max() < 1e-3
    few = openings[: FEWEST_FRAMES - 1]
    assert opening_correction(few, few) == ()
    unseen = np.where(np.arange(1000) < FEWEST_FRAMES - 1, openings, np.nan)
    assert opening_correction(openings, unseen) == ()


def test_no_more_is_added_than_a_painting_may_need() -> None:
    openings = np.linspace(0, 0.3, 1000)
    assert max(opening_correction(openings, 0.2 * openings)) == MOST_ADDED
    less = opening_correction(np.zeros(1000), openings)
    assert min(less) == -MOST_ADDED
    # What is drawn less open than not at all is closed.
    points = speaking(np.linspace(0.001, 0.1, 20))
    drawn = correct_openings(points, less)
    upper, lower = (drawn[:, i, 1] for i in (INNER_LIPS[2], INNER_LIPS[6]))
    assert (lower >= upper - 1e-6).all()
