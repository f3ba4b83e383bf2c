"""Attention within windows."""

from __future__ import annotations

import pytest
import torch

from difftalker.config import SynthesisConfig
from difftalker.synthesis.cross_attention import WindowCrossAttention, from_windows, to_windows
from helpers_networks import rng


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
