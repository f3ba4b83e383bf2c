"""Decoding one part of pictures that are alike, at the cost of that part.

Of a dubbed crop the lower face alone is shown. What ties a place of the decoder to the whole
picture are group norms, whose means and variances hardly differ between neighbouring frames: so one
frame is decoded whole, and the part of every frame is decoded under that one's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.synthesis.autoencoder import Autoencoder

Norm = Callable[[nn.GroupNorm, Tensor], Tensor]
"""How a group norm is carried out; (B, D, H, W) -> the same."""
Affine = tuple[Tensor, Tensor]
"""(1, D, 1, 1) each: a norm as a factor and a summand of each channel."""


def decode_part(
    autoencoder: Autoencoder, latents: Tensor, rows: slice, columns: slice
) -> Tensor | None:
    """Rows and columns of latents (B, C, H, W) as pictures (B, 3, 8 rows, 8 columns).

    The pictures are neighbouring frames of one shot. Near the part's edge they differ from what
    ``Autoencoder.decode`` makes of the whole; three latents within it they are alike. None where it
    would be no gain, or the decoder's attention looks at all of the picture.
    """
    decoder, (frames, _, height, width) = autoencoder.kl.decoder, latents.shape
    share = len(range(height)[rows]) * len(range(width)[columns]) / (height * width)
    if 1 + share * frames >= frames or _attends(decoder):
        return None
    raw = autoencoder.unscaled(latents).contiguous(memory_format=torch.channels_last)
    learned: list[Affine] = []
    middle = frames // 2
    _decoded(autoencoder, raw[middle : middle + 1], _learning(learned))
    return _decoded(autoencoder, raw[:, :, rows, columns], _given(learned))


def _attends(decoder: Any) -> bool:
    blocks = [decoder.mid_block, *decoder.up_blocks]
    return any(layer is not None for b in blocks for layer in getattr(b, "attentions", None) or ())


def _learning(learned: list[Affine]) -> Norm:
    """Norms as they are, which also note what they do with the first of the pictures."""

    def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
        groups = x[0].float().reshape(layer.num_groups, -1)
        variance, mean = torch.var_mean(groups, dim=1, correction=0)
        gain = torch.rsqrt(variance + layer.eps)
        each = x.shape[1] // layer.num_groups
        factor = gain.repeat_interleave(each) * layer.weight
        summand = layer.bias - mean.repeat_interleave(each) * factor
        learned.append((_channels(factor, x), _channels(summand, x)))
        out: Tensor = layer(x)
        return out

    return norm


def _given(learned: Iterable[Affine]) -> Norm:
    """Norms that do what was noted, one after the other."""
    order = iter(learned)

    def norm(_: nn.GroupNorm, x: Tensor) -> Tensor:
        factor, summand = next(order)
        return torch.addcmul(summand, x, factor)

    return norm


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[None, :, None, None]


def _decoded(autoencoder: Autoencoder, raw: Tensor, norm: Norm) -> Tensor:
    """The decoder of diffusers with norms of our own; latents before scaling -> pictures."""
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
