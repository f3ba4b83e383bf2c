"""The steady crop: exact ways there and back, and nothing of the mouth in crop and mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker import config as configs
from difftalker.errors import UsageError
from difftalker.face.compose.blend import blend_mask, paste
from difftalker.face.crop import CELL, CropTrack, cut, frame_face, mask_boxes, steady_crop
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import (
    CHIN,
    CONTOUR,
    INNER_LIPS,
    JAW,
    LOWER,
    MOUTH,
    OUTER_LIPS,
    UPPER,
)
from helpers import FPS, Floats, Image, draw_face, face_points
from synthetic import still_track

SIZE = 256


def crop_at(*centre_px: float, side_px: float, frames: int = 1) -> CropTrack:
    return CropTrack(
        centre_px=np.tile(np.array(centre_px, np.float32), (frames, 1)),
        side_px=np.full(frames, side_px, np.float32),
    )


def speaking(frames: int = 40, *, side_px: float = 150, seed: int = 0) -> Floats:
    """Points of a face that sways and speaks, (frames, 68, 2), pixels."""
    rng = np.random.default_rng(seed)
    sway = np.cumsum(rng.normal(0, 0.002, (frames, 2)), 0)
    opening = 0.04 + 0.04 * np.sin(np.arange(frames))
    points = [face_points(o, shift=tuple(moved)) for o, moved in zip(opening, sway, strict=True)]
    placed: Floats = np.stack(points) * side_px + np.array((80, 60), np.float32)
    return placed


def track_of(points_px: Floats) -> FaceTrack:
    return FaceTrack(times_s=np.arange(len(points_px)) / FPS, points_px=points_px)


def photo(height: int, width: int, seed: int = 0) -> Image:
    """Smooth random colours."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), 4)
    image: Image = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    return image


def gap(a: Image, b: Image) -> NDArray[np.int64]:
    gaps: NDArray[np.int64] = np.abs(a.astype(np.int64) - b)
    return gaps


def test_crop_units_and_pixels_are_exact_inverses() -> None:
    crop = steady_crop(track_of(speaking()))
    points = np.random.default_rng(0).uniform(-0.5, 1.5, (40, 68, 2)).astype(np.float32)
    np.testing.assert_allclose(crop.to_crop(crop.to_px(points)), points, atol=1e-6)
    np.testing.assert_allclose(crop.to_px(crop.to_crop(speaking())), speaking(), atol=2e-5)


def test_crop_units_by_hand() -> None:
    crop = crop_at(100, 80, side_px=40)
    px = np.array([[[80, 60], [120, 100], [100, 80], [90, 95]]], np.float32)
    wanted = np.array([[0, 0], [1, 1], [0.5, 0.5], [0.25, 0.875]])
    np.testing.assert_allclose(crop.to_crop(px)[0], wanted)


def test_a_typical_face_fills_its_crop_as_it_should() -> None:
    framing = frame_face(track_of(speaking()), SIZE)
    points = framing.points_crop
    assert points.min() > 0.02
    assert points.max() < 0.98
    np.testing.assert_allclose(points[:, JAW[0], 0] + points[:, JAW[16], 0], 1, atol=0.05)


def test_the_crop_is_steady() -> None:
    jitter = np.random.default_rng(0).normal(0, 1, (40, 1, 2)).astype(np.float32)
    crop = steady_crop(track_of(np.tile(speaking(1), (40, 1, 1)) + jitter))
    assert np.abs(np.diff(crop.centre_px, axis=0)).max() < 0.2
    np.testing.assert_allclose(crop.side_px, crop.side_px[0], rtol=1e-5)


@pytest.mark.parametrize("size", [64, 256, 512])
def test_the_mask_box_hides_the_lower_face(size: int) -> None:
    points = speaking()
    framing = frame_face(track_of(points), size)
    top, bottom, left, right = framing.boxes.T[:, :, None]
    hidden = framing.points_crop[:, [*CONTOUR, *MOUTH]] * size
    assert (hidden[..., 1] > top).all()
    assert (hidden[..., 0] > left).all()
    assert (hidden[..., 0] < right).all()
    # A wide open mouth may take the chin to the crop's edge, where the box ends too.
    assert ((hidden[..., 1] < bottom) | (bottom == size)).all()


