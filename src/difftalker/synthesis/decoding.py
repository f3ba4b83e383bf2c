"""Decoding a part of similar pictures, at the cost of that part.

A dubbed frame shows only the lower face of its crop. Group norms are what ties a place of the
decoder to the whole picture, and their means and variances hardly differ between neighbouring
frames. So one frame is decoded whole, and its norms serve to decode the part of every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.synthesis.autoencoder import Autoencoder

Norm = Callable[[nn.GroupNorm, Tensor], Tensor]
"""Computes a group norm; (B, D, H, W) -> (B, D, H, W)."""
Affine = tuple[Tensor, Tensor]
"""A norm as factor and summand of each channel, (1, D, 1, 1) each."""


def decode_part(
    autoencoder: Autoencoder, latents: Tensor, rows: slice, columns: slice
) -> Tensor | None:
    """Decode rows and columns of latents (B, C, H, W) to pictures (B, 3, 8 rows, 8 columns).

    The latents are of neighbouring frames of one shot. Near the part's edge the result differs from
    that of ``Autoencoder.decode``; from three latents inwards it is alike. None where nothing is
    gained, or where the decoder attends to the whole picture.
    """
    decoder, (frames, _, height, width) = autoencoder.kl.decoder, latents.shape
    share = len(range(height)[rows]) * len(range(width)[columns]) / (height * width)
    if 1 + share * frames >= frames or _attends(decoder):
        return None
    raw = autoencoder.unscaled(latents).contiguous(memory_format=torch.channels_last)
    affines: dict[nn.GroupNorm, Affine] = {}
    middle = frames // 2
    _decoded(autoencoder, raw[middle : middle + 1], _recorded(affines))
    return _decoded(autoencoder, raw[:, :, rows, columns], _replayed(affines))


def _attends(decoder: Any) -> bool:
    blocks = [decoder.mid_block, *decoder.up_blocks]
    return any(layer is not None for b in blocks for layer in getattr(b, "attentions", None) or ())


def _recorded(affines: dict[nn.GroupNorm, Affine]) -> Norm:
    """Norms that also record what each layer does with the first picture."""

    def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
        groups = x[0].float().reshape(layer.num_groups, -1)
        variance, mean = torch.var_mean(groups, dim=1, correction=0)
        gain = torch.rsqrt(variance + layer.eps)
        each = x.shape[1] // layer.num_groups
        factor = gain.repeat_interleave(each) * layer.weight
        summand = layer.bias - mean.repeat_interleave(each) * factor
        affines[layer] = _channels(factor, x), _channels(summand, x)
        out: Tensor = layer(x)
        return out

    return norm


def _replayed(affines: Mapping[nn.GroupNorm, Affine]) -> Norm:
    """Norms that apply the recorded factor and summand of their layer."""

    def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
        factor, summand = affines[layer]
        return torch.addcmul(summand, x, factor)

    return norm


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[None, :, None, None]


def _decoded(autoencoder: Autoencoder, raw: Tensor, norm: Norm) -> Tensor:
    """Run the decoder of diffusers with ``norm``; latents before scaling -> pictures."""
    decoder = autoencoder.kl.decoder
    x = decoder.conv_in(autoencoder.kl.post_quant_conv(raw))
    for block in decoder.mid_block.resnets:
        x = _residual(block, x, norm)
    for level in decoder.up_blocks:
        for block in level.resnets:
            x = _residual(block, x, norm)
        for upsampler in level.upsamplers or ():
            x = upsampler.conv(nnf.interpolate(x, scale_factor=2.0))
    patches = decoder.conv_out(decoder.conv_act(norm(decoder.conv_norm_out, x)))
    return nnf.pixel_shuffle(patches, autoencoder.config.patch)


def _residual(block: Any, x: Tensor, norm: Norm) -> Tensor:
    hidden = block.conv1(block.nonlinearity(norm(block.norm1, x)))
    hidden = block.conv2(block.nonlinearity(norm(block.norm2, hidden)))
    out: Tensor = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + hidden
    return out
