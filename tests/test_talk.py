"""Whole faces: how a head moves and blinks, and videos for which there is no footage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import face_points, write_dataset
from difftalker.data.dataset import ClipData
from difftalker.errors import AvatarError
from difftalker.face.landmarks import UPPER
from difftalker.models.motion import BLINKS_HZ, LIDS, SHAPE_S, HeadMotion, eye_opening

Floats = NDArray[np.float32]
FPS = 25.0
CLIP_FRAMES = 100
EVERY_FRAMES = 60
"""From one blink of the footage to the next."""


def moving(clips: int, *, blinks: bool = True) -> list[tuple[Floats, float]]:
    """Upper points of heads that sway, each way at its own pace, and blink every 2.4 s."""
    rng = np.random.default_rng(0)
    shut = np.zeros(CLIP_FRAMES)
    for at in range(30, CLIP_FRAMES, EVERY_FRAMES):
        shut = np.maximum(shut, 0.9 * np.exp(-(((np.arange(CLIP_FRAMES) - at) / 2.0) ** 2)))
    out = []
    for _ in range(clips):
        where = [0.01 * walk(rng, pace) for pace in (2.0, 6.0)]
        points = np.stack([face_points(shift=(x, y)) for x, y in zip(*where, strict=True)])
        if blinks:
            for upper, lower in LIDS:
                points[:, upper] += shut[:, None] * (points[:, lower] - points[:, upper])
        out.append((points[:, list(UPPER)], FPS))
    return out


def walk(rng: np.random.Generator, pace: float) -> NDArray[np.float64]:
    """White noise under (1 + t pace) exp(-t pace), of variance 1."""
    lags_s = np.arange(400) / FPS
    response = lags_s * np.exp(-pace * lags_s)
    pushed = np.convolve(rng.standard_normal(CLIP_FRAMES + 400), response)
    path: NDArray[np.float64] = pushed[400 : 400 + CLIP_FRAMES] / np.sqrt((response**2).sum())
    return path


@pytest.fixture(scope="module")
def motion() -> HeadMotion:
    fitted = HeadMotion()
    fitted.fit(moving(40))
    return fitted


def speed(points: Floats, fps: float) -> float:
    """Of the middle of the face over a fifth of a second, crop units in a second."""
    lag = round(0.2 * fps)
    middle = points.mean(1)
    return float(np.sqrt(((middle[lag:] - middle[:-lag]) ** 2).mean())) * fps / lag


def test_heads_move_as_far_and_as_fast_as_the_footage(motion: HeadMotion) -> None:
    seen = moving(40)
    points, made = np.concatenate([one for one, _ in seen]), motion.sample(15_000, FPS)
    assert made.shape == (15_000, len(UPPER), 2)
    np.testing.assert_allclose(made.mean((0, 1)), points.mean((0, 1)), atol=2e-3)
    np.testing.assert_allclose(made.mean(1).std(0), points.mean(1).std(0), rtol=0.2)
    speeds = [speed(one, FPS) for one, _ in seen]
    assert speed(made, FPS) == pytest.approx(np.sqrt(np.mean(np.square(speeds))), rel=0.15)


def test_ten_minutes_do_not_drift(motion: HeadMotion) -> None:
    made = motion.sample(15_000, FPS, seed=2).mean(1)
    first, last = made[:3000], made[-3000:]
    assert np.abs(first.mean(0) - last.mean(0)).max() < 0.5 * made.std(0).max()
    np.testing.assert_allclose(first.std(0), last.std(0), rtol=0.35)


def test_eyes_shut_and_open_again(motion: HeadMotion) -> None:
    opening = eye_opening(motion.sample(15_000, FPS))
    usual = np.median(opening)
    shut = opening < 0.5 * usual
    blinks = int((np.diff(shut.astype(int)) > 0).sum())
    assert opening.min() < 0.2 * usual
    assert usual == pytest.approx(eye_opening(moving(1)[0][0])[0], rel=0.05)
    # Of a clip's two blinks both lie within.
    assert blinks == pytest.approx(600 * 2 / (CLIP_FRAMES / FPS), rel=0.2)
    assert shut.mean() < 0.12


def test_footage_without_blinks_blinks_as_people_do() -> None:
    fitted = HeadMotion()
    fitted.fit(moving(6, blinks=False))
    opening = eye_opening(fitted.sample(15_000, FPS))
    blinks = int((np.diff((opening < 0.5 * np.median(opening)).astype(int)) > 0).sum())
    assert blinks == pytest.approx(600 * BLINKS_HZ, rel=0.25)
    assert opening.min() < 0.2 * np.median(opening)


def test_a_seed_means_the_same_bytes_whatever_the_piece(motion: HeadMotion) -> None:
    whole = motion.sample(500, FPS, seed=3)
    for piece in (1, 7, 500, 10_000):
        assert np.array_equal(np.concatenate([*motion.stream(500, FPS, 3, piece=piece)]), whole)
    assert np.array_equal(motion.sample(200, FPS, seed=3), whole[:200])
    assert not np.array_equal(motion.sample(500, FPS, seed=4), whole)
    assert motion.sample(0, FPS).shape == (0, len(UPPER), 2)


@pytest.mark.parametrize("fps", [10.0, 30_000 / 1001, 50.0])
def test_other_frame_rates_show_the_same_movement(motion: HeadMotion, fps: float) -> None:
    frames = round(60 * fps)
    made, known = motion.sample(frames, fps, seed=5), motion.sample(1501, FPS, seed=5)
    times_s = np.arange(frames) / fps
    seen = np.stack([np.interp(times_s, np.arange(1501) / FPS, one) for one in known.mean(1).T], 1)
    assert np.abs(made.mean(1) - seen).max() < 0.15 * known.mean(1).std(0).max()
    assert speed(made, fps) == pytest.approx(speed(known, FPS), rel=0.05)


def test_half_precision_moves_the_same(motion: HeadMotion) -> None:
    halved = HeadMotion()
    halved.load_state_dict({k: v.half() for k, v in motion.state_dict().items()})
    assert np.abs(halved.sample(500, FPS) - motion.sample(500, FPS)).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "value"), [("blinks_hz", 1e30), ("blinks_hz", -1.0), ("refractory_s", -1e9)]
)
def test_no_number_of_a_stranger_makes_it_endless(
    motion: HeadMotion, name: str, value: float
) -> None:
    strange = HeadMotion()
    strange.load_state_dict({**motion.state_dict(), name: torch.tensor(value)})
    assert np.isfinite(strange.sample(250, FPS)).all()


def test_numbers_that_are_none_are_refused(motion: HeadMotion) -> None:
    broken = HeadMotion()
    broken.load_state_dict({**motion.state_dict(), "pace": torch.full((8,), torch.nan)})
    with pytest.raises(AvatarError, match="not finite"):
        broken.sample(5, FPS)


def test_nothing_to_fit_to_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame"):
        HeadMotion().fit([])


def test_movement_is_seen_from_a_crop_that_stands_still(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", ["a"]) / "clips" / "a"
    arrays = dict(np.load(folder / "track.npz"))
    arrays["centre_px"][:, 0] += np.arange(26)  # of 120 pixels a side
    arrays["found"][10] = False
    np.savez(folder / "track.npz", **arrays, cuts=np.array([20]))
    spans = ClipData(folder).movement()
    assert [len(points) for points, _ in spans] == [10, 9, 6]
    assert all(fps == pytest.approx(FPS) for _, fps in spans)
    for (points, _), first in zip(spans, (0, 11, 20), strict=True):
        seen = arrays["points_crop"][first : first + len(points), list(UPPER)]
        moved = np.arange(len(points)) / 120
        np.testing.assert_allclose(
            points[..., 0] - seen[..., 0], (moved - moved.mean())[:, None] + np.zeros(37), atol=1e-5
        )
        np.testing.assert_allclose(points[..., 1], seen[..., 1], atol=1e-5)


def test_a_blink_neither_starts_nor_ends_shut(motion: HeadMotion) -> None:
    shape = motion.shape.numpy()
    assert shape[0] == 0
    assert shape[-1] == 0
    assert shape.argmax() == np.abs(SHAPE_S).argmin()
