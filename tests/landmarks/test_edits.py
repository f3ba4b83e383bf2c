"""Edits of landmarks, by cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from difftalker.errors import UsageError
from difftalker.face.landmarks import CHIN, CONTOUR, LOWER, UPPER
from difftalker.face.lips import open_mouth
from difftalker.landmarks.edits import Edit, apply_edits, drop_jaw, shift_time, smooth_motion
from difftalker.landmarks.track_file import LandmarkTrack
from helpers_track import FACE, FPS, still, times


def test_the_jaw_drops_from_its_neutral_place() -> None:
    points = still(20)
    points[10, list(CONTOUR), 1] += 0.04
    more = drop_jaw(points, 1.5)
    moved = more - points
    assert moved[10, CHIN, 1] == pytest.approx(0.02, abs=1e-6)
    assert moved[10, 3, 1] == pytest.approx(0.02 * np.sin(np.pi / 12), abs=1e-6)
    assert not moved[[i for i in range(20) if i != 10]].any()
    assert not moved[:, [i for i in range(68) if i not in CONTOUR]].any()
    np.testing.assert_allclose(moved[..., 0], 0, atol=1e-6)
    # A second change finds the neutral place where it was: 1.5 x 2 is 3 times the drop.
    assert drop_jaw(more, 2)[10, CHIN, 1] - FACE[CHIN, 1] == pytest.approx(0.12, abs=1e-6)


def test_smoothing_has_no_lag_and_does_not_cross_a_gap() -> None:
    points, found = still(41), np.ones(41, np.bool_)
    points[20, 57, 1] += 0.1
    points += np.linspace(0, 0.3, 41, dtype=np.float32)[:, None, None]  # the head moves
    smoothed = smooth_motion(points, times(41), found, 2 / FPS)
    bump = (
        smoothed - smoothed[:, UPPER].mean(1, keepdims=True) - FACE + FACE[list(UPPER)].mean(0)
    )[:, 57, 1]
    assert bump.argmax() == 20
    np.testing.assert_allclose(bump, bump[::-1], atol=1e-6)
    # The peak of a Gaussian of 2 frames: 1 / (2 sqrt(2 pi)) of what was there.
    assert bump[20] == pytest.approx(0.1 / (2 * np.sqrt(2 * np.pi)), rel=0.01)
    np.testing.assert_allclose(smoothed[:, UPPER], points[:, UPPER], atol=0)
    found[21] = False
    np.testing.assert_allclose(
        smooth_motion(points, times(41), found, 2 / FPS)[21:], points[21:], atol=1e-6
    )


def test_a_shift_moves_motion_and_not_the_head() -> None:
    points = still(20)
    points[8, 57, 1] += 0.1
    head = np.linspace(0, 0.2, 20, dtype=np.float32)[:, None, None]
    later = shift_time(points + head, times(20), 2 / FPS) - head
    assert later[10, 57, 1] - FACE[57, 1] == pytest.approx(0.1, abs=1e-5)
    np.testing.assert_allclose(np.delete(later, 10, 0), np.delete(still(20), 10, 0), atol=1e-5)
    half = shift_time(points, times(20), -0.5 / FPS)[:, 57, 1] - FACE[57, 1]
    np.testing.assert_allclose(half[[7, 8]], 0.05, atol=1e-5)


def test_no_edit_reaches_across_a_cut() -> None:
    """Two shots of quite other mouths: every edit of both is the edit of each by itself."""
    rng = np.random.default_rng(0)
    points = still(40) + rng.normal(0, 0.01, (40, 68, 2)).astype(np.float32)
    points[17:, list(LOWER), 1] += 0.1
    found, cuts = np.ones(40, np.bool_), np.array([17])
    for text in ("smooth=0.2", "shift=0.1", "shift=-0.1", "mouth=2"):
        edit = Edit.parse(text)
        whole = edit.apply(points, times(40), found, cuts)
        shots = [slice(0, 17), slice(17, 40)]
        alone = [edit.apply(points[one], times(40)[one], found[one]) for one in shots]
        np.testing.assert_allclose(whole, np.concatenate(alone), atol=1e-6, err_msg=text)
    blurred = Edit.parse("smooth=0.2").apply(points, times(40), found)
    assert np.abs(blurred - whole)[16].max() > 0.01, "without the cut they would mix"


def test_an_edit_fades_within_its_span_and_touches_nothing_else() -> None:
    edit = Edit(kind="mouth", amount=2, start_s=1.0, stop_s=2.0, soft_s=0.2)
    at = np.array([0, 0.99, 1.0, 1.1, 1.2, 1.5, 1.8, 1.9, 2.0, 3.0])
    wanted = [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]
    np.testing.assert_allclose(edit.weights(at), wanted, atol=1e-6)
    sharp = replace(edit, soft_s=0)
    np.testing.assert_array_equal(sharp.weights(at), [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(Edit(kind="jaw", amount=1).weights(at), np.ones(10))
    rng = np.random.default_rng(0)
    points = still(100) + rng.normal(0, 0.01, (100, 68, 2)).astype(np.float32)
    found = np.ones(100, np.bool_)
    for text in ("mouth=2", "jaw=2", "smooth=0.1", "shift=0.2"):
        out = Edit.parse(f"{text}@1-2").apply(points, times(100), found)
        changed = (out != points).any((1, 2))
        assert changed[26:50].mean() > 0.8, text  # a neutral jaw stays
        assert not np.delete(changed, range(26, 50)).any(), text
        assert not (out != points)[:, UPPER].any(), text
        assert (out != points)[30, list(LOWER)].any(), text


def test_edits_follow_one_another(made: LandmarkTrack) -> None:
    edits = [Edit.parse("mouth=2"), Edit.parse("mouth=1.5")]
    found = np.ones(1, np.bool_)
    twice = apply_edits(still(1), times(1), found, edits)
    np.testing.assert_allclose(twice, open_mouth(still(1), 3), atol=1e-6)
    np.testing.assert_array_equal(made.edited([]).points_crop, made.points_crop)


def test_edits_are_written_as_text() -> None:
    assert Edit.parse("mouth=1.3@1.0-2.5") == Edit(
        kind="mouth", amount=1.3, start_s=1.0, stop_s=2.5
    )
    assert Edit.parse("shift=-.04") == Edit(kind="shift", amount=-0.04)
    assert Edit.parse("smooth=0.05@3-") == Edit(kind="smooth", amount=0.05, start_s=3)
    assert Edit.parse("jaw=0@-3") == Edit(kind="jaw", amount=0, stop_s=3)


@pytest.mark.parametrize(
    "text",
    ["", "mouth", "mouth=", "mouth=1@", "mouth=1@2-1", "mouth=1@1-1", "nose=1", "mouth=-1",
     "mouth=11", "jaw=nan", "smooth=-1", "smooth=inf", "shift=1e3", "mouth=1@1.0", "mouth=1@a-b"],
)  # fmt: skip
def test_what_is_no_edit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Edit.parse(text)
