"""What the diffusion stages share, and the prior stage (Section 2.4, Eqs. 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import PriorConfig, PriorRecipe, SamplingConfig
from difftalker.data.dataset import Dataset
from difftalker.data.latents import LatentSet, encode_frames
from difftalker.face.draw import contact_sheet
from difftalker.synthesis.autoencoder import Autoencoder, to_images
from difftalker.synthesis.prior import Prior
from difftalker.synthesis.region import (
    add_noise_by_region,
    box_mask,
    keep_upper,
    region_loss,
    target,
)
from difftalker.synthesis.sampling import Denoise, alpha_bars, sample
from difftalker.training.tasks.autoencoder import psnr


class DiffusionTask:
    """What the prior and the synthesis share: latents, boxes, noise levels, pictures."""

    name: str
    model: Any

    def __init__(
        self,
        autoencoder: Autoencoder,
        data: Dataset,
        latents: LatentSet,
        config: PriorConfig,
        *,
        device: str,
    ) -> None:
        self._autoencoder, self._data, self._latents = autoencoder.eval(), data, latents
        self.device, self._config = device, config
        self.examples = len(latents.index)
        self._alpha_bars = alpha_bars(config.prediction, config.timesteps).to(device)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        known, index = self._known(indices, generator), self._latents.index
        boxes = torch.from_numpy(np.stack([self._data.train[c].boxes[f] for c, f in index[known]]))
        batch = {
            "whole": torch.from_numpy(self._latents.whole[indices]).float(),
            "masked": torch.from_numpy(self._latents.masked[known]).float(),
            "mask": box_mask(boxes, self._latents.whole.shape[-1], 8),
            **self._extra(index[indices], index[known], generator),
        }
        return {k: v.to(self.device) for k, v in batch.items()}

    def _known(self, indices: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        """Examples (B,) whose upper faces are seen above the lower ones of examples (B,)."""
        return indices

    def _extra(
        self, rows: NDArray[np.int64], known: NDArray[np.int64], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What a task needs besides of the frames (B, 2), clip and frame, and of those above."""
        return {}

    def _noised(self, batch: dict[str, Tensor], generator: torch.Generator) -> Noised:
        """Eq. 4 at random timesteps: whole latents below, masked ones above."""
        whole, mask = batch["whole"], batch["mask"]
        steps = self._steps(len(whole), generator)
        noise = torch.randn(whole.shape, generator=generator).to(whole)
        bars = self._alpha_bars[steps.to(self.device)]
        noisy = add_noise_by_region(keep_upper(whole, batch["masked"], mask), noise, bars, mask)
        wanted = target(whole, noise, bars, self._config.prediction)
        return Noised(noisy, steps.to(self.device), wanted, mask)

    def _steps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps (count,) to learn at."""
        return torch.randint(self._config.timesteps, (count,), generator=generator)

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._data.train[int(c)].name for c in self._latents.index[indices, 0]]

    def _watched(self) -> Watched:
        rows = [
            (i, int(f))
            for i, c in enumerate(self._data.validation)
            for f in np.flatnonzero(c.found)[::10]
        ][:16]
        clips = self._data.validation
        whole, masked = encode_frames(self._autoencoder, clips, np.array(rows), self.device)
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        return Watched(
            images=torch.from_numpy(np.stack([clips[c].frames[f] for c, f in rows])),
            rows=np.array(rows),
            boxes=boxes,
            masked=masked.float(),
            mask=box_mask(boxes.to(self.device), whole.shape[-1], 8),
        )

    def _sampled(self, denoise: Denoise, clean: Tensor, mask: Tensor) -> Tensor:
        """Pictures (n, S, S, 3) uint8 made in ten steps from one noise for all."""
        latents = self._drawn(denoise, clean, mask, SamplingConfig(sampler="ddim", steps=10))
        return to_images(self._autoencoder.decode(latents)).cpu()

    def _drawn(
        self, denoise: Denoise, clean: Tensor, mask: Tensor, chosen: SamplingConfig
    ) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(clean.shape[1:], generator=generator).to(clean).expand_as(clean)
        return sample(
            denoise,
            clean,
            mask,
            noise,
            sampler=chosen.sampler,
            steps=chosen.steps,
            prediction=self._config.prediction,
            timesteps=self._config.timesteps,
        )


class PriorTask(DiffusionTask):
    """The prior: Eqs. 2 and 3 on whole faces for a share of the examples, else Eqs. 4 and 5.

    So it knows both how this face looks and how its lower half follows from the upper one.
    """

    name = "prior"

    def __init__(
        self,
        model: Prior,
        autoencoder: Autoencoder,
        data: Dataset,
        latents: LatentSet,
        *,
        recipe: PriorRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(autoencoder, data, latents, model.config, device=device)
        self.model, self._recipe = model, recipe or PriorRecipe()

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        whole = torch.rand(len(batch["mask"]), generator=generator) < self._recipe.whole_share
        mask = torch.where(whole.to(self.device)[:, None, None, None], 1.0, batch["mask"])
        noised = self._noised({**batch, "mask": mask}, generator)
        predicted = self.model(noised.noisy, noised.steps)
        return {"loss": region_loss(predicted, noised.wanted, noised.mask)}

    def validate(self) -> dict[str, float]:
        """PSNR of lower faces guessed from the upper ones alone: landmarks are not known yet."""
        watched = self._watched()
        made = self._sampled(self.model, watched.masked, watched.mask)
        return {"psnr_lower": watched.psnr_lower(made)}

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        watched = self._watched()
        half = self._sampled(self.model, watched.masked[::4], watched.mask[::4])
        ones = torch.ones_like(watched.mask[::4])
        full = self._sampled(self.model, watched.masked[::4], ones)
        return contact_sheet([*half.numpy(), *full.numpy()], 4)


@dataclass(frozen=True)
class Noised:
    """One batch of Eq. 4."""

    noisy: Tensor
    steps: Tensor
    wanted: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Watched:
    """Frames held out."""

    images: Tensor
    rows: NDArray[np.int64]
    """(n, 2): clip and frame."""
    boxes: Tensor
    masked: Tensor
    mask: Tensor

    def psnr_lower(self, made: Tensor) -> float:
        """PSNR in dB of the masked regions of pictures (n, S, S, 3)."""
        size = self.images.shape[1]
        mask = box_mask(self.boxes, size).bool()[:, 0, :, :, None].expand(self.images.shape)
        return psnr(made[mask], self.images[mask])
