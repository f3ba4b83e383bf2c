"""New faces in frames: light, colour, grain are matched; nothing outside the mask changes."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from difftalker.face.compose.blend import Blender, Patch, blend_mask, edge_shift, paste
from difftalker.face.compose.grain import Grain, noise, noise_levels
from difftalker.face.compose.light import Light, LightMap, Skin, match
from difftalker.face.crop import CropTrack, cut, mask_boxes
from helpers import Image, draw_face, face_points

SIZE = 128
POINTS = face_points(0.05)
BOX = mask_boxes(POINTS[None], np.zeros(1), SIZE)[0]
INSIDE = np.zeros((SIZE, SIZE), bool)
INSIDE[BOX[0] : BOX[1], BOX[2] : BOX[3]] = True


def picture(seed: int = 0) -> Image:
    """A drawn face with shading, (S, S, 3): darker downwards."""
    face = draw_face(POINTS, SIZE, np.random.default_rng(seed)).astype(np.float32)
    shade = np.linspace(1, 0.4, SIZE)[:, None, None]
    return np.rint(face * shade).astype(np.uint8)


def skin(image: Image) -> Skin:
    found = Skin.of(image, POINTS, int(BOX[0]))
    assert found is not None
    return found


# --- light -------------------------------------------------------------------------------------

LIGHTS = {
    "darker": ((0.6, 0.6, 0.6), 1.0, (0.0, 0.0)),
    "brighter": ((1.2, 1.2, 1.2), 1.0, (0.0, 0.0)),
    "warm": ((1.15, 0.95, 0.6), 1.0, (0.0, 0.0)),
    "gamma": ((1.0, 1.0, 1.0), 1.6, (0.0, 0.0)),
    "from the side": ((0.8, 0.8, 0.8), 1.0, (0.7, 0.0)),
}


def lit(image: Image, name: str) -> Image:
    gain, power, slope = LIGHTS[name]
    return LightMap(gain=gain, power=power, slope=slope).apply(image)


@pytest.mark.parametrize("name", LIGHTS)
def test_another_light_is_found_and_taken_back(name: str) -> None:
    known = picture()
    seen = lit(known, name)
    found = match(skin(seen), skin(known))
    clear = (seen > 20) & (seen < 250)
    off = np.abs(seen.astype(int) - known)[clear].mean()
    assert off > 10
    assert np.abs(found.apply(seen).astype(int) - known)[clear].mean() < 0.2 * off
    assert np.abs(found.undo(known).astype(int) - seen)[clear].mean() < 0.2 * off


def test_the_avatars_own_light_is_left_as_it_is() -> None:
    known = picture()
    slightly = LightMap(gain=(1.03, 0.98, 1.1), power=1.05).apply(picture(seed=1))
    found = match(skin(slightly), skin(known))
    assert found == LightMap()
    assert found.apply(slightly) is slightly


@given(
    gain=st.tuples(*[st.floats(0.3, 3)] * 3),
    power=st.floats(0.5, 2),
    slope=st.tuples(*[st.floats(-1, 1)] * 2),
)
@settings(max_examples=30, deadline=None)
def test_a_map_is_undone(
    gain: tuple[float, float, float], power: float, slope: tuple[float, float]
) -> None:
    light, image = LightMap(gain=gain, power=power, slope=slope), picture()
    there = light.apply(image)
    clear = (there > 60) & (there < 255)
    back = light.undo(there)
    # Two roundings, the first of them stretched by the way back.
    assert np.abs(back.astype(int) - image)[clear].max(initial=0) <= 12


def test_what_the_mask_hides_does_not_tell_of_the_light() -> None:
    image = picture()
    other = np.where(INSIDE[..., None], 255 - image, image)
    a, b = skin(image), skin(other)
    assert np.array_equal(a.tones, b.tones)
    assert np.array_equal(a.cells, b.cells, equal_nan=True)


def test_light_is_followed_and_begins_anew_with_a_shot() -> None:
    known, seen = picture(), lit(picture(), "darker")
    light = Light(skin(known))
    maps = [light.update(skin(known), 0.0)]
    maps += [light.update(skin(seen), 0.04 * i) for i in range(1, 60)]
    gains = np.array([one.gain[1] for one in maps])
    assert gains[0] == 1
    assert (np.diff(gains) >= -1e-6).all()
    assert np.diff(gains).max() < 0.25
    assert gains[-1] == pytest.approx(1 / 0.6, rel=0.05)
    assert light.update(skin(known), 2.4, new_shot=True) == LightMap()
    assert Light(None).update(skin(seen), 0.0) == LightMap()


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_burnt_out_footage_is_left_as_it_is(level: int) -> None:
    flat = np.full((SIZE, SIZE, 3), level, np.uint8)
    assert match(skin(flat), skin(picture())) == LightMap()
    assert Skin.of(flat, POINTS - 2, int(BOX[0])) is None


# --- the mask's edge ---------------------------------------------------------------------------


def test_colours_meet_at_the_edge_and_the_middle_keeps_its_own() -> None:
    crop = picture()
    face = np.clip(crop.astype(int) + np.array([-6, 0, 9]), 0, 255).astype(np.uint8)
    shift = edge_shift(crop, face, BOX)
    whole = cv2.resize(shift, (SIZE, SIZE))
    np.testing.assert_allclose(whole[BOX[0] + 2, SIZE // 2], (6, 0, -9), atol=1.5)
    wide = np.array([40, 128, 0, 128], np.int32)
    deep = cv2.resize(edge_shift(crop, face, wide), (SIZE, SIZE))[120, SIZE // 2]
    assert (np.abs(deep) <= 1.5).all(), "far from all that is known there is nothing to meet"


def test_the_shift_knows_nothing_of_what_the_mask_hides() -> None:
    crop, face = picture(), picture(seed=3)
    shift = edge_shift(crop, face, BOX)
    other = np.where(INSIDE[..., None], 255 - crop, crop)
    assert np.array_equal(edge_shift(other, face, BOX), shift)
    assert shift.any()


# --- grain -------------------------------------------------------------------------------------

EVERYWHERE = np.ones((300, 200), np.uint8)


@pytest.mark.parametrize("levels", [(1.0, 0.25), (0.5, 0.5), (9.0, 4.0), (0.0, 0.0)])
def test_noise_has_the_levels_asked_for(levels: tuple[float, float]) -> None:
    field = noise((300, 200), np.array(levels), np.random.default_rng(0))
    assert abs(field.mean()) < 0.2
    found = noise_levels(field + 100, EVERYWHERE)
    assert found is not None
    np.testing.assert_allclose(found, levels, rtol=0.1, atol=1e-9)


@pytest.mark.parametrize("levels", [(0.3, 0.01), (0.1, 4.0)])
def test_noise_that_cannot_be_had_is_below_and_not_above(levels: tuple[float, float]) -> None:
    found = noise_levels(noise((300, 200), np.array(levels), np.random.default_rng(0)), EVERYWHERE)
    assert found is not None
    assert (found < np.array(levels) * 1.1).all()
    assert found.max() > 0


def test_texture_that_stays_is_no_grain() -> None:
    rng = np.random.default_rng(0)
    texture = 120 + rng.normal(0, 3, (300, 200)).astype(np.float32)
    a, b = (texture + noise((300, 200), np.array([1, 0.25]), rng) for _ in range(2))
    still, changing = noise_levels(b, EVERYWHERE), noise_levels(b, EVERYWHERE, a)
    assert still is not None
    assert changing is not None
    assert still[0] > 8
    np.testing.assert_allclose(changing, (1, 0.25), rtol=0.15)


def test_only_what_a_face_lacks_is_added() -> None:
    rng, grain = np.random.default_rng(0), Grain(seed=5)
    plain = np.full((300, 200), 120, np.float32)
    before = plain
    for i in range(20):
        grainy = plain + noise((300, 200), np.array([4, 1]), rng)
        grain.footage(grainy, EVERYWHERE, before, i / 25)
        face = plain + noise((300, 200), np.array([1, 0.25]), rng)
        grain.face(face, EVERYWHERE, i / 25)
        before = grainy
    np.testing.assert_allclose(grain.lacking, (3 - 1 / 12, 0.75 - 1 / 48), rtol=0.2)
    field = grain.field(7, (40, 50))
    assert field is not None
    assert np.array_equal(field, np.asarray(grain.field(7, (40, 50))))
    assert not np.array_equal(field, np.asarray(grain.field(8, (40, 50))))
    for _ in range(3):
        grain.face(grainy + field.std(), EVERYWHERE, 99)
    assert not grain.lacking.any()
    assert grain.field(9, (40, 50)) is None


# --- frames ------------------------------------------------------------------------------------


def crop_at(centre_px: tuple[float, float], side_px: float, frames: int) -> CropTrack:
    return CropTrack(
        centre_px=np.tile(np.array(centre_px, np.float32), (frames, 1)),
        side_px=np.full(frames, side_px, np.float32),
    )


def grainy_video(side: int, frames: int, sigma: float) -> list[Image]:
    """A face that fills its frame, still but for its grain."""
    rng = np.random.default_rng(0)
    clean = cv2.resize(picture(), (side, side), interpolation=cv2.INTER_CUBIC)
    clean = cv2.GaussianBlur(clean, (0, 0), side / 64).astype(np.float32)
    noisy = [clean + rng.normal(0, sigma, (side, side, 1)) for _ in range(frames)]
    return [np.clip(np.rint(one), 0, 255).astype(np.uint8) for one in noisy]


def blended(images: list[Image], made: Image, **how: int) -> list[Image]:
    """Each frame with the same new face."""
    frames, side = len(images), len(images[0])
    crop = crop_at((side / 2, side / 2), side, frames)
    boxes, points = np.tile(BOX, (frames, 1)), np.tile(POINTS, (frames, 1, 1))
    blender = Blender(crop, boxes, points, np.arange(frames) / 25, size_px=SIZE, seed=0)
    return [
        blender.blend(i, image, cut(image, crop, i, SIZE), made, 1.0)
        for i, image in enumerate(images)
    ]


@pytest.mark.parametrize("side", [SIZE, 300, 90])
def test_new_faces_have_the_footages_grain_and_no_more(side: int) -> None:
    images = grainy_video(side, 8, 3.0)
    smooth = cv2.GaussianBlur(picture(), (0, 0), 2).astype(np.uint8)
    out = blended(images, smooth)
    rows = slice(int(side * (BOX[0] + 14) / SIZE), int(side * (BOX[1] - 14) / SIZE))
    columns = slice(int(side * (BOX[2] + 14) / SIZE), int(side * (BOX[3] - 14) / SIZE))

    def changes(video: list[Image]) -> float:
        lumas = [np.asarray(one[rows, columns].mean(2), np.float64) for one in video[4:]]
        return float(np.mean([(b - a).std() / np.sqrt(2) for a, b in pairwise(lumas)]))

    assert changes(images) == pytest.approx(3, rel=0.1)
    crop, inside = crop_at((side / 2, side / 2), side, 1), INSIDE.astype(np.float32)
    assert changes([paste(one, smooth, inside, crop, 0) for one in images]) < 0.5
    assert 0.75 * changes(images) < changes(out) < 1.05 * changes(images)


def test_the_same_frames_give_the_same_bytes() -> None:
    images, made = grainy_video(SIZE, 4, 3.0), picture(seed=2)
    a, b = (np.stack(blended(images, made)) for _ in range(2))
    assert np.array_equal(a, b)


def test_what_the_mask_hides_does_not_show_in_the_new_face() -> None:
    images, made = grainy_video(SIZE, 4, 3.0), picture(seed=2)
    core = cv2.erode(INSIDE.astype(np.uint8), np.ones((7, 7))) > 0
    others = [np.where(core[..., None], 255 - one, one) for one in images]
    deep = blend_mask(BOX, SIZE) == 1
    pairs = zip(blended(images, made), blended(others, made), strict=True)
    assert all(np.array_equal(a[deep], b[deep]) for a, b in pairs)


@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    centre=st.tuples(st.floats(-40, 130), st.floats(-40, 130)),
    side=st.floats(8, 300),
    strength=st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_not_a_bit_outside_the_mask_changes(
    size: tuple[int, int], centre: tuple[float, float], side: float, strength: float
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    crop = crop_at(centre, side, 1)
    alpha = np.float32(strength) * blend_mask(BOX, SIZE)
    before = image.copy()
    patch = Patch.of(image, picture(), alpha, crop, 0)
    grain = None if patch is None else np.full(patch.weight.shape, 50, np.float32)
    out = image if patch is None else patch.blend(image, grain)
    assert np.array_equal(image, before)
    edges = (np.array([BOX[0], BOX[1], BOX[2], BOX[3]]) / SIZE - 0.5) * side
    rows, columns = np.arange(size[0]) + 0.5 - centre[1], np.arange(size[1]) + 0.5 - centre[0]
    inside = ((rows > edges[0]) & (rows < edges[1]))[:, None] & (
        (columns > edges[2]) & (columns < edges[3])
    )
    assert int((out != image).any(2)[~inside].sum()) == 0


def zone_plate(reach: float) -> NDArray[np.float64]:
    """Rings that grow finer outwards, up to ``reach`` cycles a pixel at the edge."""
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    return np.asarray(127.5 + 120 * np.cos(np.pi * reach * (x * x + y * y) / (SIZE / 2)))


@pytest.mark.parametrize("side", [48, 64])
def test_shrinking_does_not_alias(side: int) -> None:
    """Rings too fine for the smaller picture turn grey, and do not come back as coarse ones."""
    face = np.repeat(np.rint(zone_plate(0.5))[..., None], 3, 2).astype(np.uint8)
    image, whole = np.full((side, side, 3), 127, np.uint8), np.ones((SIZE, SIZE), np.float32)
    crop = crop_at((side / 2, side / 2), side, 1)
    small = paste(image, face, whole, crop, 0)[..., 0].astype(float)
    distance = np.hypot(*(np.indices((side, side)) - (side - 1) / 2)) / (side / 2)
    held = side / SIZE  # so far out the smaller picture can hold the rings
    beyond = (distance > 1.4 * held) & (distance < 0.95)
    picked = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)[..., 0]
    naive = np.abs(picked[beyond] - 127.5).mean()
    assert np.abs(small[beyond] - 127.5).mean() < 0.3 * naive
    true = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA))[..., 0]
    coarse = distance < 0.5 * held
    assert np.corrcoef(small[coarse], true[coarse])[0, 1] > 0.98
