"""The light renderer: what it sees, what it leaves alone, and when it is chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import config as configs
from difftalker.config import ModelConfig
from difftalker.dubbing import engine
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.networks import build
from difftalker.errors import UsageError
from difftalker.face.crop import boxes_window
from difftalker.face.landmarks import LOWER, MOUTH, UPPER
from difftalker.store import avatars
from difftalker.store.calibration import Calibration
from difftalker.synthesis.renderer import LightRenderer
from helpers import face_points

DEBUG = configs.debug().model
MODEL = dataclasses.replace(
    DEBUG, size_px=128, synthesis=dataclasses.replace(DEBUG.synthesis, guidance="both")
)
SIZE = MODEL.size_px
BOXES = np.array([[64, 104, 32, 88], [64, 104, 40, 96], [72, 112, 32, 88]], np.int32)
LOW = np.array([[64, 128, 8, 120], [64, 128, 8, 120], [72, 128, 8, 112]], np.int32)
POINTS = np.stack([face_points(o) for o in (0.03, 0.06, 0.09)])


def avatar_of(model: ModelConfig, calibration: Calibration | None = None) -> Avatar:
    """An avatar whose light network uses all that it is given."""
    torch.manual_seed(0)
    networks = build(model, parts=("light",))
    assert networks.light is not None
    with torch.no_grad():
        for parameter in networks.light.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return Avatar("light", model, networks, calibration=calibration or Calibration())


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return avatar_of(MODEL)


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    shape = (3, MODEL.completion.window, MODEL.completion.feature_dim)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def renderer(avatar: Avatar) -> LightRenderer:
    made = avatar.renderer(avatar.rendering("light"))
    assert isinstance(made, LightRenderer)
    return made


def inside(boxes: NDArray[np.int32] = BOXES) -> NDArray[np.bool_]:
    place = np.zeros((3, SIZE, SIZE, 1), bool)
    for one, (top, bottom, left, right) in zip(place, boxes, strict=True):
        one[top:bottom, left:right] = True
    return place


def test_the_lower_face_of_the_input_never_reaches_the_network(
    avatar: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    made = renderer(avatar).render(crops, BOXES, POINTS, windows)
    for lower in (np.zeros_like(crops), crops[::-1]):
        filled = np.where(inside(), lower, crops)
        assert np.array_equal(renderer(avatar).render(filled, BOXES, POINTS, windows), made)


@pytest.fixture(scope="module")
def measured() -> Avatar:
    """An avatar that knows how far jaws come."""
    known = avatar_of(MODEL)
    assert known.networks.light is not None
    faces = torch.from_numpy(POINTS)
    known.networks.light.fit_reach(faces, faces[:, list(UPPER)])
    return known


def hidden_in(measured: Avatar) -> NDArray[np.bool_]:
    """Where crops with these boxes and points are masked."""
    assert measured.networks.light is not None
    upper = torch.from_numpy(POINTS[:, list(UPPER)])
    mask, _ = measured.networks.light.hidden(torch.from_numpy(LOW), upper, SIZE)
    return mask[:, 0, :, :, None].numpy() > 0


def test_of_the_box_only_what_jaws_reach_is_hidden(
    measured: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    hidden = hidden_in(measured)
    assert (hidden <= inside(LOW)).all()
    assert 0.2 < hidden.sum() / inside(LOW).sum() < 0.95
    for place, points in zip(hidden, POINTS, strict=True):
        x, y = np.floor(points[list(MOUTH)] * SIZE).astype(int).T
        assert place[y, x].all()
    made = renderer(measured).render(crops, LOW, POINTS, windows)
    shown = inside(LOW) & ~hidden
    gap = np.abs(made.astype(int) - crops)[np.broadcast_to(shown, made.shape)]
    assert np.median(gap) <= 1
    deep = hidden_deep(measured)
    for lower in (np.zeros_like(crops), crops[::-1]):
        filled = np.where(deep, lower, crops)
        assert np.array_equal(renderer(measured).render(filled, LOW, POINTS, windows), made)
    other = np.where(shown, 255 - crops, crops)
    again = renderer(measured).render(other, LOW, POINTS, windows)
    assert (again != made)[np.broadcast_to(deep, made.shape)].mean() > 0.1


def hidden_deep(measured: Avatar) -> NDArray[np.bool_]:
    """Where nothing is left of the crops: within the margin of the mask they fade out."""
    black = renderer(measured).hide(np.full((3, SIZE, SIZE, 3), 255, np.uint8), LOW, POINTS)
    return np.asarray(black[..., :1] == 0)


def test_a_picture_does_not_depend_on_what_is_blackened(
    measured: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    deep = hidden_deep(measured)
    assert (deep <= hidden_in(measured)).all()
    assert deep.sum() > 0.5 * hidden_in(measured).sum()
    made = renderer(measured)
    black = made.hide(crops, LOW, POINTS)
    assert np.array_equal(
        made.render(black, LOW, POINTS, windows), made.render(crops, LOW, POINTS, windows)
    )


def test_what_was_hidden_before_decides_nothing(
    measured: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    fresh, used = renderer(measured), renderer(measured)
    used.hide(crops, BOXES, POINTS)
    assert np.array_equal(
        used.render(crops, LOW, POINTS, windows), fresh.render(crops, LOW, POINTS, windows)
    )


def test_a_box_that_is_the_whole_crop_is_hidden_whole(measured: Avatar) -> None:
    assert measured.networks.light is not None
    box, upper = torch.tensor([[0, SIZE, 0, SIZE]]), torch.from_numpy(POINTS[:1, list(UPPER)])
    mask, share = measured.networks.light.hidden(box, upper, SIZE)
    assert mask.min() == share.min() == 1


def test_upper_face_landmarks_and_speech_do(
    avatar: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    made = renderer(avatar).render(crops, BOXES, POINTS, windows)
    moved = POINTS.copy()
    moved[:, list(LOWER), 1] += 0.05
    other_upper = np.where(inside(), crops, 255 - crops)
    for others in (
        renderer(avatar).render(other_upper, BOXES, POINTS, windows),
        renderer(avatar).render(crops, BOXES, moved, windows),
        renderer(avatar).render(crops, BOXES, POINTS, windows[::-1].copy()),
    ):
        changed = others != made
        assert changed[np.broadcast_to(inside(), made.shape)].mean() > 0.2


def test_zeros_are_no_speech(avatar: Avatar, crops: NDArray[np.uint8]) -> None:
    shape = (3, MODEL.completion.window, MODEL.completion.feature_dim)
    nothing = renderer(avatar).render(crops, BOXES, POINTS, np.zeros(shape, np.float32))
    other = renderer(avatar).render(crops, BOXES, POINTS, np.ones(shape, np.float32))
    # A layer norm without weights takes constants for zeros.
    assert np.array_equal(nothing, other)


def test_far_from_the_boxes_crops_stay_as_they_are(
    avatar: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    made = renderer(avatar).render(crops, BOXES, POINTS, windows)
    changed = (made != crops).any((0, 3))
    rows, columns = boxes_window(BOXES, SIZE, 32, 16)
    assert changed[rows, columns].mean() > 0.9
    changed[rows, columns] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([[64, 104, 32, 88]], (slice(32, 128), slice(16, 112))),
        ([[64, 128, 0, 128]], (slice(32, 128), slice(0, 128))),
        ([[0, 8, 120, 128]], (slice(0, 32), slice(96, 128))),
    ],
)
def test_windows_hold_the_boxes_and_their_margin(
    boxes: list[list[int]], wanted: tuple[slice, slice]
) -> None:
    found = boxes_window(np.array(boxes, np.int32), 128, 32, 16)
    for place, (low, high), expected in zip(
        found, (boxes[0][:2], boxes[0][2:]), wanted, strict=True
    ):
        assert (place.stop - place.start) % 32 == 0
        assert place.start % 8 == 0
        assert 0 <= place.start <= max(0, low - 16)
        assert min(128, high + 16) <= place.stop <= 128
        assert (place.start, place.stop) == (expected.start, expected.stop)


def test_a_part_is_generated_as_in_the_whole(
    avatar: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32]
) -> None:
    """Frames that are rendered together share a window; it must not matter which they are."""
    together = renderer(avatar).render(crops, BOXES, POINTS, windows)
    alone = renderer(avatar).render(crops[:1], BOXES[:1], POINTS[:1], windows[:1])
    place = inside()[0, :, :, 0]
    gap = np.abs(together[0].astype(int) - alone[0])[place]
    assert np.quantile(gap, 0.95) <= 8


def test_detail_and_openings_are_those_of_the_light_renderer(
    crops: NDArray[np.uint8], windows: NDArray[np.float32], avatar: Avatar
) -> None:
    plain = renderer(avatar).render(crops, BOXES, POINTS, windows)
    for own in (Calibration(light_detail=1.0), Calibration(light_openings=(0.02,) * 8)):
        made = renderer(avatar_of(MODEL, own)).render(crops, BOXES, POINTS, windows)
        assert not np.array_equal(made, plain)
    for of_diffusion in (Calibration(detail=1.0), Calibration(openings=(0.02,) * 8)):
        made = renderer(avatar_of(MODEL, of_diffusion)).render(crops, BOXES, POINTS, windows)
        assert np.array_equal(made, plain)


def test_a_renderer_is_chosen_by_machine_and_options(
    avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fast, wanted in ((True, "diffusion"), (False, "light")):
        monkeypatch.setattr(engine, "has_fast_bfloat16", lambda device, fast=fast: fast)
        assert avatar.rendering().renderer == wanted
        assert avatar.rendering("light").renderer == "light"
        assert avatar.rendering("diffusion").renderer == "diffusion"
        assert avatar.rendering(steps=4).renderer == "diffusion"
        without = Avatar("plain", MODEL, build(MODEL))
        assert without.rendering().renderer == "diffusion"
        with pytest.raises(UsageError, match=r"no light renderer.*--stage light"):
            without.rendering("light")
    with pytest.raises(UsageError, match="one pass"):
        avatar.rendering("light", steps=4)
    with pytest.raises(UsageError, match="'cubist'"):
        avatar.rendering("cubist")


def test_an_avatar_keeps_its_light_network_or_does_without(
    avatar: Avatar, crops: NDArray[np.uint8], windows: NDArray[np.float32], tmp_path: Path
) -> None:
    for name, networks in (("with", avatar.networks), ("without", build(MODEL))):
        avatars.write(
            tmp_path / name,
            name=name,
            config=MODEL,
            architecture=networks.architecture(),
            weights=networks.state(),
            facts={},
            card="# card",
        )
        assert (tmp_path / name / "light.safetensors").is_file() == (name == "with")
    kept, other = load(tmp_path / "with"), load(tmp_path / "without")
    assert other.networks.light is None
    made, again = (renderer(a).render(crops, BOXES, POINTS, windows) for a in (avatar, kept))
    # Weights are kept in half precision.
    assert np.abs(made.astype(int) - again).mean() < 2
