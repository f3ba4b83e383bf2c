"""Noise and loss by region, and the upper face that stays clean: Eqs. 2 to 6 as functions.

Latents are (B, C, H, W); a mask (B, 1, H, W) is 1 in the lower face, which is generated.
"""

from __future__ import annotations

import torch
from torch import Tensor

Boxes = Tensor
"""(B, 4) integers: top, bottom, left, right in pixels of the crop, half-open."""


def box_mask(boxes: Boxes, size: int, cell: int = 1) -> Tensor:
    """Boxes (B, 4) in pixels -> mask (B, 1, size, size) whose cells are ``cell`` pixels wide.

    Boxes lie on the grid of latents, so the mask is exact at both scales.
    """
    place = torch.arange(size, device=boxes.device) * cell
    top, bottom, left, right = (edge[:, None] for edge in boxes.unbind(1))
    rows = (place >= top) & (place < bottom)
    columns = (place >= left) & (place < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None].float()


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Eq. 2: z_t of clean latents; ``alpha_bar`` (B,)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def add_noise_by_region(clean: Tensor, noise: Tensor, alpha_bar: Tensor, mask: Tensor) -> Tensor:
    """Eq. 4: noise in the lower face alone."""
    return mask * add_noise(clean, noise, alpha_bar) + (1 - mask) * clean


def target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """The target of the network: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) z_0.

    v: Salimans and Ho, "Progressive Distillation" (2022), Section 4.
    """
    if prediction == "epsilon":
        return noise
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * clean


def region_loss(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5: mean squared error over the lower face alone, or as ``mask`` weighs its places."""
    squared = (predicted.float() - wanted.float()).square() * mask
    return squared.sum() / (mask.sum() * predicted.shape[1]).clamp(min=1)


def keep_upper(sampled: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6, after each step: the upper face is set back to its clean latents."""
    return torch.where(mask > 0.5, sampled, clean)
