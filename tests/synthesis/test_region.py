"""Diffusion by region: the equations on numbers worked by hand, the samplers with a perfect net."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from difftalker.errors import UsageError
from difftalker.face.landmarks import JAW, UPPER
from difftalker.synthesis.region import (
    MARGIN,
    add_noise,
    add_noise_by_region,
    box_mask,
    keep_upper,
    reach_depth,
    reach_of,
    region_loss,
    shown_share,
    target,
)
from difftalker.synthesis.sampling import alpha_bars, sample, scheduler, timesteps_of
from helpers import face_points

# abar = 0.36 makes both roots whole: sqrt(abar) = 0.6, sqrt(1 - abar) = 0.8.
BAR = torch.tensor([0.36])
CLEAN, NOISE = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 5.0)
NOISY = 0.6 * 2 + 0.8 * 5
LOWER = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])

SAMPLERS = ("ddpm", "ddim", "dpm++")
PREDICTIONS = ("epsilon", "v_prediction")
LAST_BAR = {"epsilon": 0.0046602, "v_prediction": 0.0}
"""abar at the last step, 999."""


def plane(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)[None, None]


def test_eq_2_by_hand() -> None:
    torch.testing.assert_close(add_noise(CLEAN, NOISE, BAR), plane([[NOISY] * 2] * 2))


def test_eq_2_takes_one_noise_level_a_frame() -> None:
    bars = torch.tensor([1.0, 0.36, 0.0])
    noisy = add_noise(CLEAN.expand(3, -1, -1, -1), NOISE.expand(3, -1, -1, -1), bars)
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([2.0, NOISY, 5.0]))


def test_eq_4_by_hand() -> None:
    noisy = add_noise_by_region(CLEAN, NOISE, BAR, LOWER)
    torch.testing.assert_close(noisy, plane([[2.0, 2.0], [NOISY, NOISY]]))


def test_what_the_network_should_say_by_hand() -> None:
    torch.testing.assert_close(target(CLEAN, NOISE, BAR, "epsilon"), NOISE)
    v = 0.6 * 5 - 0.8 * 2
    torch.testing.assert_close(target(CLEAN, NOISE, BAR, "v_prediction"), plane([[v] * 2] * 2))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_eq_6_finds_the_clean_latents_in_one_step_by_hand(sampler: str, kind: str) -> None:
    said, bar = 0.5, LAST_BAR[kind]
    made = sample(
        lambda z, _: torch.full_like(z, said),
        CLEAN,
        LOWER,
        NOISE,
        sampler=sampler,
        steps=1,
        prediction=kind,
    )
    # z_T is all noise, 5; the upper face stays as it is known, 2.
    if kind == "epsilon":
        found = (5 - math.sqrt(1 - bar) * said) / math.sqrt(bar)
    else:
        found = math.sqrt(bar) * 5 - math.sqrt(1 - bar) * said
    # DPM-Solver++ takes 2^-12 of signal where the schedule has none.
    torch.testing.assert_close(made, plane([[2.0, 2.0], [found, found]]), atol=2e-3, rtol=2e-5)


def test_eq_6_goes_on_to_the_next_step_by_hand() -> None:
    """DDIM (Song et al., 2021, Eq. 12, eta = 0), two steps: 999 -> 499 -> clean."""
    said = {999: 0.5, 499: -1.5}
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, steps: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.full_like(noisy, said[int(steps[0])])

    made = sample(denoise, CLEAN, LOWER, NOISE, sampler="ddim", steps=2, prediction="epsilon")
    first, second = (float(alpha_bars("epsilon")[step]) for step in (999, 499))
    found = (5 - math.sqrt(1 - first) * 0.5) / math.sqrt(first)
    between = math.sqrt(second) * found + math.sqrt(1 - second) * 0.5
    last = (between + math.sqrt(1 - second) * 1.5) / math.sqrt(second)
    # After each step the upper face is set back: the network sees it clean, whatever it said of it.
    for found_at, lower in zip([*seen, made], (5.0, between, last), strict=True):
        torch.testing.assert_close(found_at, plane([[2.0, 2.0], [lower, lower]]))


def test_eq_5_by_hand() -> None:
    wanted = torch.zeros(1, 2, 2, 2)
    predicted = torch.zeros(1, 2, 2, 2)
    predicted[0, 0, 1] = torch.tensor([1.0, 3.0])
    predicted[0, 1, 1] = torch.tensor([2.0, 0.0])
    predicted[0, :, 0] = 100.0  # the upper face does not count
    # Squares 1, 9, 4, 0 over the two lower places of two channels.
    assert region_loss(predicted, wanted, LOWER).item() == pytest.approx(14 / 4)


def test_eq_5_weighs_every_lower_place_of_a_batch_alike() -> None:
    mask = torch.cat([LOWER, torch.zeros_like(LOWER)])
    predicted = torch.full((2, 1, 2, 2), 3.0)
    assert region_loss(predicted, torch.zeros_like(predicted), mask).item() == pytest.approx(9)
    assert region_loss(predicted, torch.zeros_like(predicted), 0 * mask).item() == 0


def test_eq_5_with_places_that_weigh_more_by_hand() -> None:
    weight = plane([[0, 0], [1.0, 3.0]])
    predicted = plane([[9.0, 9.0], [1.0, 2.0]])
    assert region_loss(predicted, torch.zeros_like(predicted), weight).item() == (1 + 3 * 4) / 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_is_asked_at_the_steps_that_are_named(sampler: str) -> None:
    asked: list[int] = []

    def denoise(latents: Tensor, steps: Tensor) -> Tensor:
        asked.append(int(steps[0]))
        return torch.zeros_like(latents)

    clean = torch.zeros(1, 1, 2, 2)
    sample(denoise, clean, LOWER, clean, sampler=sampler, steps=3, prediction="v_prediction")
    assert timesteps_of(sampler, 3, "v_prediction").tolist() == asked == [999, 666, 332]


def test_eq_5_has_no_gradient_above() -> None:
    predicted = torch.ones(1, 1, 2, 2, requires_grad=True)
    region_loss(predicted, torch.zeros(1, 1, 2, 2), LOWER).backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, plane([[0, 0], [1.0, 1.0]]))


def test_keep_upper_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    sampled, clean = (torch.randn(2, 3, 2, 2, generator=generator) for _ in range(2))
    sampled[0, 0, 0, 0] = torch.nan  # not even what is not a number may leak
    kept = keep_upper(sampled, clean, LOWER)
    assert torch.equal(kept[:, :, 0], clean[:, :, 0])
    assert torch.equal(kept[:, :, 1], sampled[:, :, 1])


def test_box_mask_at_both_scales() -> None:
    boxes = torch.tensor([[16, 32, 8, 24], [0, 0, 0, 0], [0, 32, 0, 32]])
    latents, pixels = box_mask(boxes, 4, 8), box_mask(boxes, 32)
    wanted = torch.zeros(4, 4)
    wanted[2:4, 1:3] = 1
    assert torch.equal(latents[0, 0], wanted)
    assert latents.shape == (3, 1, 4, 4)
    assert latents[1].sum() == 0
    assert latents[2].sum() == 16
    # A latent is masked where all of its 8 x 8 pixels are, and only there.
    assert torch.equal(pixels, latents.repeat_interleave(8, 2).repeat_interleave(8, 3))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_noise_levels_fall(kind: str) -> None:
    bars = alpha_bars(kind)
    assert bars.shape == (1000,)
    assert (bars.diff() < 0).all()
    assert bars[0] == pytest.approx(1 - 0.00085, abs=1e-5)
    # v-prediction: nothing is left of the face at the end; epsilon: Stable Diffusion's schedule.
    assert bars[-1].item() == pytest.approx(0.0 if kind == "v_prediction" else 0.00466, abs=1e-5)


def test_the_last_step_is_sampled_first() -> None:
    for name in SAMPLERS:
        solver = scheduler(name, "v_prediction")
        solver.set_timesteps(4)
        assert solver.timesteps.tolist() == [999, 749, 499, 249]


def test_no_such_sampler() -> None:
    with pytest.raises(UsageError, match=r"'euler'.*ddpm or ddim or dpm\+\+"):
        scheduler("euler", "epsilon")


def oracle(clean: Tensor, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A network that knows the clean latents."""
    bars = alpha_bars(kind)

    def denoise(noisy: Tensor, steps: Tensor) -> Tensor:
        bar = bars[steps]
        a = bar[:, None, None, None]
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return target(clean, noise, bar, kind)

    return denoise


