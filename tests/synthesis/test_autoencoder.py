"""The autoencoder: pixels and latents there and back, and the masked lower face."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from difftalker.synthesis.autoencoder import (
    mask_out,
    to_images,
    to_pixels,
)
from difftalker.synthesis.region import box_mask
from helpers_networks import DEBUG, autoencoder, rng


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
    masked = mask_out(pixels, mask)
    inside = mask.bool().expand_as(masked)
    assert (masked[inside] == 0).all()
    assert torch.equal(masked[~inside], pixels[~inside])
