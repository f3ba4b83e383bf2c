"""Openings of the mouth from speech alone."""

from __future__ import annotations

import numpy as np
import torch

from difftalker.landmarks.opening_net import OpeningNet
from helpers_networks import DEBUG, heard, rng


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