def lower_half(frames: int, size: int = 8) -> Tensor:
    return box_mask(torch.tensor([[size // 2, size, 1, size - 1]]).expand(frames, -1), size)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_a_perfect_network_is_sampled_perfectly(sampler: str, kind: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, known, noise = torch.randn(3, 2, 4, 8, 8, generator=generator)
    mask = lower_half(2)
    made = sample(
        oracle(clean, kind), known, mask, noise, sampler=sampler, steps=steps, prediction=kind
    )
    inside = mask.bool().expand_as(made)
    # The solver starts from 2^-12 of signal where the schedule has none.
    torch.testing.assert_close(made[inside], clean[inside], atol=1.5e-3, rtol=0)
    assert torch.equal(made[~inside], known[~inside])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_upper_face_is_clean_at_every_step(sampler: str) -> None:
    known, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = lower_half(1)
    outside = ~mask.bool().expand_as(known)
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, steps: Tensor) -> Tensor:
        assert steps.shape == (1,)
        seen.append(noisy)
        return noisy * 0.3

    sample(denoise, known, mask, noise, sampler=sampler, steps=5, prediction="v_prediction")
    assert len(seen) == 5
    assert all(torch.equal(noisy[outside], known[outside]) for noisy in seen)
    assert torch.equal(seen[0][~outside], noise[~outside])  # the first step sees noise alone


def crude(noisy: Tensor, steps: Tensor) -> Tensor:
    """A network whose answers leave some of the noise in."""
    return 0.3 * noisy + 1e-4 * steps[:, None, None, None]


def crude_sample(sampler: str, *, frames: int, seed: int) -> Tensor:
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return sample(
        crude,
        torch.zeros(frames, 4, 8, 8),
        torch.ones(frames, 1, 8, 8),
        noise.expand(frames, -1, -1, -1),
        sampler=sampler,
        steps=4,
        prediction="v_prediction",
        seed=seed,
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_means_the_same_each_time(sampler: str) -> None:
    made = crude_sample(sampler, frames=2, seed=3)
    assert torch.equal(made, crude_sample(sampler, frames=2, seed=3))
    assert not torch.equal(made, crude_sample(sampler, frames=2, seed=4))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_frames_share_one_noise(sampler: str) -> None:
    made = crude_sample(sampler, frames=3, seed=0)
    assert torch.equal(made, made[:1].expand_as(made))
    assert torch.equal(made[:1], crude_sample(sampler, frames=1, seed=0))  # whatever the batch


def test_ddpm_draws_noise_at_every_step_from_the_seed() -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = (
        sample(
            crude,
            torch.zeros(1, 4, 8, 8),
            torch.ones(1, 1, 8, 8),
            noise,
            sampler="ddpm",
            steps=4,
            prediction="epsilon",
            seed=seed,
        )
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)


def test_the_reach_of_faces_holds_their_jaws_with_a_margin() -> None:
    faces = 0.75 * torch.from_numpy(np.stack([face_points(o) for o in (0.0, 0.1)]))
    upper = faces[:, list(UPPER)]
    reach = reach_of(faces, upper)
    depth = reach_depth(reach, upper[:1], 64)[0, 0]
    for x, y in faces[:, list(JAW)].flatten(0, 1).tolist():
        assert depth[int(y * 64), int(x * 64)] > MARGIN - 1.5 / 64
    below = faces[:, list(JAW), 1].max().item() + 2 * MARGIN
    assert depth[int(below * 64), int(upper[0, :, 0].mean() * 64)] < 0
    moved = reach_depth(reach, upper[:1] + 0.25, 64)[0, 0]
    assert torch.allclose(moved[16:, 16:], depth[:-16, :-16], atol=1e-5)


def test_the_share_of_a_new_picture_fades_within_the_margin() -> None:
    depth = torch.tensor([-1.0, 0.0, MARGIN / 2, MARGIN, 1.0])
    shown = shown_share(depth.expand(1, 1, 5, 5), 5)[0, 0, 0]
    assert torch.allclose(shown, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
