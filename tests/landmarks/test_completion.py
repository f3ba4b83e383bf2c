"""The completion at debug size: its shapes, its fit, and what moves the lower face."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.face.landmarks import (
    ABOVE_GAP,
    BELOW_GAP,
    CONTOUR,
    LOWER,
    MOUTH,
    POINTS,
    UPPER,
    mouth_opening,
)
from difftalker.landmarks.completion import CompletionNet
from helpers_networks import DEBUG, heard, rng, stirred


def completion(**changes: object) -> CompletionNet:
    config = dataclasses.replace(DEBUG.completion, **changes)  # type: ignore[arg-type]
    torch.manual_seed(0)
    net: CompletionNet = stirred(CompletionNet(config))
    net.fit([(torch.rand(5, POINTS, 2, generator=rng(1)), heard(5)[1][0])])
    return net


def paper() -> CompletionNet:
    return completion(**dataclasses.asdict(configs.paper_completion(DEBUG.completion)))


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
