"""What is learned in the first four stages, and by which loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig, PriorConfig, SamplingConfig
from difftalker.data.dataset import ClipData, Dataset, frame_index, span_index
from difftalker.data.latents import LatentSet, encode_frames
from difftalker.errors import TrainingError
from difftalker.face.draw import contact_sheet, landmark_maps, overlay
from difftalker.face.landmarks import ABOVE_GAP, BELOW_GAP, CONTOUR, LOWER, MOUTH, UPPER
from difftalker.face.lips import open_as
from difftalker.landmarks.completion import CompletionNet
from difftalker.synthesis.autoencoder import MASK_VALUE, Autoencoder, mask_out, to_images, to_pixels
from difftalker.synthesis.net import Guidance, Prior, SynthesisNet
from difftalker.synthesis.region import (
    add_noise_by_region,
    box_mask,
    keep_upper,
    region_loss,
    target,
)
from difftalker.synthesis.sampling import Denoise, alpha_bars, sample, timesteps_of
from difftalker.training.cross_fit import complete, completed_by_others, fit_to

BASE_WEIGHT = 0.3
"""Of the points before audio: trained on the sum alone they drift, and the offsets undo it."""
KL_WEIGHT = 1e-3
"""Of the divergence, a number: enough to keep the latents smooth, too little to blur."""
WHOLE_SHARE = 0.12
"""Of examples in which the branch is taught to make whole faces, as synthetic footage needs; of
those whose upper face is their own."""
DEAF_SHARE = 0.15
"""Of examples that are guided by both in which nothing is heard: faces are also made without."""
OTHER_UPPER_SHARE = 0.5
"""Of examples whose upper face is of another moment, as that of footage that is dubbed: cheeks tell
of the mouth that was there, and the mouth that is wanted is the one that its guidance tells of."""
OTHER_SPEECH_SHARE = 0.3
"""Of those that hear that other moment as well: lips are as far open as they are drawn."""
ALIKE_CROP = 0.008
"""Mean distance of its points from the frame's own up to which it may stand above its mouth."""
SPEECH_JITTER = 0.3
"""Of the speech beside landmarks, in standard deviations of each feature: what is said is heard,
which frame of which clip it is is not."""
POINT_JITTER = 0.0015
"""Of drawn landmarks in training, crop units: in use they are predicted, not detected."""


