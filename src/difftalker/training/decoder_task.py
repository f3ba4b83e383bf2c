"""The last stage: a decoder tuned to what the diffusion makes of this speaker.

The autoencoder learned to decode latents of real pictures. Those that the diffusion makes are
softer: decoded they give blurred teeth and lips. Here the decoder alone learns on, from latents as
they are made in use, towards the real pictures; a critic of patches keeps it from taking the mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.config import DecoderRecipe, SamplingConfig
from difftalker.core.device import autocast
from difftalker.data.dataset import ClipData, Dataset, frame_index
from difftalker.data.latents import encode_frames, identity, keep
from difftalker.experts.critic import Critic, fine
from difftalker.face.draw import contact_sheet
from difftalker.synthesis.autoencoder import Autoencoder, high_pass, to_images, to_pixels
from difftalker.synthesis.region import box_mask
from difftalker.training.bars import bar
from difftalker.training.calibrate import missing_detail, openings_of
from difftalker.training.tasks import SynthesisTask, mouth_mask, psnr
from difftalker.training.tasks.pictures import Places, draw_corners, on_device, picture_loss


class DecoderTask:
    """The decoder against its critic; the encoder stays, so latents keep their meaning."""

    name = "decoder"

    def __init__(
        self,
        autoencoder: Autoencoder,
        synthesis: SynthesisTask,
        data: Dataset,
        sampling: SamplingConfig,
        folder: Path,
        *,
        stride: int,
        autocast: bool = True,
        recipe: DecoderRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        """``folder`` keeps the latents of every ``stride``-th frame, made with ``sampling``."""
        self._data, self._maker, self._sampling, self.device = data, synthesis, sampling, device
        self._autoencoder, self._critic = autoencoder, Critic().to(device)
        self.model = nn.ModuleDict({"autoencoder": autoencoder, "critic": self._critic})
        autoencoder.requires_grad_(False)
        autoencoder.kl.decoder.requires_grad_(True)
        autoencoder.kl.post_quant_conv.requires_grad_(True)
        if torch.device(device).type == "cpu":
            # Backwards through frozen channels-last convolutions torch 2.13 crashes.
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._index, self._autocast = frame_index(data.train, stride), autocast
        self._recipe = recipe or DecoderRecipe()
        self.examples = len(self._index)
        self._folder = folder
        # Before a checkpoint is read: the encoder decides, and the tuned decoder does not.
        self._made_of = identity([autoencoder, synthesis.model], data.train, stride)
        self._made_of["sampling"] = [sampling.sampler, sampling.steps]

    def prepare(self) -> None:
        """Sample the latents to learn from, or read them; see ``trainer.Prepares``."""
        clips = self._data.train
        with bar("latents") as progress:
            (self._latents,) = keep(
                self._folder,
                ("made",),
                self._index,
                lambda rows: [self._made(clips, rows)],
                self._made_of,
                progress,
            )

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rows = [(self._data.train[c], f) for c, f in self._index[indices]]
        boxes = torch.from_numpy(np.stack([clip.boxes[f] for clip, f in rows]))
        points = torch.from_numpy(np.stack([clip.points_crop[f] for clip, f in rows]))
        size_px = self._data.size_px
        batch = {
            "images": torch.from_numpy(np.stack([clip.frames[f] for clip, f in rows])),
            "latents": torch.from_numpy(self._latents[indices]).float(),
            "boxes": boxes,
            "mouth": mouth_mask(points, size_px // 8),
            "corners": draw_corners(boxes, (size_px, size_px), size_px // 2, generator),
        }
        return on_device(batch, self.device)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        made = self._autoencoder.decode(batch["latents"]).float()
        return picture_loss(
            made,
            to_pixels(batch["images"]),
            Places(boxes=batch["boxes"], mouth=batch["mouth"], corners=batch["corners"]),
            self._critic,
            self._recipe,
            last=self._autoencoder.kl.decoder.conv_out.weight,
            side_px=self._data.size_px // 2,
        )

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._data.train[int(c)].name for c in self._index[indices, 0]]

    def validate(self) -> dict[str, float]:
        """PSNR (dB) and fine detail of the hidden region, held out; detail of the footage is 1."""
        true, made, boxes = self._watched()
        mask = box_mask(boxes, true.shape[1])
        hidden = mask.bool()[:, 0, :, :, None].expand(true.shape)
        details = [_detail(to_pixels(x), mask) for x in (made, true)]
        return {
            "psnr_lower": psnr(made[hidden], true[hidden]),
            "sharpness": float(details[0] / details[1]),
        }

    @torch.no_grad()
    def detail(self) -> float:
        """How much of their finest held-out pictures lack; see ``calibrate.missing_detail``."""
        true, made, boxes = self._watched()
        return missing_detail(true, made, boxes, self._data.validation[0].side_px)

    @torch.no_grad()
    def openings(self, detail: float) -> tuple[float, ...]:
        """How much wider mouths are drawn than generated; see ``calibrate.openings_of``."""

        def render(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
            pixels = self._autoencoder.decode(self._made(self._data.validation, rows)).float()
            shown: NDArray[np.uint8] = to_images(pixels + detail * high_pass(pixels)).cpu().numpy()
            return shown

        return openings_of(self._data.validation, render)

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        true, made, _ = self._watched()
        pairs = zip(true[::2].numpy(), made[::2].numpy(), strict=True)
        return contact_sheet([tile for pair in pairs for tile in pair], 4)

    def _watched(self) -> tuple[Tensor, Tensor, Tensor]:
        clips = self._data.validation
        rows = frame_index(clips, 10)[:16]
        true = torch.from_numpy(np.stack([clips[c].frames[f] for c, f in rows]))
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        made = self._autoencoder.decode(self._made(clips, rows))
        return true, to_images(made).cpu(), boxes

    def _made(self, clips: list[ClipData], rows: NDArray[np.int64]) -> Tensor:
        """Latents (n, C, h, w) as they are made in use, under the frames' own landmarks."""
        with autocast(self.device, self._autocast):
            _, masked = encode_frames(self._autoencoder, clips, rows, self.device)
            return self._maker.latents(clips, rows, masked.float(), self._sampling)


def _detail(pixels: Tensor, mask: Tensor) -> Tensor:
    """Mean energy of fine detail within the mask."""
    return (fine(pixels).square().mean(1, keepdim=True) * mask).sum() / mask.sum()
