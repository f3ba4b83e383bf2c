"""The networks at debug size, and a model in the diffusers layout through the sd15 preset."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.config import CompletionConfig, ModelConfig, PriorConfig, SynthesisConfig
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.networks import Networks, build
from difftalker.errors import AssetError, AvatarError
from difftalker.face.draw import CHANNELS, landmark_maps
from difftalker.face.landmarks import (
    ABOVE_GAP,
    BELOW_GAP,
    BROWS,
    CONTOUR,
    EYES,
    INNER_LIPS,
    JAW,
    LOWER,
    MEDIAPIPE_TO_IBUG,
    MOUTH,
    NOSE,
    OUTER_LIPS,
    POINTS,
    UPPER,
    from_mediapipe,
    mouth_opening,
)
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.opening_net import OpeningNet
from difftalker.synthesis.autoencoder import (
    Autoencoder,
    from_layout,
    mask_out,
    to_images,
    to_pixels,
)
from difftalker.synthesis.cross_attention import WindowCrossAttention, from_windows, to_windows
from difftalker.synthesis.decoding import decode_part
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior, UNetEncoder
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.sampling import sample
from difftalker.training.export import save_avatar
from difftalker.training.run import Run
from difftalker.training.sources import TrainOptions

DEBUG = configs.debug().model


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(net: nn.Module, seed: int = 0, spread: float = 0.2) -> Any:
    """The network with weights such that everything matters: none is zero any more."""
    generator = rng(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return net.eval()


# Landmarks


def test_the_groups_are_the_68_points() -> None:
    assert sorted((*JAW, *BROWS, *NOSE, *EYES, *OUTER_LIPS, *INNER_LIPS)) == list(range(POINTS))
    assert sorted((*UPPER, *LOWER)) == list(range(POINTS))
    assert (*CONTOUR, *MOUTH) == LOWER
    assert tuple(range(3, 14)) == CONTOUR
    assert (len(UPPER), len(CONTOUR), len(MOUTH)) == (37, 11, 20)


def test_the_map_from_mediapipe_names_68_vertices() -> None:
    assert len(MEDIAPIPE_TO_IBUG) == len(set(MEDIAPIPE_TO_IBUG)) == POINTS
    assert all(0 <= vertex < 478 for vertex in MEDIAPIPE_TO_IBUG)
    mesh = np.random.default_rng(0).random((5, 478, 2))
    points = from_mediapipe(mesh)
    assert points.shape == (5, POINTS, 2)
    assert np.array_equal(points[:, 8], mesh[:, 152])  # the chin
    assert np.array_equal(points[:, 62], mesh[:, 13])  # the middle of the upper lip's inside


def test_mouth_opening_by_hand() -> None:
    points = np.zeros((2, POINTS, 2))
    points[0, [65, 66, 67], 1] = (0.3, 0.6, 0.3)
    np.testing.assert_allclose(mouth_opening(points), [0.4, 0])


# Completion


def completion(**changes: object) -> CompletionNet:
    config = dataclasses.replace(DEBUG.completion, **changes)  # type: ignore[arg-type]
    torch.manual_seed(0)
    net: CompletionNet = stirred(CompletionNet(config))
    net.fit([(torch.rand(5, POINTS, 2, generator=rng(1)), heard(5)[1][0])])
    return net


def paper() -> CompletionNet:
    return completion(**dataclasses.asdict(configs.paper_completion(DEBUG.completion)))


def heard(frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Upper points (1, F, 37, 2) and windows (1, F, W, C)."""
    config = DEBUG.completion
    upper = torch.rand(1, frames, len(UPPER), 2, generator=rng(seed))
    size = (1, frames, config.window, config.feature_dim)
    return upper, torch.randn(size, generator=rng(seed + 1))


@pytest.mark.parametrize("net", [completion(), paper()], ids=["default", "paper"])
def test_completion_has_its_shapes_and_keeps_the_upper_points(net: CompletionNet) -> None:
    upper, windows = heard(6)
    out = net(upper, windows)
    assert out.points.shape == (1, 6, POINTS, 2)
    assert out.base_contour.shape == (1, 6, 11, 2)
    assert out.base_mouth.shape == (1, 6, 20, 2)
    assert torch.equal(out.points[:, :, list(UPPER)], upper)
    assert torch.isfinite(out.points).all()