class LandmarkTask:
    """Section 2.3: completion of landmarks by Eq. 1."""

    name = "landmarks"

    def __init__(
        self,
        model: CompletionNet,
        data: Dataset,
        *,
        span: int,
        lips_weight: float = 0.0,
        device: str = "cpu",
    ) -> None:
        """``lips_weight`` is that of the lips' opening beside Eq. 1."""
        self.model, self.device, self.span, self.lips_weight = model, device, span, lips_weight
        config: CompletionConfig = model.config
        self._clips, self._watched = data.train, data.validation
        self._windows = [c.windows_of_all(config.features, config.window) for c in self._clips]
        self._watched_windows = [c.windows(config.features, config.window) for c in self._watched]
        self._spans = span_index(self._clips, span)
        self.examples = len(self._spans)
        if not self.examples:
            raise TrainingError(
                f"no clip shows a face for {span} frames in a row",
                wanted="one at least",
                fix="lower training.span_frames",
            )
        fit_to(model, self._clips, self._windows)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rows = [(int(c), slice(int(f), int(f) + self.span)) for c, f in self._spans[indices]]
        points = torch.from_numpy(np.stack([self._clips[c].points_crop[s] for c, s in rows]))
        windows = torch.from_numpy(
            np.stack([_any(self._windows[c], generator)[s] for c, s in rows])
        )
        moved = _moved(points, generator)
        return {"points": moved.to(self.device), "windows": windows.to(self.device)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        points, windows = batch["points"], batch["windows"]
        # Half of the faces also hear what another said.
        also = len(points) // 2 if self.lips_weight else 0
        said, heard = points.roll(1, 0)[:also], windows.roll(1, 0)[:also]
        upper = points[:, :, list(UPPER)]
        out = self.model(torch.cat([upper, upper[:also]]), torch.cat([windows, heard]))
        own = slice(len(points))
        lower = _squared_error(out.points[own], points, LOWER)
        base = _squared_error(out.base_mouth[own], points[:, :, list(MOUTH)])
        base += _squared_error(out.base_contour[own], points[:, :, list(CONTOUR)])
        lips = _lips_error(out.points, torch.cat([points, said]))
        # Squared errors are of the order 1e-5; the scale keeps them above Adam's epsilon.
        loss = 1e3 * (lower + BASE_WEIGHT * base + self.lips_weight * lips)
        return {"loss": loss, "mse": lower, "lips": lips}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._clips[int(c)].name for c in self._spans[indices, 0]]

    def validate(self) -> dict[str, float]:
        """Mean Euclidean distances in crop units; ``other``: heard with the next clip's audio."""
        own: list[NDArray[np.float32]] = []
        other: list[NDArray[np.float32]] = []
        for i, clip in enumerate(self._watched):
            found = clip.found
            wrong = self._watched_windows[(i + 1) % len(self._watched)]
            heard = wrong[np.arange(len(clip)) % len(wrong)]
            for kept, windows in ((own, self._watched_windows[i]), (other, heard)):
                errors = self._errors(clip, windows)
                kept.append(errors[found])
        mine, theirs = np.concatenate(own), np.concatenate(other)
        contour, mouth = slice(0, len(CONTOUR)), slice(len(CONTOUR), None)
        return {
            "error": float(mine.mean()),
            "contour": float(mine[:, contour].mean()),
            "mouth": float(mine[:, mouth].mean()),
            "mouth_other_audio": float(theirs[:, mouth].mean()),
        }

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        clip = self._watched[0]
        out = complete(self.model, clip.points_crop, self._watched_windows[0], self.device)
        size = clip.frames.shape[1]
        tiles = []
        for f in np.flatnonzero(clip.found)[:: max(1, len(clip) // 8)][:8]:
            truth = overlay(clip.frames[f], clip.points_crop[f] * size)
            tiles += [truth, overlay(clip.frames[f], out[f] * size, (255, 80, 80))]
        return contact_sheet(tiles, 4)

    def _errors(self, clip: ClipData, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        out = complete(self.model, clip.points_crop, windows, self.device)
        gaps = (out - clip.points_crop)[:, list(LOWER)]
        distances: NDArray[np.float32] = np.linalg.norm(gaps, axis=-1)
        return distances


def _any(voices: Sequence[NDArray[np.float32]], generator: torch.Generator) -> NDArray[np.float32]:
    """One of several; of a single one nothing is drawn."""
    if len(voices) == 1:
        return voices[0]
    return voices[int(torch.randint(len(voices), (), generator=generator))]


def _squared_error(found: Tensor, true: Tensor, indices: Sequence[int] = ()) -> Tensor:
    """Eq. 1 over the points of ``indices``, or over all."""
    if indices:
        found, true = found[:, :, list(indices)], true[:, :, list(indices)]
    return (found.float() - true).square().sum(-1).mean()


def _lips_error(found: Tensor, true: Tensor) -> Tensor:
    """Of the ways from the inner upper lip to the lower one, (B, F, 68, 2) each.

    Eq. 1 alone leaves the lips open where they meet: a mean of many mouths is never shut.
    """
    return _squared_error(_lips(found), _lips(true))


def _lips(points: Tensor) -> Tensor:
    return points[:, :, list(BELOW_GAP)] - points[:, :, list(ABOVE_GAP)]


def _moved(points: Tensor, generator: torch.Generator) -> Tensor:
    """Points (B, F, 68, 2) turned, scaled and shifted a little, one way a span."""
    count = len(points)
    angle = torch.randn(count, generator=generator) * 0.03
    scale = 1 + torch.randn(count, generator=generator) * 0.03
    shift = torch.randn(count, 1, 1, 2, generator=generator) * 0.02
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    middle = points.mean((1, 2), keepdim=True)
    return torch.einsum("bij,bfpj->bfpi", turn, points - middle) + middle + shift


class AutoencoderTask:
    """The KL autoencoder: Section 2.4, reference 18, on whole and on painted crops.

    Half of the examples are put together as in use: latents of the hidden region from the whole
    picture, the others from the painted one, so that the decoder learns to join them seamlessly.
    """

    name = "autoencoder"

    def __init__(self, model: Autoencoder, data: Dataset, *, device: str = "cpu") -> None:
        self.model, self.device, self._data = model, device, data
        self._frames = frame_index(data.train)
        self.examples = len(self._frames)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rows = [(self._data.train[c], f) for c, f in self._frames[indices]]
        images = torch.from_numpy(np.stack([clip.frames[f] for clip, f in rows]))
        boxes = torch.from_numpy(np.stack([clip.boxes[f] for clip, f in rows]))
        hidden = torch.rand(len(rows), generator=generator) < 0.5
        boxes = torch.where(hidden[:, None], _jittered(boxes, self._data.size_px, generator), 0)
        flip = torch.rand(len(rows), generator=generator) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(2), images)
        mirrored = boxes[:, [0, 1, 3, 2]] * torch.tensor([1, 1, -1, -1])
        mirrored[:, 2:] += self._data.size_px
        boxes = torch.where((flip & hidden)[:, None], mirrored, boxes)
        return {"images": images.to(self.device), "boxes": boxes.to(self.device)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        pixels = to_pixels(batch["images"])
        joined, mean, logvar = self._joined(pixels, batch["boxes"])
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        latents = joined + (0.5 * logvar).exp() * noise
        made = self.model.decode_raw(latents).float()
        l1 = (made - pixels).abs().mean()
        edges = gradient_error(made, pixels)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {"loss": l1 + edges + KL_WEIGHT * kl, "l1": l1, "edges": edges, "kl": kl}

    def _joined(self, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means put together by region, and the whole pictures' means and log variances."""
        size = pixels.shape[-1]
        mean, logvar = (t.float() for t in self.model.posterior(pixels))
        hidden = boxes[:, 1] > boxes[:, 0]
        joined = mean.clone()
        if hidden.any():
            painted = mask_out(pixels[hidden], box_mask(boxes[hidden], size))
            clean, _ = self.model.posterior(painted)
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
        joined, _, _ = self._joined(to_pixels(images.to(self.device)), boxes.to(self.device))
        return images, to_images(self.model.decode_raw(joined)).cpu(), boxes


def psnr(made: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 tensors, dB."""
    error = (made.float() - true.float()).square().mean().clamp(min=1e-10)
    return float(10 * torch.log10(255**2 / error))


def gradient_error(made: Tensor, true: Tensor) -> Tensor:
    """L1 between neighbouring differences, at full and at half resolution: keeps edges sharp."""
    total = made.new_zeros(())
    for scale in (1, 2):
        a, b = (nnf.avg_pool2d(x, scale) if scale > 1 else x for x in (made, true))
        gap = a - b
        total = total + gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
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


class _DiffusionTask:
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
            "painted": torch.from_numpy(self._latents.masked[known]).float(),
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

    def _noised(self, batch: dict[str, Tensor], generator: torch.Generator) -> _Noised:
        """Eq. 4 at random timesteps: whole latents below, painted ones above."""
        whole, mask = batch["whole"], batch["mask"]
        steps = self._steps(len(whole), generator)
        noise = torch.randn(whole.shape, generator=generator).to(whole)
        bars = self._alpha_bars[steps.to(self.device)]
        noisy = add_noise_by_region(keep_upper(whole, batch["painted"], mask), noise, bars, mask)
        wanted = target(whole, noise, bars, self._config.prediction)
        return _Noised(noisy, steps.to(self.device), wanted, mask)

    def _steps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps (count,) to learn at."""
        return torch.randint(self._config.timesteps, (count,), generator=generator)

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._data.train[int(c)].name for c in self._latents.index[indices, 0]]

    def _watched(self) -> _Watched:
        rows = [
            (i, int(f))
            for i, c in enumerate(self._data.validation)
            for f in np.flatnonzero(c.found)[::10]
        ][:16]
        clips = self._data.validation
        whole, painted = encode_frames(self._autoencoder, clips, np.array(rows), self.device)
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        return _Watched(
            images=torch.from_numpy(np.stack([clips[c].frames[f] for c, f in rows])),
            rows=np.array(rows),
            boxes=boxes,
            painted=painted.float(),
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


class PriorTask(_DiffusionTask):
    """The prior: Eqs. 2 and 3 on whole faces for a third of the examples, else Eqs. 4 and 5.

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
        device: str = "cpu",
    ) -> None:
        super().__init__(autoencoder, data, latents, model.config, device=device)
        self.model = model

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        everywhere = torch.rand(len(batch["mask"]), generator=generator) < 1 / 3
        mask = torch.where(everywhere.to(self.device)[:, None, None, None], 1.0, batch["mask"])
        noised = self._noised({**batch, "mask": mask}, generator)
        predicted = self.model(noised.noisy, noised.steps)
        return {"loss": region_loss(predicted, noised.wanted, noised.mask)}

    def validate(self) -> dict[str, float]:
        """PSNR of lower faces guessed from the upper ones alone: landmarks are not known yet."""
        watched = self._watched()
        made = self._sampled(self.model, watched.painted, watched.mask)
        return {"psnr_lower": watched.psnr_lower(made)}

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        watched = self._watched()
        half = self._sampled(self.model, watched.painted[::4], watched.mask[::4])
        ones = torch.ones_like(watched.mask[::4])
        full = self._sampled(self.model, watched.painted[::4], ones)
        return contact_sheet([*half.numpy(), *full.numpy()], 4)


class SynthesisTask(_DiffusionTask):
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
        device: str = "cpu",
    ) -> None:
        """``speech`` says what is heard where audio is among the guidance.

        Half of the examples have one of the timesteps at which ``sampling`` asks the network; the
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
        self._speech_jitter = SPEECH_JITTER * torch.from_numpy(spread)
        learns = guidance.uses_landmarks and completed_share and self.examples
        self._completed = completed_by_others(heard, data.train) if learns else []
        nothing = torch.zeros(1, 3, data.size_px, data.size_px, device=device)
        with torch.no_grad():
            self._nothing_known = autoencoder.encode(nothing + MASK_VALUE).float()

    def _steps(self, count: int, generator: torch.Generator) -> Tensor:
        anywhere = super()._steps(count, generator)
        chosen = torch.randint(len(self._asked), (count,), generator=generator)
        half = torch.rand(count, generator=generator) < 0.5
        return torch.where(half, self._asked[chosen], anywhere)

    def _known(self, indices: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        index, known = self._latents.index, indices.copy()
        chosen = torch.rand(len(indices), generator=generator) < OTHER_UPPER_SHARE
        drawn = torch.randint(len(index), (len(indices),), generator=generator).numpy()
        for i in np.flatnonzero(chosen.numpy()):
            same_clip = self._of_clip[int(index[indices[i], 0])]
            other = same_clip[drawn[i] % len(same_clip)]
            own, above = self._upper(index[[indices[i], other]])
            if np.linalg.norm(above - own, axis=-1).mean() < ALIKE_CROP:
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
        share = OTHER_SPEECH_SHARE if self.model.config.uses_landmarks else 0.0
        other = torch.rand(len(rows), generator=generator) < share
        spoken = np.where(other.numpy()[:, None], known, rows)
        guides = self._guides(self._data.train, spoken, points, generator)
        if "maps" in guides and "windows" in guides:
            heard = guides["windows"]
            heard = heard + torch.randn(heard.shape, generator=generator) * self._speech_jitter
            deaf = torch.rand(len(rows), generator=generator) < DEAF_SHARE
            guides["windows"] = torch.where(deaf[:, None, None], 0.0, heard)
        return {**guides, "mouth": mouth, "own": torch.from_numpy(own)}

    def _in_use(
        self, points: NDArray[np.float32], known: NDArray[np.int64], generator: torch.Generator
    ) -> NDArray[np.float32]:
        """Points (B, 68, 2) as they are in use: under other upper faces, some completed.

        A completed face is of the moment of the upper one, with lips as far open as they are: what
        is drawn there is what is painted, not a guess at it by the jaw.
        """
        jitter = np.zeros_like(points)
        if self.model.config.uses_landmarks:
            jitter = (torch.randn(points.shape, generator=generator) * POINT_JITTER).numpy()
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
            chosen = [_any(one, voices) if voices else one[0] for one in spoken]
            heard = np.stack([one[f] for one, (_, f) in zip(chosen, rows, strict=True)])
            guides["windows"] = torch.from_numpy(heard)
        return guides

    def _guidance(self, guides: Mapping[str, Tensor], painted: Tensor) -> Guidance:
        given = {k: v.to(self.device) for k, v in guides.items() if k in ("maps", "windows")}
        if "maps" in given:
            given["maps"] = given["maps"].float() / 255
        guidance: Guidance = self.model.guide(painted, **given)
        return guidance

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        batch = self._some_whole(batch, generator)
        noised = self._noised(batch, generator)
        guidance = self._guidance(batch, batch["painted"])
        predicted = self.model(noised.noisy, noised.steps, guidance)
        weight = noised.mask * (1 + (self._mouth_weight - 1) * batch["mouth"])
        return {"loss": region_loss(predicted, noised.wanted, weight)}

    def _some_whole(
        self, batch: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """In a few examples nothing is known but the landmarks: the whole face is made.

        They are among those whose upper faces, and so the landmarks of these, are their own.
        """
        whole = torch.rand(len(batch["mask"]), generator=generator) < WHOLE_SHARE
        chosen = (whole.to(self.device) & batch["own"])[:, None, None, None]
        return {
            **batch,
            "mask": torch.where(chosen, 1.0, batch["mask"]),
            "painted": torch.where(chosen, self._nothing_known, batch["painted"]),
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
        painted: Tensor,
        chosen: SamplingConfig,
    ) -> Tensor:
        """What is made of frames (n, 2) under their own landmarks: (n, C, h, w), from one noise."""
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        mask = box_mask(boxes.to(self.device), painted.shape[-1], 8)
        guidance = self._guidance(self._guides(clips, rows), painted)
        return self._drawn(lambda z, t: self.model(z, t, guidance), painted, mask, chosen)

    def _made(self, watched: _Watched, guides: Mapping[str, Tensor]) -> Tensor:
        guidance = self._guidance(guides, watched.painted)
        return self._sampled(lambda z, t: self.model(z, t, guidance), watched.painted, watched.mask)


@dataclass(frozen=True)
class _Noised:
    noisy: Tensor
    steps: Tensor
    wanted: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Watched:
    """Frames held out."""

    images: Tensor
    rows: NDArray[np.int64]
    """(n, 2): clip and frame."""
    boxes: Tensor
    painted: Tensor
    mask: Tensor

    def psnr_lower(self, made: Tensor) -> float:
        size = self.images.shape[1]
        mask = box_mask(self.boxes, size).bool()[:, 0, :, :, None].expand(self.images.shape)
        return psnr(made[mask], self.images[mask])
