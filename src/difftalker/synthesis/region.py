"""Noise and loss by region, and the upper face that stays clean: Eqs. 2 to 6 as functions.

Latents are (B, C, H, W); a mask (B, 1, H, W) is 1 in the lower face, which is generated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.face.landmarks import JAW

Boxes = Tensor
"""(B, 4) integers: top, bottom, left, right in pixels of the crop, half-open."""

DIRECTIONS = 32
"""Directions in which the reach of faces is measured."""
MARGIN = 0.035
"""What is masked around the reach of the jaw, crop units."""


def box_mask(boxes: Boxes, size: int, cell: int = 1) -> Tensor:
    """Boxes (B, 4) in pixels -> mask (B, 1, size, size) whose cells are ``cell`` pixels wide.

    Boxes lie on the grid of latents, so the mask is exact at both scales.
    """
    place = torch.arange(size, device=boxes.device) * cell
    top, bottom, left, right = (edge[:, None] for edge in boxes.unbind(1))
    rows = (place >= top) & (place < bottom)
    columns = (place >= left) & (place < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None].float()


def reach_of(points: Tensor, upper: Tensor) -> Tensor:
    """How far jaws come from the middle of the upper face, with a margin; (DIRECTIONS,).

    Points are (n, 68, 2), the upper ones among them (n, 37, 2), crop units. Nothing that moves as
    these faces speak lies outside of the polygon that has these distances from its middle.
    """
    lines = points[:, list(JAW)] - upper.mean(1, keepdim=True)
    return reach_towards(lines.flatten(0, 1))


def reach_towards(jaws: Tensor) -> Tensor:
    """The same by where jaws come, (..., n, 2) from the middle of the upper face; (..., 32)."""
    farthest: Tensor = (jaws @ _directions(jaws).T).amax(-2)
    return farthest + MARGIN


def reach_depth(reach: Tensor, upper: Tensor, cells: int) -> Tensor:
    """How deep cells of crops lie within the reach of their faces; (B, 1, cells, cells).

    ``reach`` (DIRECTIONS,) is :func:`reach_of`, or (B, DIRECTIONS) of each face its own; ``upper``
    (B, 37, 2) are upper points. Crop units; below zero is outside.
    """
    directions = _directions(reach)
    place = (torch.arange(cells, device=reach.device) + 0.5) / cells
    along = place[:, None, None] * directions[:, 1] + place[None, :, None] * directions[:, 0]
    middles = upper.to(reach).mean(1) @ directions.T
    return ((reach + middles)[:, None, None] - along).amin(-1)[:, None]


def _directions(like: Tensor) -> Tensor:
    """(DIRECTIONS, 2): unit vectors."""
    turns = torch.arange(DIRECTIONS, device=like.device) * (2 * torch.pi / DIRECTIONS)
    return torch.stack([turns.cos(), turns.sin()], 1).to(like.dtype)


def shown_share(depth: Tensor, size: int) -> Tensor:
    """Weight (B, 1, S, S) of a new picture by the depth of its places; it fades in the margin."""
    fine = nnf.interpolate(depth, size=size, mode="bilinear", align_corners=False)
    return (fine / MARGIN).clamp(0, 1)


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