def test_an_untrained_completion_without_least_squares_is_the_mean_face() -> None:
    net = CompletionNet(dataclasses.replace(DEBUG.completion, least_squares=False)).eval()
    faces = torch.rand(5, POINTS, 2, generator=rng())
    upper, windows = heard(3)
    net.fit([(faces, heard(5)[1][0])])
    lower = net(upper, windows).points[:, :, list(LOWER)] - upper.mean(2, keepdim=True)
    wanted = (faces[:, list(LOWER)] - faces[:, list(UPPER)].mean(1, keepdim=True)).mean(0)
    torch.testing.assert_close(lower, wanted.expand_as(lower), atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"audio_moves_contour": False}, {"audio_offsets": False}])
def test_seen_from_the_mean_face_inputs_are_centred_and_of_size_one(
    changes: dict[str, bool],
) -> None:
    config = dataclasses.replace(DEBUG.completion, least_squares=False, **changes)  # type: ignore[arg-type]
    torch.manual_seed(0)
    net = CompletionNet(config).eval()
    faces = (
        torch.rand(1, POINTS, 2, generator=rng())
        + torch.randn(200, POINTS, 2, generator=rng(1)) * 0.02
    )
    windows = heard(200)[1]
    net.fit([(faces, windows[0])])
    seen: dict[str, Tensor] = {}
    for name in {"lf_trans", "bm_trans"} | ({"am_trans"} & dict(net.named_children()).keys()):

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] = inputs[0]

        getattr(net, name).coordinates.register_forward_pre_hook(keep)
    net(faces[None, :, list(UPPER)], windows)
    assert all(points.mean((0, 1)).abs().max() < 1e-4 for points in seen.values())
    assert 0.3 < seen["lf_trans"].std() < 3
    # What an untrained net predicts is the mean face itself.
    assert seen["bm_trans"][:, :, len(UPPER) :].abs().max() < 1e-4
    assert changes.get("audio_offsets", True) == ("am_trans" in seen)


