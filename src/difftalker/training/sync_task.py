"""Training of the sync expert: which sound belongs to which mouth, among near and far ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import StageConfig
from difftalker.data.dataset import ClipData, Dataset
from difftalker.errors import TrainingError
from difftalker.experts.sync_net import (
    FEATURES_A_FRAME,
    FRAME_RATE_HZ,
    REACH_FRAMES,
    SyncConfig,
    SyncNet,
    SyncScore,
    frames_at_rate,
    grey_mouth,
    offset_distances,
    read_score,
    shift_discrimination,
    sound_of_frames,
)
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.faces_task import balanced

SPAN_FRAMES = 50
"""Neighbouring frames of a clip in one example: each pair of windows in it is compared."""
NEUTRAL_FRAMES = 1
"""Sounds this near to a mouth's own are neither right nor wrong."""
RAREST = 2
"""How many times the clips of one person count, where others have more."""
MEL_DECADE = 0.25
"""A decade of power in Whisper's log-mels."""


STAGE = StageConfig(
    steps=1000,
    batch=12,
    learning_rate=1e-3,
    warmup_steps=50,
    weight_decay=0.05,
    ema=0.99,
    validate_every=200,
)


def job(data: Dataset, options: ExpertOptions) -> ExpertJob:
    """What `difftalker train-expert sync` trains."""
    config = SyncConfig()
    people = sorted({clip.person for clip in data.train if clip.person}) or ["s1"]
    task = SyncTask(SyncNet(config).to(options.device), data, device=options.device)
    return ExpertJob(
        task=task,
        stage=STAGE,
        config=asdict(config),
        unseen=task.validate,
        about="Measures whether a mouth fits the sound, from windows of 5 frames: sync_c and "
        "sync_d of `difftalker evaluate`.",
        corpora="the GRID audiovisual sentence corpus (Cooke, Barker, Cunningham and Shao, 2006), "
        f"speaker{'s' * (len(people) > 1)} {', '.join(people)}, CC BY 4.0",
    )


class SyncTask:
    """InfoNCE (van den Oord et al. 2018) over the offsets within a clip, and over all clips."""

    name = "sync"

    def __init__(self, model: SyncNet, data: Dataset, *, device: str = "cpu") -> None:
        self.model, self.device = model, device
        clips = (_Clip(clip) for clip in data.train if clip.found.all())
        self._clips = [clip for clip in clips if len(clip.mouths) >= SPAN_FRAMES]
        self._watched = [_Clip(clip) for clip in data.validation]
        if not self._clips:
            raise TrainingError(
                "no clip is long enough to learn sync from",
                wanted=f"{SPAN_FRAMES} frames at {FRAME_RATE_HZ:.0f} a second",
            )
        rows = np.stack([np.arange(len(self._clips)), np.zeros(len(self._clips), np.int64)], 1)
        self._index = balanced(rows, [clip.person for clip in self._clips], RAREST)[:, 0]
        self.examples = len(self._index)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        mouths, mels = [], []
        for clip in (self._clips[int(i)] for i in self._index[indices]):
            last = len(clip.mouths) - SPAN_FRAMES
            start = int(torch.randint(last + 1, (), generator=generator))
            heard = slice(start * FEATURES_A_FRAME, (start + SPAN_FRAMES) * FEATURES_A_FRAME)
            mouths.append(clip.mouths[start : start + SPAN_FRAMES])
            mels.append(clip.mel[heard])
        seen = spoil_pictures(torch.from_numpy(np.stack(mouths)).float(), generator)
        heard_mel = spoil_sound(torch.from_numpy(np.stack(mels)), generator)
        return {"mouths": seen.to(self.device), "mel": heard_mel.to(self.device)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        picture, sound = self.model.picture(batch["mouths"]), self.model.sound(batch["mel"])
        scale = self.model.log_scale.exp().clamp(max=40)
        within, among = contrastive_losses(picture, sound, scale)
        return {"loss": within + among, "within": within, "among": among}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._clips[int(i)].name for i in self._index[indices]]

    def validate(self) -> dict[str, float]:
        """On clips held out: shares found right; confidence and distance of own and other sound.

        ``told``: the clip distinguished from one shifted by 5 to 15 frames; ``offset``: the best
        offset within a frame; ``other_…``: with the next clip's sound. Of several people also each
        one's confidence.
        """
        embedded = [self._embedded(clip) for clip in self._watched]
        own = [offset_distances(picture, sound) for picture, sound in embedded]
        scores = [read_score(d) for d in own]
        figures = {
            "told": float(np.mean([shift_discrimination(d) for d in own])),
            "offset": float(np.mean([abs(s.offset_frames) <= 1 for s in scores])),
            **_means("", scores),
        }
        if len(embedded) > 1:
            sounds = [sound for _, sound in embedded[1:] + embedded[:1]]
            pairs = zip(embedded, sounds, strict=True)
            other = [read_score(offset_distances(picture, s)) for (picture, _), s in pairs]
            figures |= _means("other_", other)
        people = [clip.person for clip in self._watched]
        for person in sorted({*people} - {""}):
            of = [s.confidence for s, one in zip(scores, people, strict=True) if one == person]
            figures[f"confidence_{person}"] = float(np.mean(of))
        return figures

    def sheet(self) -> NDArray[np.uint8] | None:
        """Nothing to show; see ``trainer.Task``."""
        return None

    def _embedded(self, clip: _Clip) -> tuple[Tensor, Tensor]:
        mouths = torch.from_numpy(clip.mouths)[None].to(self.device)
        mel = torch.from_numpy(clip.mel)[None].to(self.device)
        return self.model.picture(mouths)[0].cpu(), self.model.sound(mel)[0].cpu()


