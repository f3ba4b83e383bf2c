"""The last stage: a decoder tuned to what the diffusion makes of this speaker.

The autoencoder learned to decode latents of real pictures. Those that the diffusion makes are
softer: decoded they give blurred teeth and lips. Here the decoder alone learns on, from latents as
they are made in use, towards the real pictures; a critic of patches keeps it from taking the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import DecoderRecipe, SamplingConfig
from difftalker.core.device import autocast
from difftalker.data.dataset import ClipData, Dataset, frame_index
from difftalker.data.latents import encode_frames, identity, keep
from difftalker.errors import FaceError
from difftalker.experts.critic import Critic, critic_loss, feature_loss, fine, generator_loss
from difftalker.face.compose.blend import paste
from difftalker.face.crop import CropTrack, cut
from difftalker.face.detect.track import track
from difftalker.face.draw import contact_sheet
from difftalker.face.lips import opening_correction, relative_opening
from difftalker.media.video import Frame
from difftalker.synthesis.autoencoder import Autoencoder, high_pass, to_images, to_pixels
from difftalker.synthesis.region import box_mask
from difftalker.training.sources import bar
from difftalker.training.tasks import SynthesisTask, gradient_error, mouth_mask, psnr

HALVINGS = 8
CHUNK = 32
"""Frames that are generated at once, to detect their mouths."""
EDGE_PX = 4
"""At a crop's lower edge, where there is no footage in this measurement."""
MOST_DETAIL = 1.0
"""More of the finest would show as an edge's double."""


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
        batch = {
            "images": torch.from_numpy(np.stack([clip.frames[f] for clip, f in rows])),
            "latents": torch.from_numpy(self._latents[indices]).float(),
            "boxes": boxes,
            "mouth": mouth_mask(points, self._data.size_px // 8),
            "corners": _corners(boxes, self._data.size_px, generator),
        }
        return {k: v.to(self.device) for k, v in batch.items()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        true = to_pixels(batch["images"])
        made = self._autoencoder.decode(batch["latents"]).float()
        distance = self._distance(made, true)
        # In dubbing nothing else is shown, and of that the mouth is looked at.
        near = _near(box_mask(batch["boxes"], true.shape[-1]), self._recipe.margin_px)
        mouth = nnf.interpolate(batch["mouth"], scale_factor=8.0)
        for place in (near, mouth):
            shown = torch.where(place > 0, made, true)
            distance = distance + self._distance(shown, true) / place.mean().clamp(min=1e-3)
        patches, real = (_cut(x, batch["corners"]) for x in (made, true))
        judged_real = self._critic(real)
        judged = self._critic.frozen(patches)
        pull = generator_loss(judged)
        pull = pull + self._recipe.feature_weight * feature_loss(judged_real, judged)
        weight = self._weight(distance, pull)
        critic = critic_loss(judged_real, self._critic(patches.detach()))
        return {
            "loss": distance + weight * pull + critic,
            "distance": distance,
            "pull": pull,
            "weight": weight,
            "critic": critic,
        }

    def _distance(self, made: Tensor, true: Tensor) -> Tensor:
        error = (made - true).abs().mean() + gradient_error(made, true)
        return error + self._recipe.detail_weight * _detail_error(made, true)

    def _weight(self, distance: Tensor, pull: Tensor) -> Tensor:
        """What makes the critic's pull on the last layer as strong as it should be."""
        last = self._autoencoder.kl.decoder.conv_out.weight
        a, b = (torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (distance, pull))
        weight: Tensor = self._recipe.critic_share * a / b.clamp(min=1e-6)
        return weight.clamp(max=100).detach()

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
        """How much of their finest held-out pictures lack (``Calibration.detail``).

        With it the detail of the hidden region, as it comes out of a dubbing in the pixels of the
        footage, is the footage's own, by the measure of the evaluation: the mean squared Laplacian
        of the luma.
        """
        true, made, boxes = self._watched()
        side_px = self._data.validation[0].side_px
        wanted, pixels = _detail_energy(true.numpy(), boxes), to_pixels(made)
        low, high = 0.0, MOST_DETAIL
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            shown = to_images(pixels + middle * high_pass(pixels)).cpu().numpy()
            found = _detail_energy(np.stack([_dubbed(one, side_px) for one in shown]), boxes)
            low, high = (middle, high) if found < wanted else (low, middle)
        return round(low, 2)

    @torch.no_grad()
    def openings(self, detail: float) -> tuple[float, ...]:
        """How much wider mouths are drawn than they are generated (``Calibration.openings``).

        By what is detected on held-out pictures and on generated ones with such ``detail``; of few
        frames, or faces that are not found, nothing is said.
        """
        seen: list[NDArray[np.floating]] = []
        generated: list[NDArray[np.floating]] = []
        for number, clip in enumerate(self._data.validation):
            rows = np.array([(number, f) for f in np.flatnonzero(clip.found)]).reshape(-1, 2)
            true = [clip.frames[f] for _, f in rows]
            made = []
            for start in range(0, len(rows), CHUNK):
                latents = self._made(self._data.validation, rows[start : start + CHUNK])
                pixels = self._autoencoder.decode(latents).float()
                made += [*to_images(pixels + detail * high_pass(pixels)).cpu().numpy()]
            for pictures, found in ((true, seen), (made, generated)):
                found.append(openings_found(pictures, clip.times_s[rows[:, 1]]))
        return opening_correction(np.concatenate(seen), np.concatenate(generated))

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


def openings_found(
    pictures: Sequence[NDArray[np.uint8]], times_s: NDArray[np.float64]
) -> NDArray[np.floating]:
    """(n,): how far the mouths are open that are found on pictures (S, S, 3); else not numbers."""
    frames = [
        Frame(image=np.ascontiguousarray(one), pts=i, time_s=float(time_s))
        for i, (one, time_s) in enumerate(zip(pictures, times_s, strict=True))
    ]
    try:
        return relative_opening(track(frames).points_px)
    except FaceError:
        return np.full(len(frames), np.nan)


def _dubbed(picture: NDArray[np.uint8], side_px: float) -> NDArray[np.uint8]:
    """A crop (S, S, 3) laid into footage where it is ``side_px`` wide, and cut out of it again."""
    size, whole = len(picture), int(side_px)
    crop = CropTrack(
        centre_px=np.full((1, 2), whole / 2, np.float32), side_px=np.full(1, whole, np.float32)
    )
    frame = np.zeros((whole, whole, 3), np.uint8)
    return cut(paste(frame, picture, np.ones((size, size), np.float32), crop, 0), crop, 0, size)


def _detail_energy(pictures: NDArray[np.uint8], boxes: Tensor) -> float:
    """Mean squared Laplacian of the luma within boxes; (N, S, S, 3), (N, 4)."""
    found = []
    for picture, (top, bottom, left, right) in zip(pictures, boxes.tolist(), strict=True):
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        detail = cv2.Laplacian(luma, cv2.CV_32F)[top : bottom - EDGE_PX, left:right]
        found.append(float(np.mean(np.square(detail))))
    return float(np.mean(found))


def _near(mask: Tensor, margin_px: int) -> Tensor:
    """A mask (B, 1, S, S), grown by the margin."""
    return nnf.max_pool2d(mask, 2 * margin_px + 1, stride=1, padding=margin_px)


def _corners(boxes: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(B, 2): top and left of patches, half the crop a side, whose middles lie in the boxes."""
    low, high = boxes[:, [0, 2]].float(), boxes[:, [1, 3]].float()
    middles = low + (high - low) * torch.rand(low.shape, generator=generator)
    return (middles - size / 4).round().long().clamp(0, size - size // 2)


def _cut(pixels: Tensor, corners: Tensor) -> Tensor:
    """Patches (B, 3, S/2, S/2) at these corners."""
    side = pixels.shape[-1] // 2
    return torch.stack(
        [
            one[:, top : top + side, left : left + side]
            for one, (top, left) in zip(pixels, corners.tolist(), strict=True)
        ]
    )


def _detail_error(made: Tensor, true: Tensor) -> Tensor:
    """L1 of the root mean square of fine detail in squares of 8 pixels, at three scales."""
    total = made.new_zeros(())
    for size in (3, 5, 9):
        a, b = (_amount(fine(x, size)) for x in (made, true))
        total = total + (a - b).abs().mean()
    return total


def _amount(detail: Tensor) -> Tensor:
    # Far below a grey level there is nothing to tell, and a root is steep.
    return (nnf.avg_pool2d(detail.square(), 8, 4) + 1e-6).sqrt()


def _detail(pixels: Tensor, mask: Tensor) -> Tensor:
    """Mean energy of fine detail within the mask."""
    return (fine(pixels).square().mean(1, keepdim=True) * mask).sum() / mask.sum()
