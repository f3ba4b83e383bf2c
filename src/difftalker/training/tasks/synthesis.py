"""The synthesis stage: the landmark branch over the frozen prior (Section 2.4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import CompletionConfig, SamplingConfig, SynthesisRecipe
from difftalker.data.dataset import ClipData, Dataset
from difftalker.data.latents import LatentSet
from difftalker.face.draw import contact_sheet, landmark_maps
from difftalker.synthesis.autoencoder import MASK_VALUE, Autoencoder
from difftalker.synthesis.net import Guidance, SynthesisNet
from difftalker.synthesis.region import box_mask, region_loss
from difftalker.synthesis.sampling import timesteps_of
from difftalker.training.tasks.autoencoder import mouth_mask
from difftalker.training.tasks.conditions import Conditions, Rows
from difftalker.training.tasks.diffusion import DiffusionTask, Watched


class SynthesisTask(DiffusionTask):
    """The landmark branch over the frozen prior: Eqs. 4 and 5.

    The windows of speech around the frames guide it beside their landmarks, or in their place
    (Section 3.4, the ablation), as the network's guidance has it.
    """

    name = "synthesis"

    def __init__(
        self,
        model: SynthesisNet,
        autoencoder: Autoencoder,
        data: Dataset,
        latents: LatentSet,
        *,
        speech: CompletionConfig | None = None,
        sampling: SamplingConfig | None = None,
        mouth_weight: float = 1.0,
        completed_share: float = 0.0,
        recipe: SynthesisRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        """``speech`` says what is heard where audio is among the guidance.

        A share of the examples has one of the timesteps at which ``sampling`` asks the network; the
        few steps that are made in use are learned best so. ``mouth_weight`` is that of the mouth
        in Eq. 5. So many examples as ``completed_share`` says have landmarks as they are in use,
        smoother than those of footage, but for lips as open as they are.
        """
        super().__init__(autoencoder, data, latents, model.prior.config, device=device)
        chosen = sampling or SamplingConfig()
        self._asked = timesteps_of(
            chosen.sampler, chosen.steps, self._config.prediction, self._config.timesteps
        )
        self._mouth_weight = mouth_weight
        self._recipe = recipe or SynthesisRecipe()
        self.conditions = Conditions(
            data,
            latents.index,
            model.config,
            speech=speech or CompletionConfig(),
            recipe=self._recipe,
            completed_share=completed_share,
        )
        self.model = model
        nothing = torch.zeros(1, 3, data.size_px, data.size_px, device=device)
        with torch.no_grad():
            self._nothing_known = autoencoder.encode(nothing + MASK_VALUE).float()

    def prepare(self) -> None:
        """Complete each clip's landmarks by fits to the others; see ``trainer.Prepares``."""
        self.conditions.prepare()

    def _steps(self, count: int, generator: torch.Generator) -> Tensor:
        anywhere = super()._steps(count, generator)
        chosen = torch.randint(len(self._asked), (count,), generator=generator)
        in_use = torch.rand(count, generator=generator) < self._recipe.sampler_share
        return torch.where(in_use, self._asked[chosen], anywhere)

    def _known(self, indices: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        return self.conditions.known(indices, generator)

    def _extra(self, rows: Rows, known: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        own = np.stack([self._data.train[c].points_crop[f] for c, f in rows])
        mouth = mouth_mask(torch.from_numpy(own), self._latents.whole.shape[-1])
        points = self.conditions.points(rows, known, generator)
        spoken = self.conditions.spoken(rows, known, generator)
        guides = self._guides(self._data.train, spoken, points, generator)
        if "maps" in guides and "windows" in guides:
            guides["windows"] = self.conditions.jittered(guides["windows"], generator)
        is_own = torch.from_numpy((rows == known).all(1))
        return {**guides, "mouth": mouth, "own": is_own}

    def _guides(
        self,
        clips: list[ClipData],
        rows: Rows,
        points: NDArray[np.float32] | None = None,
        voices: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """What guides the frames (n, 2): maps of points, 0 to 255, their own by default; windows.

        Of both that which the network takes. ``voices`` draws in whose voice each frame is heard;
        without, in its own.
        """
        guides = {}
        if self.model.config.uses_landmarks:
            if points is None:
                points = np.stack([clips[c].points_crop[f] for c, f in rows])
            guides["maps"] = torch.from_numpy(landmark_maps(points, self._data.size_px))
        if self.model.config.uses_audio:
            guides["windows"] = self.conditions.windows(clips, rows, voices)
        return guides

    def _guidance(self, guides: Mapping[str, Tensor], masked: Tensor) -> Guidance:
        given = {k: v.to(self.device) for k, v in guides.items() if k in ("maps", "windows")}
        if "maps" in given:
            given["maps"] = given["maps"].float() / 255
        guidance: Guidance = self.model.guide(masked, **given)
        return guidance

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        batch = self._some_whole(batch, generator)
        noised = self._noised(batch, generator)
        guidance = self._guidance(batch, batch["masked"])
        predicted = self.model(noised.noisy, noised.steps, guidance)
        weight = noised.mask * (1 + (self._mouth_weight - 1) * batch["mouth"])
        return {"loss": region_loss(predicted, noised.wanted, weight)}

    def _some_whole(
        self, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """In a few examples nothing is known but the landmarks: the whole face is made.

        They are among those whose upper faces, and so the landmarks of these, are their own.
        """
        whole = torch.rand(len(batch["mask"]), generator=generator) < self._recipe.whole_share
        chosen = (whole.to(self.device) & batch["own"])[:, None, None, None]
        return {
            **batch,
            "mask": torch.where(chosen, 1.0, batch["mask"]),
            "masked": torch.where(chosen, self._nothing_known, batch["masked"]),
        }

    def validate(self) -> dict[str, float]:
        """PSNR of lower faces under their true guidance, and under that of other frames."""
        watched = self._watched()
        guides = self._guides(self._data.validation, watched.rows)
        made = self._made(watched, guides)
        other = self._made(watched, {k: v.roll(3, 0) for k, v in guides.items()})
        return {
            "psnr_lower": watched.psnr_lower(made),
            "psnr_lower_other_points": watched.psnr_lower(other),
        }

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        watched = self._watched()
        made = self._made(watched, self._guides(self._data.validation, watched.rows))
        pairs = zip(watched.images[::2].numpy(), made[::2].numpy(), strict=True)
        return contact_sheet([tile for pair in pairs for tile in pair], 4)

    def latents(
        self,
        clips: list[ClipData],
        rows: NDArray[np.int64],
        masked: Tensor,
        chosen: SamplingConfig,
    ) -> Tensor:
        """What is made of frames (n, 2) under their own landmarks: (n, C, h, w), from one noise."""
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        mask = box_mask(boxes.to(self.device), masked.shape[-1], 8)
        guidance = self._guidance(self._guides(clips, rows), masked)
        return self._drawn(lambda z, t: self.model(z, t, guidance), masked, mask, chosen)

    def _made(self, watched: Watched, guides: Mapping[str, Tensor]) -> Tensor:
        guidance = self._guidance(guides, watched.masked)
        return self._sampled(lambda z, t: self.model(z, t, guidance), watched.masked, watched.mask)