def _means(prefix: str, scores: Sequence[SyncScore]) -> dict[str, float]:
    return {
        f"{prefix}confidence": float(np.mean([s.confidence for s in scores])),
        f"{prefix}distance": float(np.mean([s.distance for s in scores])),
    }


class _Clip:
    """Mouths (F, 48, 64) and log-mels (2 F, 80) of one clip of the dataset, in memory."""

    def __init__(self, clip: ClipData) -> None:
        self.name, self.person = clip.name, clip.person
        shown = frames_at_rate(clip.times_s)
        self.mouths: NDArray[np.uint8] = np.stack([grey_mouth(clip.frames[i]) for i in shown])
        self.mel = sound_of_frames(clip.features("mel"), len(shown))


def contrastive_losses(picture: Tensor, sound: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE, both ways, of embeddings (B, N, D): within each clip, and among all of them.

    Within a clip the offsets up to 15 frames compete; these are the hard ones. Among all, every
    window of the batch does. Neighbours of the right one compete in neither.
    """
    clips, count = picture.shape[:2]
    places = torch.arange(count, device=picture.device)
    gaps = (places[:, None] - places).abs()
    near = (gaps > 0) & (gaps <= NEUTRAL_FRAMES)
    inside = scale * picture @ sound.mT
    inside = inside.masked_fill(near | (gaps > REACH_FRAMES), -torch.inf)
    own = places.repeat(clips)
    within = _both_ways(inside.flatten(0, 1), inside.mT.flatten(0, 1), own)
    every = scale * picture.flatten(0, 1) @ sound.flatten(0, 1).T
    every = every.masked_fill(torch.block_diag(*[near] * clips), -torch.inf)
    among = _both_ways(every, every.T, torch.arange(clips * count, device=picture.device))
    return within, among


def _both_ways(rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
    return (nnf.cross_entropy(rows, own) + nnf.cross_entropy(columns, own)) / 2


def spoil_pictures(mouths: Tensor, generator: torch.Generator) -> Tensor:
    """Mouths (B, F, H, W), 0 to 255, as other cameras, codecs and networks would show them.

    One way a clip: mirrored, moved, scaled, turned, lighter or darker, soft by up to two pixels,
    and with noise in grains of one and of eight pixels. So sharpness is no cue.
    """
    spoilt = _moved(mouths, generator)
    spoilt = _softened(spoilt, generator)
    gamma = (0.25 * torch.randn(len(mouths), 1, 1, 1, generator=generator)).exp()
    spoilt = 255 * (spoilt.clamp(0, 255) / 255) ** gamma
    clips, frames, height, width = mouths.shape
    fine = torch.randn(mouths.shape, generator=generator)
    coarse = torch.randn(clips, frames, height // 8, width // 8, generator=generator)
    blocks = nnf.interpolate(coarse, scale_factor=8, mode="nearest")
    strength = torch.rand(2, clips, 1, 1, 1, generator=generator) ** 2
    return spoilt + 8 * strength[0] * fine + 4 * strength[1] * blocks


def _moved(mouths: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored or not, turned by some 3 degrees, scaled by some 6 %, shifted by some 3 pixels."""
    clips, _, height, width = mouths.shape
    normal = torch.randn(4, clips, generator=generator)
    angle, scale = 0.05 * normal[0], (0.06 * normal[1]).exp()
    mirror = torch.where(torch.rand(clips, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [
        torch.stack([mirror * cos, -sin * height / width, 0.08 * normal[2]], -1),
        torch.stack([mirror * sin * width / height, cos, 0.1 * normal[3]], -1),
    ]
    grid = nnf.affine_grid(torch.stack(rows, 1), [clips, 1, height, width], align_corners=False)
    return nnf.grid_sample(mouths, grid, padding_mode="border", align_corners=False)


def _softened(mouths: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the clips through a Gaussian of up to two pixels."""
    clips = len(mouths)
    sigma = 2 * torch.rand(clips, 1, generator=generator) + 1e-3
    sigma = torch.where(torch.rand(clips, 1, generator=generator) < 0.5, sigma, 1e-3)
    places = torch.arange(-4, 5)
    weights = (-0.5 * (places / sigma) ** 2).exp()
    weights /= weights.sum(1, keepdim=True)
    flat = mouths.transpose(0, 1)
    flat = nnf.pad(flat, (4, 4, 4, 4), mode="replicate")
    flat = nnf.conv2d(flat, weights[:, None, None, :], groups=clips)
    return nnf.conv2d(flat, weights[:, None, :, None], groups=clips).transpose(0, 1)


def spoil_sound(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mels (B, T, 80) of a louder or softer, higher or lower voice in more or less noise."""
    clips, _, mels = mel.shape
    shift = torch.randint(-3, 4, (clips,), generator=generator)
    places = (torch.arange(mels) + shift[:, None]).clamp(0, mels - 1)
    heard = mel.gather(2, places[:, None].expand(mel.shape))
    level = 0.4 * torch.randn(clips, 1, 1, generator=generator)
    tilt = 0.2 * torch.randn(clips, 1, 1, generator=generator) * torch.linspace(-1, 1, mels)
    decades = heard / MEL_DECADE + level + tilt
    below = 2 + 5 * torch.rand(clips, 1, 1, generator=generator)
    noise = decades.amax((1, 2), keepdim=True) - below
    noise = noise + 0.25 * torch.randn(mel.shape, generator=generator)
    nats = float(np.log(10))
    return torch.logaddexp(decades * nats, noise * nats) / nats * MEL_DECADE
