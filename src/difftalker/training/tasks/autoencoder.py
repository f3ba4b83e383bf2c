"""The autoencoder stage (Section 2.4, reference 18)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import AutoencoderRecipe
from difftalker.data.dataset import Dataset, frame_index
from difftalker.face.draw import contact_sheet
from difftalker.face.landmarks import MOUTH
from difftalker.synthesis.autoencoder import Autoencoder, mask_out, to_images, to_pixels
from difftalker.synthesis.region import (
    box_mask,
    keep_upper,
)


class AutoencoderTask:
    """The KL autoencoder: Section 2.4, reference 18, on whole and on masked crops.

    A share of the examples is put together as in use: latents of the hidden region from the whole
    picture, the rest from the masked one, so that the decoder learns to join them seamlessly.
    """

    name = "autoencoder"

    def __init__(
        self,
        model: Autoencoder,
        data: Dataset,
        *,
        recipe: AutoencoderRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        self.model, self.device, self._data = model, device, data
        self._recipe = recipe or AutoencoderRecipe()
        self._frames = frame_index(data.train)
        self.examples = len(self._frames)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rows = [(self._data.train[c], f) for c, f in self._frames[indices]]
        images = torch.from_numpy(np.stack([clip.frames[f] for clip, f in rows]))
        boxes = torch.from_numpy(np.stack([clip.boxes[f] for clip, f in rows]))
        hidden = torch.rand(len(rows), generator=generator) < self._recipe.masked_share
        boxes = torch.where(hidden[:, None], _jittered(boxes, self._data.size_px, generator), 0)
        flip = torch.rand(len(rows), generator=generator) < self._recipe.mirrored_share
        images = torch.where(flip[:, None, None, None], images.flip(2), images)
        mirrored = boxes[:, [0, 1, 3, 2]] * torch.tensor([1, 1, -1, -1])
        mirrored[:, 2:] += self._data.size_px
        boxes = torch.where((flip & hidden)[:, None], mirrored, boxes)
        return {
            "images": images.to(self.device),
            "boxes": boxes.to(self.device),
            "hidden": hidden.nonzero()[:, 0].to(self.device),
        }

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        pixels = to_pixels(batch["images"])
        joined, mean, logvar = self._joined(pixels, batch["boxes"], batch["hidden"])
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        latents = joined + (0.5 * logvar).exp() * noise
        made = self.model.decode_raw(latents).float()
        l1 = (made - pixels).abs().mean()
        edges = gradient_error(made, pixels)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = l1 + edges + self._recipe.kl_weight * kl
        return {"loss": loss, "l1": l1, "edges": edges, "kl": kl}

    def _joined(
        self, pixels: Tensor, boxes: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means put together by region, and the whole pictures' means and log variances.

        ``hidden``: indices of the pictures whose lower face is hidden.
        """
        size = pixels.shape[-1]
        mean, logvar = (t.float() for t in self.model.posterior(pixels))
        joined = mean.clone()
        if len(hidden):
            masked = mask_out(pixels[hidden], box_mask(boxes[hidden], size))
            clean, _ = self.model.posterior(masked)
            mask = box_mask(boxes[hidden], size // 8, 8)
            joined[hidden] = keep_upper(mean[hidden], clean.float(), mask)
        return joined, mean, logvar.clamp(-20, 10)

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._data.train[int(c)].name for c in self._frames[indices, 0]]

    def validate(self) -> dict[str, float]:
        """PSNR in dB: of whole crops, and of the hidden region of joined ones."""
        images, made, boxes = self._made()
        mask = box_mask(boxes, images.shape[1]).bool()[:, 0, :, :, None].expand(images.shape)
        return {"psnr": psnr(made, images), "psnr_lower": psnr(made[mask], images[mask])}

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        images, made, _ = self._made()
        pairs = zip(images[::4].numpy(), made[::4].numpy(), strict=True)
        return contact_sheet([tile for pair in pairs for tile in pair], 4)

    def _made(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = [(c, f) for c in self._data.validation for f in np.flatnonzero(c.found)[::10]][:16]
        images = torch.from_numpy(np.stack([c.frames[f] for c, f in rows]))
        boxes = torch.from_numpy(np.stack([c.boxes[f] for c, f in rows]))
        pixels, all_of_them = to_pixels(images.to(self.device)), torch.arange(len(rows))
        joined, _, _ = self._joined(pixels, boxes.to(self.device), all_of_them.to(self.device))
        return images, to_images(self.model.decode_raw(joined)).cpu(), boxes


def psnr(made: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 tensors, dB."""
    error = (made.float() - true.float()).square().mean().clamp(min=1e-10)
    return float(10 * torch.log10(255**2 / error))


def gradient_error(made: Tensor, true: Tensor, weights: Tensor | None = None) -> Tensor:
    """L1 between neighbouring differences, at full and at half resolution: keeps edges sharp.

    ``weights`` (B, 1, H, W) say how much each pixel counts; None: all alike.
    """
    total, gap = made.new_zeros(()), made - true
    for scale in (1, 2):
        if scale > 1:
            gap = nnf.avg_pool2d(gap, scale)
            weights = None if weights is None else nnf.avg_pool2d(weights, scale)
        for across, found in ((-1, gap.diff(dim=-1)), (-2, gap.diff(dim=-2))):
            counted = 1.0 if weights is None else weights.narrow(across, 0, found.shape[across])
            total = total + (found.abs() * counted).mean()
    return total


def mouth_mask(points: Tensor, cells: int) -> Tensor:
    """Points (B, 68, 2) in crop units -> (B, 1, cells, cells): 1 around the lips, one cell more."""
    lips = points[:, list(MOUTH)] * cells
    boxes = torch.stack([lips.amin(1).floor() - 1, lips.amax(1).ceil() + 1], -1).long()
    return box_mask(boxes.flip(1).flatten(1), cells)


def _jittered(boxes: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Boxes moved by up to two cells an edge, so that the decoder learns no fixed seam."""
    steps = torch.randint(-2, 3, boxes.shape, generator=generator)
    return (boxes + steps * 8).clamp(0, size)
