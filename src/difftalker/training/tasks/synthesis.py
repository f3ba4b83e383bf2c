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
from difftalker.face.landmarks import UPPER
from difftalker.face.lips import open_as
from difftalker.synthesis.autoencoder import MASK_VALUE, Autoencoder
from difftalker.synthesis.net import Guidance, SynthesisNet
from difftalker.synthesis.region import box_mask, region_loss
from difftalker.synthesis.sampling import timesteps_of
from difftalker.training.cross_fit import completed_by_others
from difftalker.training.tasks.autoencoder import mouth_mask
from difftalker.training.tasks.diffusion import DiffusionTask, Watched
from difftalker.training.tasks.landmarks import any_voice


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
        self._mouth_weight, self._completed_share = mouth_weight, completed_share
        self._recipe = recipe or SynthesisRecipe()
        clips = latents.index[:, 0]
        self._of_clip = {int(c): np.flatnonzero(clips == c) for c in np.unique(clips)}
        self.model, guidance = model, model.config
        heard = speech or CompletionConfig()
        self._windows = {
            clip.name: clip.windows_of_all(heard.features, heard.window)
            for clip in (data.train + data.validation if guidance.uses_audio else [])
        }
        middles = [voices[0][:, heard.window // 2] for voices in self._windows.values()]
        spread = np.concatenate(middles).std(0) if middles else np.zeros(0, np.float32)
        self._speech_jitter = self._recipe.speech_jitter * torch.from_numpy(spread)
        self._heard, self._completed = heard, list[NDArray[np.float32]]()
        nothing = torch.zeros(1, 3, data.size_px, data.size_px, device=device)
        with torch.no_grad():
            self._nothing_known = autoencoder.encode(nothing + MASK_VALUE).float()

    def prepare(self) -> None:
        """Complete each clip's landmarks by fits to the others; see ``trainer.Prepares``."""
        if self.model.config.uses_landmarks and self._completed_share and self.examples:
            self._completed = completed_by_others(self._heard, self._data.train)

    def _steps(self, count: int, generator: torch.Generator) -> Tensor:
        anywhere = super()._steps(count, generator)
        chosen = torch.randint(len(self._asked), (count,), generator=generator)
        in_use = torch.rand(count, generator=generator) < self._recipe.sampler_share
        return torch.where(in_use, self._asked[chosen], anywhere)

    def _known(self, indices: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        index, known = self._latents.index, indices.copy()
        chosen = torch.rand(len(indices), generator=generator) < self._recipe.other_upper_share
        drawn = torch.randint(len(index), (len(indices),), generator=generator).numpy()
        for i in np.flatnonzero(chosen.numpy()):
            same_clip = self._of_clip[int(index[indices[i], 0])]
            other = same_clip[drawn[i] % len(same_clip)]
            own, above = self._upper(index[[indices[i], other]])
            if np.linalg.norm(above - own, axis=-1).mean() < self._recipe.alike_crop:
                known[i] = other
        return known

    def _upper(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Upper points (n, 37, 2) of the frames (n, 2)."""
        return np.stack([self._data.train[c].points_crop[f, list(UPPER)] for c, f in rows])

    def _extra(
        self, rows: NDArray[np.int64], known: NDArray[np.int64], generator: torch.Generator
    ) -> dict[str, Tensor]:
        points = np.stack([self._data.train[c].points_crop[f] for c, f in rows])
        mouth = mouth_mask(torch.from_numpy(points), self._latents.whole.shape[-1])
        points, own = self._in_use(points, known, generator), (rows == known).all(1)
        share = self._recipe.other_speech_share if self.model.config.uses_landmarks else 0.0
        other = torch.rand(len(rows), generator=generator) < share
        spoken = np.where(other.numpy()[:, None], known, rows)
        guides = self._guides(self._data.train, spoken, points, generator)
        if "maps" in guides and "windows" in guides:
            heard = guides["windows"]
            heard = heard + torch.randn(heard.shape, generator=generator) * self._speech_jitter
            deaf = torch.rand(len(rows), generator=generator) < self._recipe.deaf_share
            guides["windows"] = torch.where(deaf[:, None, None], 0.0, heard)
        return {**guides, "mouth": mouth, "own": torch.from_numpy(own)}

    def _in_use(
        self, points: NDArray[np.float32], known: NDArray[np.int64], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """Points (B, 68, 2) as they are in use: under other upper faces, some completed.

        A completed face is of the moment of the upper one, with lips as far open as they are: what
        is drawn there is what is generated, not a guess at it by the jaw.
        """
        jitter = np.zeros_like(points)
        if self.model.config.uses_landmarks:
            noise = torch.randn(points.shape, generator=generator)
            jitter = (noise * self._recipe.point_jitter).numpy()
        drawn = points + jitter
        if self._completed:
            faces = np.stack([self._completed[c][f] for c, f in known])
            completed = open_as(faces + jitter, points)
            chosen = torch.rand(len(points), generator=generator) < self._completed_share
            drawn = np.where(chosen.numpy()[:, None, None], completed, drawn)
        drawn[:, list(UPPER)] = self._upper(known) + jitter[:, list(UPPER)]
        return drawn

    def _guides(
        self,
        clips: list[ClipData],
        rows: NDArray[np.int64],
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
            spoken = [self._windows[clips[c].name] for c, _ in rows]
            chosen = [any_voice(one, voices) if voices else one[0] for one in spoken]
            heard = np.stack([one[f] for one, (_, f) in zip(chosen, rows, strict=True)])
            guides["windows"] = torch.from_numpy(heard)
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