def test_mask_boxes_lie_on_the_grid_of_latents() -> None:
    for size in (64, 256, 512):
        boxes = frame_face(track_of(speaking()), size).boxes
        assert boxes.dtype == np.int32
        assert boxes.shape == (40, 4)
        assert (boxes % CELL == 0).all()
        assert (boxes >= 0).all()
        assert (boxes <= size).all()
        assert (boxes[:, 0] < boxes[:, 1]).all()
        assert (boxes[:, 2] < boxes[:, 3]).all()


def test_mask_box_leaves_the_eyes() -> None:
    framing = frame_face(track_of(speaking()), SIZE)
    eyes = framing.points_crop[:, 36:48, 1] * SIZE
    assert (eyes.max(1) < framing.boxes[:, 0]).all()


def test_crop_and_mask_depend_on_upper_points_alone() -> None:
    points = speaking()
    other = points.copy()
    other[:, list(LOWER)] = np.random.default_rng(0).uniform(0, 400, (40, len(LOWER), 2))
    ours, theirs = (frame_face(track_of(p), SIZE) for p in (points, other))
    assert np.array_equal(ours.crop.centre_px, theirs.crop.centre_px)
    assert np.array_equal(ours.crop.side_px, theirs.crop.side_px)
    assert np.array_equal(ours.boxes, theirs.boxes)
    upper = list(UPPER)
    assert np.array_equal(ours.points_crop[:, upper], theirs.points_crop[:, upper])
    # And upper points do move them, so that the test above says something.
    other[:, upper] += 20
    assert not np.array_equal(ours.crop.centre_px, frame_face(track_of(other), SIZE).crop.centre_px)


def test_mask_boxes_by_hand() -> None:
    points = np.tile(face_points(), (5, 1, 1))
    # Brows at 0.2309 on average, the nose's base at 0.55, temples at 0.2 and 0.8.
    scale = 0.55 - points[0, 17:27, 1].mean()
    top = 8 * np.floor((0.55 - 0.08 * scale) * 32)
    bottom = 8 * np.ceil((0.55 + 1.38 * scale) * 32)
    boxes = mask_boxes(points, np.arange(5) / FPS, SIZE)
    assert boxes.tolist() == [[top, bottom, 40, 216]] * 5


def with_gap(*gaps: slice) -> FaceTrack:
    points = speaking()
    for one in gaps:
        points[one] = np.nan
    return track_of(points)


@pytest.mark.parametrize(
    "gaps", [[slice(10, 20)], [slice(0, 12)], [slice(30, None)], [slice(0, 5), slice(6, None)]]
)
def test_gaps_are_marked_and_bridged(gaps: list[slice]) -> None:
    track = with_gap(*gaps)
    framing = frame_face(track, SIZE)
    assert np.array_equal(framing.found, track.found)
    assert not framing.found.all()
    assert np.isfinite(framing.points_crop).all()
    assert np.isfinite(framing.crop.centre_px).all()
    assert (framing.crop.side_px > 0).all()
    assert (framing.boxes[:, 0] < framing.boxes[:, 1]).all()
    found = framing.crop.to_crop(track.points_px)[track.found]
    np.testing.assert_allclose(framing.points_crop[track.found], found, atol=1e-6)


def test_a_gap_is_crossed_in_a_line() -> None:
    points = np.tile(speaking(1), (41, 1, 1))
    points[21:] += 40
    points[1:40] = np.nan
    crop = frame_face(track_of(points), SIZE).crop
    moved = np.diff(crop.centre_px[:, 0])
    assert (moved > -1e-4).all()
    assert moved.max() < 1.5  # 40 pixels over 40 frames, and no jump
    assert crop.centre_px[-1, 0] - crop.centre_px[0, 0] > 20


def test_one_frame_is_enough() -> None:
    framing = frame_face(track_of(speaking(1)), SIZE)
    assert len(framing.crop) == 1
    assert np.isfinite(framing.points_crop).all()


