"""Measures against scikit-image and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from difftalker import metrics
from difftalker.face.landmarks import BROWS, CONTOUR, JAW, LOWER, MOUTH, NOSE_BASE
from difftalker.face.lips import relative_opening

Image = NDArray[np.uint8]

RATE_HZ = 16_000
FRAMES = 50
TIMES_S = np.arange(FRAMES) / 25


def noisy(image: Image, amplitude: int, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def photograph(top: int = 0) -> Image:
    image: Image = data.astronaut()[top : top + 120, 150:300]  # type: ignore[no-untyped-call]
    return image


def reference_psnr(a: Image, b: Image) -> float:
    found: float = peak_signal_noise_ratio(a, b, data_range=255)  # type: ignore[no-untyped-call]
    return found


def reference_ssim(a: Image, b: Image) -> tuple[float, NDArray[np.float64]]:
    """Its mean, and the value of every place."""
    found: tuple[float, NDArray[np.float64]] = structural_similarity(  # type: ignore[no-untyped-call]
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
        full=True,
    )
    return found


def flat(level: int) -> Image:
    return np.full((120, 150, 3), level, np.uint8)


PAIRS = {
    "photograph and noise": (photograph(), noisy(photograph(), 12)),
    "two parts of a photograph": (photograph(), photograph(200)),
    "bright and flat, one apart": (flat(250), flat(251)),
    "black and white": (flat(0), flat(255)),
}
BOX = (slice(60, 110), slice(20, 140))


def box_mask() -> NDArray[np.bool_]:
    mask = np.zeros((120, 150), bool)
    mask[BOX] = True
    return mask


def faces(opening: NDArray[np.floating]) -> NDArray[np.float32]:
    """Faces (F, 68, 2) of scale 1 whose lips stand ``opening`` (F,) apart."""
    points = np.zeros((len(opening), 68, 2), np.float32)
    points[:, BROWS, 1] = -1
    points[:, JAW[16], 0] = 1.5
    points[:, (65, 66, 67), 1] = 0.5 + np.asarray(opening)[:, None]
    points[:, (61, 62, 63), 1] = 0.5
    points[:, (61, 67), 0], points[:, (63, 65), 0] = -0.1, 0.1
    assert not points[:, NOSE_BASE].any()
    return points


def talking(frames: int = FRAMES) -> NDArray[np.floating]:
    opening: NDArray[np.floating] = np.abs(np.sin(np.arange(frames) * 0.7)) * 0.3
    return opening


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_psnr_is_that_of_scikit_image(pair: tuple[Image, Image]) -> None:
    a, b = pair
    assert metrics.psnr(a, b) == pytest.approx(reference_psnr(a, b), abs=1e-6)
    within = reference_psnr(a[BOX], b[BOX])
    assert metrics.psnr(a, b, box_mask()) == pytest.approx(within, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_ssim_is_that_of_scikit_image(pair: tuple[Image, Image]) -> None:
    whole, places = reference_ssim(*pair)
    assert metrics.ssim(*pair) == pytest.approx(whole, abs=1e-6)
    assert metrics.ssim(*pair, box_mask()) == pytest.approx(places[BOX].mean(), abs=1e-6)


def test_the_border_of_a_mask_counts_only_where_the_ssim_window_fits() -> None:
    a, b = PAIRS["photograph and noise"]
    everywhere = np.ones((120, 150), bool)
    assert metrics.ssim(a, b, everywhere) == pytest.approx(metrics.ssim(a, b), abs=1e-12)


def test_videos_are_measured_frame_by_frame() -> None:
    a = np.stack([photograph(), photograph(200)])
    b = np.stack([noisy(photograph(), 12), noisy(photograph(200), 30)])
    each = [metrics.psnr(x, y) for x, y in zip(a, b, strict=True)]
    assert metrics.psnr(a, b) == pytest.approx(np.mean(each))
    masks = np.stack([box_mask(), ~box_mask()])
    each = [metrics.ssim(x, y, m) for x, y, m in zip(a, b, masks, strict=True)]
    assert metrics.ssim(a, b, masks) == pytest.approx(np.mean(each))
    assert metrics.ssim(a, b, box_mask()) != pytest.approx(np.mean(each))


def test_equal_pictures_are_infinitely_alike() -> None:
    assert metrics.psnr(photograph(), photograph()) == math.inf
    assert metrics.ssim(photograph(), photograph()) == 1


def test_landmark_error_by_hand() -> None:
    true = np.zeros((2, 68, 2), np.float32)
    found = true.copy()
    found[:, MOUTH[0]] = (3, 4)
    found[1, CONTOUR[0]] = (0, 2)
    found[:, 20] = 99  # an upper point: nothing is predicted there
    assert metrics.landmark_error(found, true, MOUTH) == pytest.approx(5 / len(MOUTH))
    assert metrics.landmark_error(found, true, CONTOUR) == pytest.approx(1 / len(CONTOUR))
    assert metrics.landmark_error(found, true) == pytest.approx((2 * 5 + 2) / 2 / len(LOWER))


def test_landmark_error_leaves_out_frames_without_a_face() -> None:
    true = np.zeros((3, 68, 2), np.float32)
    found = true + np.float32(1)
    true[1], found[2, 60] = np.nan, np.nan
    assert metrics.landmark_error(found, true) == pytest.approx(math.sqrt(2))
    assert math.isnan(metrics.landmark_error(found[1:], true[1:]))


def test_frame_units_divide_each_axis_by_its_own_side() -> None:
    true = np.zeros((1, 68, 2), np.float32)
    found = true + np.array([36, 28.8], np.float32)
    assert metrics.landmark_error_frame(found, true, (360, 288)) == pytest.approx(math.sqrt(0.02))
    wide = metrics.landmark_error_frame(found, true, (720, 288))
    assert wide == pytest.approx(math.hypot(0.05, 0.1))


def test_opening_does_not_depend_on_size_or_place() -> None:
    points = faces(np.array([0.0, 0.25]))
    assert relative_opening(points) == pytest.approx([0, 0.25])
    assert relative_opening(points * 90 + 50) == pytest.approx([0, 0.25], abs=1e-5)


def test_mouth_opening_correlation_follows_the_mouth() -> None:
    points = faces(talking())
    rng = np.random.default_rng(0)
    unrelated = faces(rng.uniform(0, 0.3, FRAMES))
    closing = faces(0.3 - talking())
    assert metrics.mouth_opening_correlation(points, TIMES_S, points, TIMES_S) == pytest.approx(1)
    assert metrics.mouth_opening_correlation(points, TIMES_S, closing, TIMES_S) < -0.99
    assert abs(metrics.mouth_opening_correlation(points, TIMES_S, unrelated, TIMES_S)) < 0.4


def test_mouths_are_compared_at_the_same_time_at_any_rate() -> None:
    slow, fast = np.arange(50) / 25, np.arange(160) / 100
    a, b = (faces(0.2 + 0.1 * np.sin(times * 9)) for times in (slow, fast))
    assert metrics.mouth_opening_correlation(a, slow, b, fast) > 0.999
    assert metrics.mouth_opening_correlation(a, slow, b, fast + 0.17) < 0.5


def test_correlation_leaves_out_gaps_and_knows_when_it_means_nothing() -> None:
    a = np.array([1.0, 2, np.nan, 4, 5])
    assert metrics.correlation(a, np.array([2.0, 4, 0, np.nan, 10])) == pytest.approx(1)
    assert math.isnan(metrics.correlation(a, np.full(5, 7.0)))
    assert math.isnan(metrics.correlation(a[:3], a[:3]))


def test_detail_energy_by_hand() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[10, 15] = 10  # answered by -4 in its place and by 1 in four others
    everywhere = np.ones((20, 30), bool)
    assert metrics.detail_energy(image, everywhere) == pytest.approx(20 * 100 / 600, rel=1e-5)
    elsewhere = everywhere.copy()
    elsewhere[8:13, 13:18] = False
    assert metrics.detail_energy(image, elsewhere) == 0
    ramp = np.repeat(np.arange(30, dtype=np.uint8)[None, :, None] * 8, 3, 2).repeat(20, 0)
    inner = np.zeros((20, 30), bool)
    inner[2:-2, 2:-2] = True
    assert metrics.detail_energy(ramp, inner) == pytest.approx(0, abs=1e-4)


def test_blur_takes_detail_and_noise_adds_it() -> None:
    image, mask = photograph(), box_mask()
    halves = (image.astype(int) + np.roll(image, 1, 1)) // 2
    true = metrics.detail_energy(image, mask)
    assert metrics.detail_energy(halves.astype(np.uint8), mask) < 0.7 * true
    assert metrics.detail_energy(noisy(image, 12), mask) > 1.3 * true


def test_frame_change_by_hand() -> None:
    before, after = flat(10), flat(10)
    after[BOX] = 14
    assert metrics.frame_change(after, before, box_mask()) == pytest.approx(4, rel=1e-5)
    assert metrics.frame_change(after, before, ~box_mask()) == 0
    green = flat(10)
    green[..., 1] += 10
    assert metrics.frame_change(green, before, box_mask()) == pytest.approx(5.87, rel=1e-4)


@pytest.mark.parametrize("fade_px", [1, 10])
def test_seam_step_by_hand(fade_px: int) -> None:
    y, x = np.mgrid[:128, :128]
    depth = np.minimum.reduce([y - 40 + 1, 112 - y, x - 24 + 1, 104 - x])
    weight = np.clip(depth / fade_px, 0, 1)
    image = np.repeat((100 + 50 * weight)[..., None], 3, 2).astype(np.uint8)
    assert metrics.seam_step(image, np.array([40, 112, 24, 104])) == pytest.approx(50, abs=0.1)
    assert metrics.seam_step(flat(90), np.array([40, 112, 24, 104])) == pytest.approx(0, abs=1e-4)


def test_a_seam_is_looked_for_on_edges_within_the_picture() -> None:
    image = flat(100)
    image[40:, 24:] = 150
    box = np.array([40, 120, 24, 150])  # its bottom and right edge lie on the border
    assert metrics.seam_step(image, box) == pytest.approx(50, abs=0.1)
    assert math.isnan(metrics.seam_step(image, np.array([0, 120, 0, 150])))
    assert math.isnan(metrics.seam_step(image, np.array([40, 56, 24, 40])))


def test_a_hull_holds_the_pixels_whose_centres_it_holds() -> None:
    square = np.array([[4, 6], [20, 6], [20, 18], [4, 18], [10, 10]], np.float32)
    mask = np.zeros((32, 32), bool)
    mask[6:18, 4:20] = True
    assert np.array_equal(metrics.hull_mask(square, 32), mask)
    assert np.array_equal(metrics.hull_mask(square + 0.4, 32), mask)  # no centre is passed
    triangle = np.array([[0, 0], [8, 0], [0, 8]], np.float32)
    below = np.add.outer(np.arange(16), np.arange(16)) + 1 <= 8
    assert np.array_equal(metrics.hull_mask(triangle, 16), below)
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    disc = 60 + 40 * np.stack([np.cos(turn), np.sin(turn)], 1)
    assert metrics.hull_mask(disc, 128).sum() == pytest.approx(np.pi * 40**2, rel=0.01)
    disc[3] = np.nan
    assert not metrics.hull_mask(disc, 128).any()


def test_silence_leak_by_hand() -> None:
    silent = TIMES_S >= 1
    still = np.full(FRAMES, 0.1)
    talks, leaks = still.copy(), still.copy()
    talks[:25] = talking(25)
    leaks[30:40] += np.arange(10) * 0.02  # half a face scale a second
    leaks[40:] = leaks[39]
    assert metrics.silence_leak(faces(still), TIMES_S, silent) == 0
    assert metrics.silence_leak(faces(talks), TIMES_S, TIMES_S >= 1.08) == 0
    # By differences across two frames the ends of the movement have half its speed.
    assert metrics.silence_leak(faces(leaks), TIMES_S, silent) == pytest.approx(8 / 25)
    assert math.isnan(metrics.silence_leak(faces(leaks), TIMES_S, np.zeros(FRAMES, bool)))


def test_silence_leak_leaves_out_frames_without_a_face() -> None:
    points = faces(np.arange(FRAMES) * 0.02)
    points[30:] = np.nan
    assert metrics.silence_leak(points, TIMES_S, TIMES_S >= 1) == 1
    assert math.isnan(metrics.silence_leak(points, TIMES_S, TIMES_S >= 1.5))


def test_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    found = metrics.interval(values, seed=3)
    half = 1.96 * np.std(values) / math.sqrt(400)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), abs=0.1 * half
    )
    assert found.n == 400
    assert found == metrics.interval(values, seed=3)
    assert found != metrics.interval(values, seed=4)


def test_interval_of_few_values() -> None:
    one = metrics.interval([2.0, math.nan, math.inf])
    assert (one.mean, one.n) == (2, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = metrics.interval([])
    assert math.isnan(none.mean)
    assert none.n == 0


def test_ratio_interval_draws_pairs() -> None:
    under = np.array([1.0, 10, 100])
    found = metrics.ratio_interval(under * 1.2, under, less=1)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert metrics.ratio_interval([1.0, 5], [1.0, 2]).mean == pytest.approx(2)
