"""The synthesis network at debug size: its start, its guidance and what is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from difftalker.config import ModelConfig, PriorConfig
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior
from helpers_networks import DEBUG, inputs, prior, rng, stirred, synthesis


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
        without = net(noisy, steps, net.guide(known, maps=maps))
        zeros = net.guide(known, maps=maps, windows=torch.zeros_like(windows))
        assert torch.equal(net(noisy, steps, zeros), without)


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


@pytest.mark.parametrize("size_px", [64, 192, 320])
def test_every_allowed_size_of_the_crop_works(size_px: int) -> None:
    config = ModelConfig(size_px=size_px)
    levels = PriorConfig(channels=(8, 8, 16), groups=4, head_dim=8, context_dim=8)
    torch.manual_seed(0)
    net = SynthesisNet(config.synthesis, Prior(levels, 4))
    noisy, known, steps, maps = inputs(1, size_px // 8)
    with torch.no_grad():
        assert net(noisy, steps, net.guide(known, maps=maps)).shape == noisy.shape


def audio_net() -> SynthesisNet:
    torch.manual_seed(0)
    prior = Prior(DEBUG.prior, DEBUG.autoencoder.latent_channels).eval()
    config = dataclasses.replace(DEBUG.synthesis, guidance="audio")
    return SynthesisNet(config, prior, DEBUG.completion).eval()


def test_audio_guidance_starts_at_the_prior_and_then_follows_the_speech() -> None:
    net, speech = audio_net(), DEBUG.completion
    generator = torch.Generator().manual_seed(0)
    noisy, known = torch.randn(2, 2, DEBUG.autoencoder.latent_channels, 8, 8, generator=generator)
    windows = torch.randn(2, speech.window, speech.feature_dim, generator=generator)
    steps = torch.tensor([500, 3])
    with torch.no_grad():
        start = net(noisy, steps, net.guide(known, windows=windows))
        torch.testing.assert_close(start, net.prior(noisy, steps), atol=1e-5, rtol=1e-5)
        for parameter in (*net.branch.parameters(), *net.cross.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        assert net.prompt is not None
        for parameter in net.prompt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        spoken = net(noisy, steps, net.guide(known, windows=windows))
        other = net(noisy, steps, net.guide(known, windows=windows.flip(0)))
    assert (spoken - start).abs().max() > 1e-3
    assert (spoken - other).abs().max() > 1e-3