def test_cut_by_hand() -> None:
    image = photo(120, 160)
    crop = crop_at(80, 60, side_px=64)
    assert np.array_equal(cut(image, crop, 0, 64), image[28:92, 48:112])


def test_cut_keeps_points_and_pixels_together() -> None:
    points = speaking(1)
    image = np.zeros((300, 320, 3), np.uint8)
    for x, y in points[0, [36, 45, 48, 54, 8]]:
        cv2.circle(
            image, (round(x * 16 - 8), round(y * 16 - 8)), 3 * 16, (255, 255, 255), -1, 16, 4
        )
    framing = frame_face(track_of(points), SIZE)
    small = cut(image, framing.crop, 0, SIZE)[..., 0] > 127
    _, labels, _, centres = cv2.connectedComponentsWithStats(small.astype(np.uint8))
    found = np.sort(centres[1:] + 0.5, 0)
    assert labels.max() == 5
    wanted = np.sort(framing.points_crop[0, [36, 45, 48, 54, 8]] * SIZE, 0)
    np.testing.assert_allclose(found, wanted, atol=0.6)


def test_shrinking_takes_away_what_the_crop_cannot_hold() -> None:
    fine = np.indices((800, 800)).sum(0) % 2 * 255
    image = np.repeat(fine[..., None], 3, 2).astype(np.uint8)
    small = cut(image, crop_at(400.3, 399.6, side_px=600), 0, 64)
    assert abs(small.mean() - 127.5) < 2
    assert small.std() < 4  # without the blur single pixels are picked: 127


def test_shrinking_keeps_what_the_crop_can_hold() -> None:
    image = np.asarray(cv2.GaussianBlur(photo(800, 800), (0, 0), 12), np.uint8)
    small = cut(image, crop_at(400, 400, side_px=512), 0, 128)
    area = cv2.resize(image[144:656, 144:656], (128, 128), interpolation=cv2.INTER_AREA)
    assert gap(small, area.astype(np.uint8)).mean() < 1


@pytest.mark.parametrize("side", [60, 150, 700])
@pytest.mark.parametrize("centre", [(80, 60), (0, 0), (159, 119), (-30, 60), (80, 200), (500, 500)])
def test_faces_near_the_edge_of_the_frame_and_beyond(centre: tuple[int, int], side: int) -> None:
    image = photo(120, 160)
    crop = crop_at(*centre, side_px=side)
    small = cut(image, crop, 0, 64)
    assert small.shape == (64, 64, 3)
    new = paste(image, np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.float32), crop, 0)
    assert new.shape == image.shape
    x, y = (np.arange(n) + 0.5 for n in (160, 120))
    outside_x, outside_y = abs(x - centre[0]) > side / 2 + 1, abs(y - centre[1]) > side / 2 + 1
    outside = outside_y[:, None] | outside_x[None]
    assert np.array_equal(new[outside], image[outside])


def test_beyond_the_edge_its_pixels_are_repeated() -> None:
    image = photo(120, 160)
    small = cut(image, crop_at(0, 60, side_px=64), 0, 64)
    assert np.array_equal(small[:, :32], np.repeat(small[:, 32:33], 32, 1))


@pytest.mark.parametrize("side", [48.7, 64, 150.3, 400.9])
def test_paste_leaves_what_lies_outside_alpha_bit_for_bit(side: float) -> None:
    image = photo(480, 640)
    crop = crop_at(300.4, 250.7, side_px=side)
    box = np.array([32, 56, 8, 56], np.int32)
    face = np.full((64, 64, 3), 255, np.uint8)
    before = image.copy()
    new = paste(image, face, blend_mask(box, 64, 4), crop, 0)
    assert np.array_equal(image, before)
    rows, columns = np.arange(480) + 0.5, np.arange(640) + 0.5
    x, y = ((at - c) / side * 64 + 32 for at, c in ((columns, 300.4), (rows, 250.7)))
    inside = ((y > 32) & (y < 56))[:, None] & ((x > 8) & (x < 56))[None]
    assert np.array_equal(new[~inside], image[~inside])
    middle = ((y > 38) & (y < 50))[:, None] & ((x > 14) & (x < 50))[None]
    assert (new[middle] == 255).all()


