"""The KL autoencoder: crops to latents and back (Section 2.4).

A diffusers ``AutoencoderKL`` over patches of pixels: gathering 4 x 4 pixels into channels first
keeps the costly convolutions at a quarter of the resolution, so that a CPU decodes in real time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import AutoencoderConfig
from difftalker.errors import AssetError

_RADIUS_PX = 3
_GAUSSIAN = torch.exp(-0.5 * torch.arange(-_RADIUS_PX, _RADIUS_PX + 1).square())
_GAUSSIAN = _GAUSSIAN / _GAUSSIAN.sum()
MASK_VALUE = 0.0
"""Value of masked pixels before encoding: mid grey."""


class Autoencoder(nn.Module):
    """Pictures (B, 3, S, S) in -1..1 <-> latents (B, C, S/8, S/8) of unit variance."""

    def __init__(self, config: AutoencoderConfig, *, vae: Mapping[str, Any] | None = None) -> None:
        """``vae`` is a diffusers configuration to build from in place of ``config``."""
        super().__init__()
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.config = config
        self.kl: Any = AutoencoderKL.from_config(dict(vae)) if vae else _new_kl(config)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(self.latent_channels))
        self.register_buffer("std", torch.ones(self.latent_channels))

    @classmethod
    def from_diffusers(cls, path: str | Path) -> Autoencoder:
        """Load the ``vae`` of a model in the diffusers layout, a folder or a hub id.

        Raises:
            AssetError: it is not there, or the hub does not answer.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        kl: Any = from_layout(AutoencoderKL, path, "vae")
        config = AutoencoderConfig(
            channels=tuple(kl.config.block_out_channels),
            layers=kl.config.layers_per_block,
            patch=8 // 2 ** (len(kl.config.block_out_channels) - 1),
            latent_channels=kl.config.latent_channels,
            groups=kl.config.norm_num_groups,
            attention=kl.config.mid_block_add_attention,
        )
        net = cls(config, vae=kl.config)
        net.kl = kl
        net.std.fill_(1 / kl.config.scaling_factor)
        return net

    @property
    def latent_channels(self) -> int:
        """C, the channels of a latent."""
        return self.config.latent_channels

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents before scaling, (B, C, S/8, S/8) each."""
        patches = nnf.pixel_unshuffle(images, self.config.patch)
        latents = self.kl.encode(patches).latent_dist
        return latents.mean, latents.logvar

    def encode(self, images: Tensor) -> Tensor:
        """Encode to the posterior's mean, scaled: (B, 3, S, S) -> (B, C, S/8, S/8)."""
        mean, _ = self.posterior(images)
        return (mean.float() - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, (B, C, S/8, S/8) -> pictures (B, 3, S, S) in -1..1."""
        return self.decode_raw(self.unscaled(latents))

    def unscaled(self, latents: Tensor) -> Tensor:
        """Scale latents (B, C, H, W) of unit variance back, for ``decode_raw``."""
        return latents * self.std[:, None, None] + self.mean[:, None, None]

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Decode latents before scaling, (B, C, S/8, S/8) -> (B, 3, S, S)."""
        patches = self.kl.decode(latents).sample
        return nnf.pixel_shuffle(patches, self.config.patch)

    @torch.no_grad()
    def measure_scale(self, images_u8: Tensor, batch: int = 16) -> None:
        """Set mean and spread of each latent channel from pictures (N, S, S, 3) uint8."""
        means = torch.cat([self.posterior(to_pixels(part))[0] for part in images_u8.split(batch)])
        self.mean.copy_(means.mean((0, 2, 3)))
        self.std.copy_(means.std((0, 2, 3)))


def high_pass(pixels: Tensor) -> Tensor:
    """High-pass pictures (B, C, H, W): less their blur by one pixel, mirrored at the edges."""
    channels = pixels.shape[1]
    across = _GAUSSIAN.to(pixels).expand(channels, 1, 1, -1)
    padded = nnf.pad(pixels, [_RADIUS_PX] * 4, mode="reflect")
    rows = nnf.conv2d(padded, across, groups=channels)
    return pixels - nnf.conv2d(rows, across.transpose(2, 3), groups=channels)


def to_pixels(images_u8: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in -1..1."""
    return images_u8.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) in -1..1 -> (B, S, S, 3) uint8."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def mask_out(images: Tensor, mask: Tensor) -> Tensor:
    """Mask pictures (B, 3, S, S) where ``mask`` (B, 1, S, S) is 1, before they are encoded."""
    return torch.where(mask > 0.5, torch.full_like(images, MASK_VALUE), images)


def from_layout(kind: Any, path: str | Path, subfolder: str) -> Any:
    """Load one part of a model in the diffusers layout: a local folder, or a hub id.

    Raises:
        AssetError: it is not there, or the hub does not answer.
    """
    # Weights in pickles are refused, as everywhere.
    options = {"use_safetensors": True} if issubclass(kind, nn.Module) else {}
    try:
        return kind.from_pretrained(str(path), subfolder=subfolder, **options)
    except (OSError, ValueError) as error:
        raise AssetError(
            f"the {subfolder} of the base model {str(path)!r} cannot be loaded"
            f" ({str(error).splitlines()[0]})",
            wanted="a folder in the diffusers layout, or a hub id that this machine reaches",
            fix="name one with --set model.base_model=FOLDER",
        ) from error


def _new_kl(config: AutoencoderConfig) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels, pixels = len(config.channels), 3 * config.patch**2
    kl: nn.Module = AutoencoderKL(
        in_channels=pixels,
        out_channels=pixels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        mid_block_add_attention=config.attention,
    )
    return kl