def spoken(clips: int, frames: int, *, told: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Clips whose mouth opens with the first feature, which the brows tell ``told`` as well."""
    config, rest = DEBUG.completion, torch.rand(POINTS, 2, generator=rng(9)) * 0.4
    rest[list(BELOW_GAP)] = rest[list(ABOVE_GAP)] + torch.tensor([0.0, 0.1])
    made = []
    for seed in range(clips):
        windows = torch.randn(frames, config.window, config.feature_dim, generator=rng(seed))
        # Of the size that the networks hear it at.
        loud = nn.functional.layer_norm(windows, windows.shape[-1:])[:, ::2, 0].mean(1)
        points = rest + torch.randn(frames, POINTS, 2, generator=rng(seed + 99)) * 1e-4
        points[:, list(BELOW_GAP), 1] += 0.1 * loud[:, None]
        points[:, list(UPPER), 0] += told * loud[:, None] * torch.linspace(-1, 1, len(UPPER))
        made.append((points, windows))
    return made


def fitted(clips: list[tuple[Tensor, Tensor]]) -> CompletionNet:
    net = CompletionNet(DEBUG.completion).eval()
    net.fit(clips)
    return net


def test_an_untrained_completion_is_the_least_squares_fit() -> None:
    *known, (points, windows) = spoken(9, 400)
    with torch.no_grad():
        out = fitted(known)(points[None, :, list(UPPER)], windows[None]).points[0]
    wrong = (out - points)[:, list(LOWER)].norm(dim=-1)
    spread = (points - points.mean(0))[:, list(LOWER)].norm(dim=-1)
    assert wrong[:, -8:].mean() < 0.3 * spread[:, -8:].mean()


def test_the_lips_open_with_the_speech_and_not_with_what_the_upper_face_tells_of_it() -> None:
    *known, (points, _), (said, windows) = spoken(9, 400, told=0.05)
    with torch.no_grad():
        out = fitted(known)(points[None, :, list(UPPER)], windows[None]).points[0].numpy()
    shut, wide = mouth_opening(out), mouth_opening(said.numpy())
    assert np.corrcoef(shut, wide)[0, 1] > 0.9
    assert abs(np.corrcoef(shut, mouth_opening(points.numpy()))[0, 1]) < 0.3


def test_openings_are_heard_that_no_linear_map_tells() -> None:
    config, sounds = DEBUG.completion, torch.arange(1600) % 3 - 1
    features = 0.3 * torch.randn(1600, config.feature_dim, generator=rng())
    features[:, 0] += 4 * sounds
    windows = features[:, None].expand(-1, config.window, -1)
    # Two sounds that are opposite open the lips, what is between them does not.
    wide = 0.03 + 0.02 * sounds.abs()
    net, other = OpeningNet(config), OpeningNet(config)
    for one in (net, other):
        one.fit([windows[:1000], windows[1000:1500]], [wide[:1000], wide[1000:1500]])
    said = net(windows[None, 1500:])[0]
    assert np.corrcoef(said.numpy(), wide[1500:].numpy())[0, 1] > 0.8
    assert abs(said.mean() - wide.mean()) < 2e-3
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert not any(p.requires_grad for p in net.parameters())


def test_the_opening_of_a_single_frame_is_heard_everywhere() -> None:
    net, (_, windows) = OpeningNet(DEBUG.completion), heard(3)
    net.fit([windows[0, :1]], [torch.tensor([0.04])])
    torch.testing.assert_close(net(windows), torch.full((1, 3), 0.04), atol=1e-4, rtol=0)


def test_lips_open_as_is_heard_and_as_is_fitted() -> None:
    *known, (points, windows) = spoken(9, 400)
    net, wider = fitted(known), fitted(known)
    assert wider.opening is not None
    wider.opening.mean += 0.02
    with torch.no_grad():
        both = [
            mouth_opening(one(points[None, :, list(UPPER)], windows[None]).points[0].numpy())
            for one in (net, wider)
        ]
    assert 0 < (both[1] - both[0]).mean() < 0.02


def test_lips_of_a_fit_open_and_shut_as_wide_as_real_ones() -> None:
    clips = spoken(8, 400)
    net = fitted(clips)
    with torch.no_grad():
        made = [net(p[None, :, list(UPPER)], w[None]).points[0].numpy() for p, w in clips]
    ours, real = (
        np.quantile(mouth_opening(np.concatenate(group)), [0.02, 0.5, 0.98])
        for group in (made, [p.numpy() for p, _ in clips])
    )
    np.testing.assert_allclose(ours, real, rtol=0.1, atol=2e-3)


def test_a_contour_that_hears_nothing_is_fitted_to_the_upper_points_alone() -> None:
    net = completion(audio_moves_contour=False)
    upper, windows = heard(6)
    contour = [net(upper, w).points[:, :, list(CONTOUR)] for w in (windows, windows.roll(1, 1))]
    torch.testing.assert_close(contour[0], contour[1])


def test_a_face_that_moves_takes_its_lower_points_along() -> None:
    net = completion()
    upper, windows = heard(4)
    moved = net(upper + torch.tensor([0.2, -0.1]), windows).points
    still = net(upper, windows).points
    torch.testing.assert_close(moved, still + torch.tensor([0.2, -0.1]), atol=1e-4, rtol=0)


def test_the_papers_contour_hears_nothing_and_its_mouth_does() -> None:
    net = paper()
    upper, windows = heard(3)
    ours, others = net(upper, windows).points, net(upper, windows.flip(-1)).points
    assert torch.equal(ours[:, :, list(CONTOUR)], others[:, :, list(CONTOUR)])
    assert (mouths(ours) - mouths(others)).abs().amax((1, 3)).min() > 1e-4


def mouths(points: Tensor) -> Tensor:
    return points[:, :, list(MOUTH)]


def test_by_default_audio_moves_the_contour_too() -> None:
    net = completion()
    upper, windows = heard(3)
    ours, others = net(upper, windows), net(upper, windows.flip(-1))
    moved = (ours.points - others.points)[:, :, list(LOWER)].abs()
    assert moved.amax((1, 3)).min() > 1e-4
    assert torch.equal(ours.base_contour, others.base_contour)  # by AM-Trans, not LF-Trans
    assert torch.equal(ours.base_mouth, others.base_mouth)


def test_the_papers_completion_is_frame_by_frame() -> None:
    net = paper()
    assert net.reach == 0
    upper, windows = heard(5)
    whole = net(upper, windows).points
    alone = [net(upper[:, i : i + 1], windows[:, i : i + 1]).points for i in range(5)]
    torch.testing.assert_close(torch.cat(alone, 1), whole, atol=1e-5, rtol=0)


def test_a_chunk_with_its_neighbours_is_as_the_whole() -> None:
    net = completion()
    upper, windows = heard(40)
    whole = net(upper, windows).points
    for start, stop in ((0, 9), (9, 20), (20, 40)):
        low, high = max(0, start - net.reach), min(40, stop + net.reach)
        chunk = net(upper[:, low:high], windows[:, low:high]).points
        inner = chunk[:, start - low : stop - low]
        torch.testing.assert_close(inner, whole[:, start:stop], atol=1e-5, rtol=0)


def test_a_frame_reaches_as_far_as_it_says_and_no_further() -> None:
    net = completion()
    upper, windows = heard(40)
    before = net(upper, windows).points
    other = upper.clone()
    other[:, 20] += torch.rand(len(UPPER), 2, generator=rng(5))
    changed = (net(other, windows).points != before).flatten(2).any(-1)[0].nonzero()[:, 0]
    assert changed.min() == 20 - net.reach
    assert changed.max() == 20 + net.reach


def test_the_ablation_has_no_am_trans_and_hears_through_bm_trans() -> None:
    net = completion(audio_offsets=False)
    assert not hasattr(net, "am_trans")
    upper, windows = heard(3)
    ours, others = net(upper, windows), net(upper, windows.flip(-1))
    assert torch.equal(ours.points[:, :, list(CONTOUR)], others.points[:, :, list(CONTOUR)])
    assert (ours.base_mouth - others.base_mouth).abs().amax((1, 3)).min() > 1e-4
    assert torch.equal(mouths(ours.points), ours.base_mouth)


def test_every_weight_of_the_completion_is_learned() -> None:
    net = completion().train()
    upper, windows = heard(6)
    net(upper, windows).points[:, :, list(LOWER)].square().mean().backward()
    unused = {k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert unused == set()


# Synthesis


def prior(seed: int = 0) -> Prior:
    torch.manual_seed(seed)
    return Prior(DEBUG.prior, DEBUG.autoencoder.latent_channels).eval()


def synthesis(*, stir: bool) -> SynthesisNet:
    torch.manual_seed(1)
    net = SynthesisNet(DEBUG.synthesis, prior())
    if stir:
        stirred(net.branch), stirred(net.cross)
    return net.eval()


def inputs(frames: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy and known latents, timesteps and drawn maps."""
    channels = DEBUG.autoencoder.latent_channels
    noisy, known = torch.randn(2, frames, channels, size, size, generator=rng())
    maps = torch.rand(frames, len(CHANNELS), 8 * size, 8 * size, generator=rng(1))
    return noisy, known, torch.tensor([500, 3])[:frames], maps


def test_the_prior_predicts_one_latent_for_each() -> None:
    noisy, _, steps, _ = inputs()
    out = prior()(noisy, steps)
    assert out.shape == noisy.shape
    assert not torch.equal(out, prior()(noisy, steps.flip(0)))


def test_at_the_start_the_output_is_the_frozen_priors() -> None:
    net = synthesis(stir=False)
    noisy, known, steps, maps = inputs()
    with torch.no_grad():
        guided = net(noisy, steps, net.guide(known, maps=maps))
        assert torch.equal(guided, net.prior(noisy, steps))


def test_landmarks_and_known_latents_guide_the_trained_net() -> None:
    net = synthesis(stir=True)
    noisy, known, steps, maps = inputs()
    with torch.no_grad():
        guided = net(noisy, steps, net.guide(known, maps=maps))
        for other in (net.guide(known, maps=maps.flip(-1)), net.guide(known.flip(-1), maps=maps)):
            assert (net(noisy, steps, other) - guided).abs().max() > 1e-3
        # One frame's guidance is its own.
        alone = net(noisy[:1], steps[:1], net.guide(known[:1], maps=maps[:1]))
        torch.testing.assert_close(alone, guided[:1], atol=1e-4, rtol=1e-4)


def test_landmarks_and_speech_guide_together() -> None:
    torch.manual_seed(1)
    config = dataclasses.replace(DEBUG.synthesis, guidance="both")
    net = SynthesisNet(config, prior(), DEBUG.completion).eval()
    noisy, known, steps, maps = inputs()
    speech = DEBUG.completion
    windows = torch.randn(2, speech.window, speech.feature_dim, generator=rng(2))
    with torch.no_grad():
        start = net(noisy, steps, net.guide(known, maps=maps, windows=windows))
        torch.testing.assert_close(start, net.prior(noisy, steps), atol=1e-5, rtol=1e-5)
        stirred(net.branch), stirred(net.cross)
        assert net.prompt is not None
        for parameter in net.prompt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng(3)))
        guided = net(noisy, steps, net.guide(known, maps=maps, windows=windows))
        for other in (
            net.guide(known, maps=maps.flip(-1), windows=windows),
            net.guide(known, maps=maps, windows=windows.flip(0)),
            net.guide(known, maps=maps),
        ):
            assert (net(noisy, steps, other) - guided).abs().max() > 1e-3
        # Where nothing is heard there may as well be features of zero.
        deaf = net(noisy, steps, net.guide(known, maps=maps))
        zeros = net.guide(known, maps=maps, windows=torch.zeros_like(windows))
        assert torch.equal(net(noisy, steps, zeros), deaf)