def test_pasting_nothing_changes_nothing() -> None:
    image = photo(120, 160)
    face = np.zeros((64, 64, 3), np.uint8)
    new = paste(image, face, np.zeros((64, 64), np.float32), crop_at(80, 60, side_px=50), 0)
    assert np.array_equal(new, image)


@pytest.mark.parametrize("side", [64.0, 100.6, 256.0])
def test_an_unchanged_crop_pasted_back_changes_little(side: float) -> None:
    image = cv2.GaussianBlur(photo(480, 640), (0, 0), 2).astype(np.uint8)
    crop = crop_at(300.4, 250.7, side_px=side)
    face = cut(image, crop, 0, SIZE)
    new = paste(image, face, np.ones((SIZE, SIZE), np.float32), crop, 0)
    assert gap(new, image).max() <= 8
    assert gap(new, image).mean() < 0.3


def test_a_face_that_is_shrunk_and_grown_again_changes_little() -> None:
    points = speaking(1, side_px=700)
    face = draw_face(face_points(0.05), 700, np.random.default_rng(0))
    image = np.zeros((900, 900, 3), np.uint8)
    image[60:760, 80:780] = cv2.GaussianBlur(face, (0, 0), 3)
    framing = frame_face(track_of(points), SIZE)
    alpha = blend_mask(framing.boxes[0], SIZE)
    new = paste(image, cut(image, framing.crop, 0, SIZE), alpha, framing.crop, 0)
    assert gap(new, image).mean() < 0.5


def test_blend_mask_is_whole_within_and_nothing_outside_the_box() -> None:
    box = np.array([128, 256, 40, 216], np.int32)
    alpha = blend_mask(box, SIZE)
    assert alpha.dtype == np.float32
    assert (alpha[138:246, 50:206] == 1).all()
    inside = np.zeros((SIZE, SIZE), bool)
    inside[128:256, 40:216] = True
    assert (alpha[~inside] == 0).all()
    assert (alpha[129:255, 41:215] > 0).all()
    assert np.abs(np.diff(alpha, axis=1)).max() < 0.2  # no edge to be seen


def test_landmarks_move_the_mouth_alone() -> None:
    """The drawn face of these tests is what they take it for."""
    still, wide = face_points(0), face_points(0.08)
    assert np.array_equal(still[list(UPPER)], wide[list(UPPER)])
    assert (still[[*OUTER_LIPS, *INNER_LIPS]] != wide[[*OUTER_LIPS, *INNER_LIPS]]).any()


def test_the_mouth_box_holds_the_mouth_and_leaves_the_jaw() -> None:
    points = np.tile(face_points(0.02), (5, 1, 1))
    times = np.arange(5) / FPS
    for size in (64, 128, 256):
        (top, bottom, left, right), *_ = mask_boxes(points, times, size, "mouth").tolist()
        jaw = mask_boxes(points, times, size, "jaw")[0]
        mouth = points[0, list(MOUTH)] * size
        assert left <= mouth[:, 0].min() < mouth[:, 0].max() <= right
        assert top <= mouth[:, 1].min() < mouth[:, 1].max() <= bottom
        assert bottom < points[0, CHIN, 1] * size < jaw[1]
        assert jaw[0] == top
        assert jaw[2] < left < right < jaw[3]
        assert not any(edge % 8 for edge in (top, bottom, left, right))


def test_no_mask_depends_on_the_mouth() -> None:
    times = np.arange(20) / FPS
    quiet = np.tile(face_points(), (20, 1, 1))
    loud = np.stack([face_points(0.1 * (i % 2)) for i in range(20)])
    assert np.array_equal(quiet[:, list(UPPER)], loud[:, list(UPPER)])
    for mask in configs.MASKS:
        first, second = (mask_boxes(points, times, 128, mask) for points in (quiet, loud))
        assert np.array_equal(first, second)


def test_there_is_no_other_mask() -> None:
    with pytest.raises(UsageError, match="no mask is called 'chin'"):
        frame_face(still_track(3), 64, "chin")
