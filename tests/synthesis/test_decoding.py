"""Parts of pictures, decoded alone."""

from __future__ import annotations

import torch

from difftalker.synthesis.decoding import decode_part
from helpers_networks import DEBUG, autoencoder

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