def test_a_training_step_changes_the_branch_and_leaves_the_prior() -> None:
    net = synthesis(stir=True).train()
    assert not any(p.requires_grad for p in net.prior.parameters())
    learned = {k: p for k, p in net.named_parameters() if p.requires_grad}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    noisy, known, steps, maps = inputs()
    optimizer = torch.optim.SGD(learned.values(), lr=0.1)
    net(noisy, steps, net.guide(known, maps=maps)).square().mean().backward()
    optimizer.step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= set(learned)
    assert not any(k.startswith("prior.") for k in learned)
    # Without a text encoder the prompt is zero, so attention to it (attn2 after norm2) learns
    # nothing; nor does a bias that a group norm of single channels takes away.
    stuck = {k for k in set(learned) - changed if ".attn2." not in k and ".norm2." not in k}
    assert stuck <= {"branch.lateral.0.bias", "branch.encoder.mid_block.resnets.1.conv2.bias"}


def test_the_branch_is_a_copy_of_the_priors_encoder() -> None:
    net = synthesis(stir=False)
    theirs = UNetEncoder(net.prior.unet)
    noisy, _, _, _ = inputs()
    steps, context = torch.zeros(2), net.prior.context.expand(2, -1, -1)
    with torch.no_grad():
        ours = net.branch.encoder(noisy, steps, context)
        wanted = theirs(noisy, steps, context)
    assert torch.equal(ours.middle, wanted.middle)
    assert all(torch.equal(a, b) for a, b in zip(ours.skips, wanted.skips, strict=True))
    own, base = dict(net.branch.encoder.named_parameters()), dict(theirs.named_parameters())
    assert own.keys() == base.keys()
    assert all(own[k].data_ptr() != base[k].data_ptr() for k in own)
    assert all(p.requires_grad for p in own.values())


