"""The loss of pictures: near the mask, at the mouth, in their detail, and before a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import PictureRecipe
from difftalker.experts.critic import Critic, critic_loss, feature_loss, fine, generator_loss
from difftalker.face.crop import CELL
from difftalker.synthesis.region import box_mask
from difftalker.training.tasks.autoencoder import gradient_error


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where pictures (B, 3, H, W) are looked at."""

    boxes: Tensor
    """(B, 4): mask boxes, pixels of the picture."""
    mouth: Tensor
    """(B, 1, H / 8, W / 8): 1 around the lips."""
    corners: Tensor
    """(B, 2), on the CPU: top and left of the patches that the critic sees."""
    hidden: Tensor | None = None
    """(B, 1, H, W): what is masked; by default the boxes, with a margin."""


def picture_loss(
    made: Tensor,
    true: Tensor,
    places: Places,
    critic: Critic,
    recipe: PictureRecipe,
    *,
    last: Tensor,
    side_px: int,
    judged: Tensor | None = None,
) -> dict[str, Tensor]:
    """Losses of generated pictures (B, 3, H, W) and of the critic; ``loss`` is their sum.

    ``last`` are the weights of the generator's last layer, at which the critic's pull is measured,
    ``side_px`` the side of its patches, and ``judged`` the indices, on the CPU, of the pictures
    that it sees; None: all.
    """
    # The layout in which pooling is fast.
    made, true = made.contiguous(), true.contiguous()
    distance = _distance(made, true, _weights(places, true.shape, recipe), recipe)
    kept = slice(None) if judged is None or not len(judged) else judged
    patches, real = (cut_patches(x[kept], places.corners[kept], side_px) for x in (made, true))
    seen_real, seen = critic(real), critic.frozen(patches)
    pull = generator_loss(seen) + recipe.feature_weight * feature_loss(seen_real, seen)
    weight = _weight(distance, pull, last, recipe.critic_share)
    verdict = critic_loss(seen_real, critic(patches.detach()))
    return {
        "loss": distance + weight * pull + verdict,
        "distance": distance,
        "pull": pull,
        "weight": weight,
        "critic": verdict,
    }


def on_device(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """A batch on the device, but for what patches are cut by: nothing waits for it then."""
    return {k: v if k in ("corners", "own") else v.to(device) for k, v in batch.items()}


def draw_corners(
    boxes: Tensor, shape: tuple[int, int], side_px: int, generator: torch.Generator
) -> Tensor:
    """(B, 2): top and left of patches in pictures of ``shape``, their middles in the boxes."""
    low, high = boxes[:, [0, 2]].float(), boxes[:, [1, 3]].float()
    middles = low + (high - low) * torch.rand(low.shape, generator=generator)
    most = torch.tensor(shape, dtype=torch.long) - side_px
    corners = (middles - side_px / 2).round().long().clamp(min=0)
    return torch.minimum(corners, most)


def cut_patches(pixels: Tensor, corners: Tensor, side_px: int) -> Tensor:
    """Patches (B, 3, side, side) of pictures (B, 3, H, W) at these corners (B, 2)."""
    return torch.stack(
        [
            one[:, top : top + side_px, left : left + side_px]
            for one, (top, left) in zip(pixels, corners.tolist(), strict=True)
        ]
    )


def _weights(places: Places, shape: torch.Size, recipe: PictureRecipe) -> Tensor:
    """How much each pixel counts, (B, 1, H, W): all alike, and near the mask and mouth again.

    In dubbing nothing else is shown, and of that the mouth is looked at.
    """
    height, width = shape[-2:]
    if places.hidden is None:
        margin = recipe.margin_px * torch.tensor([-1, 1, -1, 1], device=places.boxes.device)
        near = box_mask(places.boxes + margin, max(height, width))[:, :, :height, :width]
    else:
        near = places.hidden
    mouth = nnf.interpolate(places.mouth, scale_factor=float(CELL))
    weights = torch.ones_like(near)
    for place, weight in ((near, 1.0), (mouth, recipe.mouth_weight)):
        weights = weights + weight * place / place.mean().clamp(min=1e-3)
    return weights


def _distance(made: Tensor, true: Tensor, weights: Tensor, recipe: PictureRecipe) -> Tensor:
    error = ((made - true).abs() * weights).mean() + gradient_error(made, true, weights)
    return error + recipe.detail_weight * _detail_error(made, true, weights)


def _weight(distance: Tensor, pull: Tensor, last: Tensor, share: float) -> Tensor:
    """What makes the critic's pull on the last layer as strong as it should be."""
    a, b = (torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (distance, pull))
    weight: Tensor = share * a / b.clamp(min=1e-6)
    return weight.clamp(max=100).detach()


def _detail_error(made: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 of the RMS of fine detail in squares of 8 pixels, at three scales."""
    total = made.new_zeros(())
    for scale in (1, 2, 4):
        if scale > 1:
            made, true, weights = (nnf.avg_pool2d(x, 2) for x in (made, true, weights))
        pooled = (nnf.avg_pool2d(x, 8 // scale, 4 // scale) for x in (_energy(made), _energy(true)))
        a, b = map(_root, pooled)
        counted = nnf.avg_pool2d(weights, 8 // scale, 4 // scale)
        total = total + ((a - b).abs() * counted).mean()
    return total


def _energy(pictures: Tensor) -> Tensor:
    return fine(pictures, 3).square()


def _root(energy: Tensor) -> Tensor:
    # Far below a grey level there is nothing to tell, and a root is steep.
    return (energy + 1e-6).sqrt()