def test_the_branch_has_a_map_for_every_level() -> None:
    net = synthesis(stir=True)
    _, known, _, maps = inputs()
    context = net.prior.context.expand(2, -1, -1)
    sizes = [(m.shape[1], m.shape[2], m.shape[3]) for m in net.branch(maps, known, context)]
    first, second = DEBUG.prior.channels
    assert sizes == [(first, 8, 8), (second, 4, 4)]


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (8, 8, 8), (6, 9, 3), (1, 1, 1)])
def test_windows_there_and_back(height: int, width: int, side: int) -> None:
    x = torch.randn(2, 5, height, width, generator=rng())
    tokens = to_windows(x, side)
    assert tokens.shape == (2 * height * width // side**2, side**2, 5)
    assert torch.equal(from_windows(tokens, side, (height, width)), x)
    corner = x[0, :, :side, :side].flatten(1).T
    assert torch.equal(tokens[0], corner)
    last = x[1, :, -side:, -side:].flatten(1).T
    assert torch.equal(tokens[-1], last)


def test_places_near_each_other_attend_more_from_the_start() -> None:
    net = WindowCrossAttention(SynthesisConfig(heads=2, window=4), 8, 8, 16)
    bias = net._bias_of(4)
    assert bias.shape == (2, 16, 16)
    for head in bias:
        assert (head.diagonal() == 0).all()
        assert head[0, 1] == head[1, 0] == head[0, 4] > head[0, 2] > head[0, 15]
    assert torch.equal(net._bias_of(2)[0, 0], bias[0, 0, [0, 1, 4, 5]])


@pytest.mark.parametrize("size_px", [64, 192, 320])
def test_every_allowed_size_of_the_crop_works(size_px: int) -> None:
    config = ModelConfig(size_px=size_px)
    levels = PriorConfig(channels=(8, 8, 16), groups=4, head_dim=8, context_dim=8)
    torch.manual_seed(0)
    net = SynthesisNet(config.synthesis, Prior(levels, 4))
    noisy, known, steps, maps = inputs(1, size_px // 8)
    with torch.no_grad():
        assert net(noisy, steps, net.guide(known, maps=maps)).shape == noisy.shape


# Autoencoder


def autoencoder(*, attention: bool = False) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(dataclasses.replace(DEBUG.autoencoder, attention=attention)).eval()


def pictures(count: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    """Random ones, (n, S, S, 3) uint8."""
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=rng(seed))


def test_pixels_there_and_back_are_exact() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(4, 16, 16, 3)
    pixels = to_pixels(images)
    assert pixels.shape == (4, 3, 16, 16)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert torch.equal(to_images(pixels), images)
    assert to_images(torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1)).flatten().tolist() == [0, 255]


def test_autoencoder_has_its_shapes() -> None:
    net = autoencoder()
    latents = net.encode(to_pixels(pictures()))
    assert latents.shape == (2, DEBUG.autoencoder.latent_channels, 8, 8)
    assert net.decode(latents).shape == (2, 3, 64, 64)


def test_latents_are_scaled_to_unit_variance() -> None:
    net, images = autoencoder(), pictures(40)
    before = net.decode(net.encode(to_pixels(images[:2])))
    net.measure_scale(images, batch=7)
    latents = net.encode(to_pixels(images))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(net.decode(latents[:2]), before, atol=1e-4, rtol=1e-4)


TOP = slice(0, 16), slice(0, 40)
"""A part of 40 x 40 latents; the decoder's convolutions reach 13 of them at most."""


@torch.no_grad()
def test_a_part_is_decoded_as_in_the_whole() -> None:
    net = autoencoder()
    one = torch.randn(1, net.latent_channels, 40, 40, generator=torch.Generator().manual_seed(0))
    part = decode_part(net, one.expand(4, -1, -1, -1), *TOP)
    assert part is not None
    whole = net.decode(one)
    torch.testing.assert_close(part[2:3, :, :24], whole[:, :, :24], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(part[2:3, :, -8:], whole[:, :, 120:128], atol=1e-4)


@torch.no_grad()
def test_parts_of_frames_that_are_alike_share_their_norms() -> None:
    net, generator = autoencoder(), torch.Generator().manual_seed(1)
    shape = (4, net.latent_channels, 40, 40)
    frames = torch.randn(1, *shape[1:], generator=generator)
    frames = frames + 0.05 * torch.randn(shape, generator=generator)
    part, whole = decode_part(net, frames, *TOP), net.decode(frames)
    assert part is not None
    apart = (part - whole[:, :, :128])[:, :, :24].abs().mean((1, 2, 3))
    assert apart[2] < 1e-4  # the one in the middle has its own
    assert (apart < 0.02 * whole.std()).all()
    unlike = frames.clone()
    unlike[0] = 3 * unlike[0] + 1
    strange = decode_part(net, unlike, *TOP)
    assert strange is not None
    torch.testing.assert_close(strange[1:], part[1:])


@torch.no_grad()
def test_the_whole_is_decoded_where_a_part_is_no_gain() -> None:
    latents = torch.zeros(4, DEBUG.autoencoder.latent_channels, 8, 8)
    everything = slice(0, 8), slice(0, 8)
    assert decode_part(autoencoder(), latents, *everything) is None
    assert decode_part(autoencoder(), latents[:1], slice(0, 2), slice(0, 2)) is None
    assert decode_part(autoencoder(), latents, slice(0, 2), slice(0, 2)) is not None
    assert decode_part(autoencoder(attention=True), latents, slice(0, 2), slice(0, 2)) is None


@pytest.mark.parametrize("attention", [False, True])
def test_painting_out_hides_the_lower_face_from_every_latent(attention: bool) -> None:
    net, boxes = autoencoder(attention=attention), torch.tensor([[32, 64, 8, 56]])
    pixels = to_pixels(pictures(1))
    mask = box_mask(boxes, 64)
    other = torch.where(mask > 0.5, to_pixels(pictures(1, seed=1)), pixels)
    assert not torch.equal(pixels, other)
    hidden = [net.encode(mask_out(image, mask)) for image in (pixels, other)]
    assert torch.equal(*hidden)
    # Unpainted, lower pixels do reach latents of the upper face.
    upper = box_mask(boxes, 8, 8)[0, 0] == 0
    seen = [net.encode(image)[..., upper] for image in (pixels, other)]
    assert not torch.equal(*seen)


def test_painting_out_leaves_what_lies_outside() -> None:
    mask = box_mask(torch.tensor([[32, 64, 8, 56]]), 64)
    pixels = to_pixels(pictures(1))
    pixels[..., 40, 20] = torch.nan
    painted = mask_out(pixels, mask)
    inside = mask.bool().expand_as(painted)
    assert (painted[inside] == 0).all()
    assert torch.equal(painted[~inside], pixels[~inside])


# All together, and the diffusers layout


def halved(networks: Networks) -> dict[str, dict[str, Tensor]]:
    """The state as an avatar's files have it."""
    return {
        part: {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        for part, tensors in networks.state().items()
    }


def test_networks_are_rebuilt_from_their_architecture_and_weights() -> None:
    torch.manual_seed(0)
    first = build(DEBUG)
    architecture = json.loads(json.dumps(first.architecture()))
    second = build(DEBUG, architecture).load(first.state())
    for part, tensors in first.state().items():
        theirs = second.state()[part]
        assert tensors.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in tensors.items())


def test_weights_of_other_networks_are_refused() -> None:
    wide = dataclasses.replace(DEBUG, completion=dataclasses.replace(DEBUG.completion, width=32))
    with pytest.raises(AvatarError, match="completion do not fit"):
        build(DEBUG).load(build(wide).state())


def write_base_model(folder: Path) -> Path:
    """A tiny random model in the diffusers layout, built as Stable Diffusion 1.5 is."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    unet: Any = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="epsilon", beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    return folder


def sd15_config(base_model: Path) -> configs.Config:
    """The preset with this base model, and its other sizes small."""
    return configs.override(
        configs.preset("sd15"),
        {
            "model.base_model": str(base_model),
            "model.size_px": "64",
            "model.completion.features": "mel",
            "model.completion.feature_dim": "80",
            "model.completion.width": "16",
            "model.sampling.steps": "2",
            "training.landmarks.steps": "1",
            "training.landmarks.batch": "2",
            "training.synthesis.steps": "1",
            "training.synthesis.batch": "2",
            "training.decoder.steps": "1",
            "training.decoder.batch": "2",
            "training.span_frames": "12",
            "training.validation_clips": "1",
        },
    )


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("base-model"))


def test_sd15_loads_the_diffusers_layout(base_model: Path) -> None:
    networks = build(sd15_config(base_model).model)
    prior, vae = networks.synthesis.prior, networks.autoencoder
    assert prior.config.prediction == "epsilon"
    assert vae.latent_channels == 4
    assert vae.config.patch == 1
    torch.testing.assert_close(vae.std, torch.full((4,), 1 / 0.18215))
    noisy, steps = torch.randn(2, 4, 8, 8, generator=rng()), torch.tensor([999, 5])
    known, maps = noisy.flip(0), torch.rand(2, len(CHANNELS), 64, 64, generator=rng())
    stored = from_layout(type(prior.unet), base_model, "unet")
    with torch.no_grad():
        wanted = stored(noisy, steps, torch.zeros(2, 1, 16)).sample
        assert torch.equal(prior(noisy, steps), wanted)
        net = networks.synthesis
        assert torch.equal(net(noisy, steps, net.guide(known, maps=maps)), wanted)


def test_sd15_trains_samples_and_becomes_an_avatar_of_its_own(
    base_model: Path, dataset: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    run = Run(sd15_config(base), TrainOptions(dataset=dataset, run=tmp_path / "run"))
    numbers = run.train()
    assert set(numbers) == {"landmarks", "synthesis", "decoder"}  # the base model has the other two
    assert all(np.isfinite(list(log.values())).all() for log in numbers.values())
    save_avatar(
        run, tmp_path / "avatar", name="x", consent="drawn", source="none", command="pytest"
    )
    networks = run.sources.networks()
    networks = networks.load(halved(networks))
    calibration = run.sources.calibration()
    ours = Avatar("x", networks.resolved(run.config.model), networks, calibration=calibration)
    clip = load_dataset(dataset, validation_clips=1).validation[0]
    wanted = painted(ours, clip)

    shutil.rmtree(base)
    assert str(base) not in (tmp_path / "avatar" / "config.json").read_text()
    theirs = load(tmp_path / "avatar")
    assert theirs.config.base_model == ""
    assert theirs.config.prior.prediction == "epsilon"
    assert np.array_equal(painted(theirs, clip), wanted)


def painted(avatar: Avatar, clip: ClipData) -> Any:
    frames = slice(0, 2)
    return avatar.renderer(seed=1).render(
        np.array(clip.frames[frames]), clip.boxes[frames], clip.points_crop[frames]
    )


def test_a_base_model_may_bring_a_text_encoder(base_model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    (folder / "tokenizer").mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    words = [*letters, "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=7)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=7,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
        )
    )
    encoder.save_pretrained(folder / "text_encoder")
    prior = Prior.from_diffusers(folder)
    assert prior.config.context_tokens == 7
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    with torch.no_grad():
        wanted = encoder(torch.tensor([[start, *[end] * 6]])).last_hidden_state
    torch.testing.assert_close(prior.context, wanted)
    again = Prior(prior.config, 4, unet=prior.unet.config)
    again.load_state_dict(prior.state_dict())
    assert torch.equal(again.context, prior.context)


@pytest.mark.parametrize("missing", ["vae", "unet", "scheduler"])
def test_a_base_model_that_lacks_a_part_is_refused(
    base_model: Path, tmp_path: Path, missing: str
) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    shutil.rmtree(folder / missing)
    with pytest.raises(AssetError, match=f"the {missing} of the base model"):
        build(sd15_config(folder).model)


def test_a_base_model_with_pickled_weights_is_refused(base_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(AssetError, match="the vae of the base model"):
        build(sd15_config(folder).model)


def test_an_epsilon_prior_is_sampled_by_region(base_model: Path) -> None:
    prior = Prior.from_diffusers(base_model)
    known, noise = torch.randn(2, 1, 4, 8, 8, generator=rng())
    mask = box_mask(torch.tensor([[32, 64, 8, 56]]), 8, 8)
    with torch.no_grad():
        made = sample(prior, known, mask, noise, sampler="ddim", steps=2, prediction="epsilon")
    inside = mask.bool().expand_as(made)
    assert torch.isfinite(made).all()
    assert torch.equal(made[~inside], known[~inside])
    assert not torch.equal(made[inside], noise[inside])


def test_maps_show_what_they_are_named_for() -> None:
    points = np.random.default_rng(0).uniform(0.2, 0.8, (2, POINTS, 2)).astype(np.float32)
    maps = landmark_maps(points, 64)
    assert maps.shape == (2, len(CHANNELS), 64, 64)
    for name, group in (("jaw", JAW), ("brows", BROWS), ("nose", NOSE), ("eyes", EYES)):
        moved = points.copy()
        moved[:, list(group)] += 0.1
        changed = (landmark_maps(moved, 64) != maps).any(axis=(0, 2, 3))
        assert np.flatnonzero(changed).tolist() == [CHANNELS.index(name)]
    moved = points.copy()
    moved[:, list(INNER_LIPS)] += 0.1
    changed = (landmark_maps(moved, 64) != maps).any(axis=(0, 2, 3))
    lips = [CHANNELS.index("inner_lips"), CHANNELS.index("open_mouth")]
    assert np.flatnonzero(changed).tolist() == lips


def test_debug_is_small() -> None:
    config: CompletionConfig = DEBUG.completion
    assert config.width == 16
    assert sum(p.numel() for p in build(DEBUG).completion.parameters()) < 50_000
