"""The lip reader: reads the words of GRID's sentences from the mouth alone.

    views (B, F, 48, 64) and lip points (B, F, 31, 2)
      -> features of each frame and its neighbours             (B, F, D)
      -> where in time each part of each word stands           (B, F, 18)   attention over frames
      -> one word for each of the six places                   6 x (B, words)

Features depend on a few frames, the attention on all of them. The network uses no sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.errors import UsageError
from difftalker.face.landmarks import LOWER
from difftalker.speech.grid import GRAMMAR, PHONES

VIEW_PX = (48, 64)
"""Height and width of the network's input, pixels."""

MIRRORED = tuple(
    LOWER.index(point)
    for point in (
        *range(13, 2, -1), 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,
        64, 63, 62, 61, 60, 67, 66, 65,
    )
)  # fmt: skip
"""Index of the lower point that takes each one's place in a mirrored picture."""

_SHIFTS_PX = ((0, 0), (-2, -2), (2, 2), (-2, 2), (2, -2))
"""Shifts of the pictures over which reading takes the mean, plain and mirrored."""


@dataclass(frozen=True, kw_only=True)
class LipReaderConfig:
    """Sizes of the lip reader."""

    channels: tuple[int, ...] = (32, 48, 64, 96)
    """Channels of the convolutions over pictures; each halves the size."""
    frames: int = 3
    """Neighbouring pictures in the input of the first convolution; odd."""
    width: int = 160
    """Width of the features of a frame."""
    blocks: int = 2
    """Number of convolutions over time, of five frames each."""
    context: int = 96
    """Width of the recurrent network that finds the words, in each direction."""
    parts: int = 3
    """Parts of a word with an attention of their own."""
    heard_dim: int = 768
    """Width of a frame's speech features, an auxiliary target in training."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if min(self.channels) <= 0 or min(self.width, self.context, self.parts) <= 0:
            raise UsageError("a size of the lip reader is 0 or less", wanted="positive numbers")
        if self.frames % 2 == 0:
            raise UsageError(f"frames is {self.frames}", wanted="an odd number")


@dataclass(frozen=True)
class Reading:
    """Output of the lip reader, as logits."""

    words: list[Tensor]
    """(B, words) for each place."""
    where: Tensor
    """(B, F, places, parts): attention, to be normalised over frames."""
    phones: Tensor
    """(B, F, phones and silence): an auxiliary target in training."""
    heard: Tensor
    """(B, F, heard_dim): predicted speech features, an auxiliary target in training."""


class LipReader(nn.Module):
    """Mouth pictures and lip points to words."""

    def __init__(self, config: LipReaderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pictures = _PictureNet(config)
        self.points = nn.Sequential(nn.Linear(4 * len(LOWER), 128), nn.GELU(), nn.Linear(128, 64))
        self.joined = nn.Linear(width + 64, width)
        self.over_time = nn.ModuleList(_TimeBlock(config) for _ in range(config.blocks))
        self.finder = nn.GRU(width, config.context, batch_first=True, bidirectional=True)
        self.where = nn.Linear(2 * config.context, len(GRAMMAR) * config.parts)
        self.words = nn.ModuleList(nn.Linear(config.parts * width, len(slot)) for slot in GRAMMAR)
        self.phones = nn.Linear(width, len(PHONES) + 1)
        self.heard = nn.Linear(width, config.heard_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.mean_points: Tensor
        self.register_buffer("mean_points", torch.zeros(len(LOWER), 2))

    def forward(self, views: Tensor, points: Tensor) -> Reading:
        """Views (B, F, 48, 64), 0 to 255, and points (B, F, 31, 2) in head units."""
        seen = torch.cat([self.pictures(views), self.points(self._moving(points))], -1)
        seen = self.joined(self.dropout(seen))
        for block in self.over_time:
            seen = block(seen)
        context, _ = self.finder(self.dropout(seen))
        where: Tensor = self.where(context)
        looked = torch.einsum("bfq,bfd->bqd", where.float().softmax(1).to(seen), seen)
        per_slot = looked.unflatten(1, (len(GRAMMAR), self.config.parts)).flatten(2)
        words = [
            head(self.dropout(per_slot[:, slot])).float() for slot, head in enumerate(self.words)
        ]
        return Reading(
            words=words,
            where=where.unflatten(-1, (len(GRAMMAR), self.config.parts)).float(),
            phones=self.phones(seen).float(),
            heard=self.heard(seen).float(),
        )

    def _moving(self, points: Tensor) -> Tensor:
        """Positions and velocities, about 1 in size: (B, F, 31, 2) -> (B, F, 124)."""
        around = nnf.pad(points.flatten(2).transpose(1, 2), (1, 1), "replicate").transpose(1, 2)
        speed = (around[:, 2:] - around[:, :-2]) / 2
        return torch.cat([(points - self.mean_points).flatten(2) * 10, speed * 30], -1)


@torch.no_grad()
def read(
    model: LipReader, views: NDArray[np.uint8], points: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Read the probabilities (words,) for each place; views (F, 56, 72), points (F, 31, 2).

    They are geometric means over several shifts of the same mouth.
    """
    pictures, places = torch.from_numpy(views), torch.from_numpy(points)
    seen = torch.stack([_cut(pictures, *shift) for shift in _SHIFTS_PX])
    both = torch.cat([seen, seen.flip(-1)])
    copies = len(_SHIFTS_PX), *places.shape
    lips = torch.cat([places.expand(copies), mirrored(places).expand(copies)])
    device = model.mean_points.device
    out = model(both.to(device), lips.to(device))
    return [words.log_softmax(-1).mean(0).softmax(-1).cpu().numpy() for words in out.words]


def mirrored(points: Tensor) -> Tensor:
    """Mirror lower points (..., 31, 2), head units."""
    flipped: Tensor = points[..., list(MIRRORED), :] * points.new_tensor([-1.0, 1.0])
    return flipped


def _cut(views: Tensor, down: int, right: int) -> Tensor:
    height, width = VIEW_PX
    top, left = ((whole - part) // 2 for whole, part in zip(views.shape[-2:], VIEW_PX, strict=True))
    top, left = top + down, left + right
    return views[..., top : top + height, left : left + width]


class _PictureNet(nn.Module):
    """(B, F, 48, 64) -> (B, F, width): convolutions over a picture and its neighbours in time."""

    def __init__(self, config: LipReaderConfig) -> None:
        super().__init__()
        self.frames = config.frames
        layers: list[nn.Module] = []
        before = config.frames
        for level, channels in enumerate(config.channels):
            size = 5 if level == 0 else 3
            layers += [
                nn.Conv2d(before, channels, size, 2, size // 2, bias=False),
                nn.GroupNorm(8, channels),
                nn.ReLU(inplace=True),
            ]
            before = channels
        self.layers = nn.Sequential(*layers)
        scale = 2 ** len(config.channels)
        places = -(-VIEW_PX[0] // scale) * -(-VIEW_PX[1] // scale)
        self.out = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(before * places, config.width), nn.GELU()
        )

    def forward(self, views: Tensor) -> Tensor:
        views = views.float()
        mean = views.mean((1, 2, 3), keepdim=True)
        spread = views.std((1, 2, 3), keepdim=True)
        normal = (views - mean) / (spread + 1)
        half = self.frames // 2
        ends = [normal[:, :1]] * half, [normal[:, -1:]] * half
        padded = torch.cat([*ends[0], normal, *ends[1]], 1)
        stacks = padded.unfold(1, self.frames, 1).permute(0, 1, 4, 2, 3).flatten(0, 1)
        seen = self.layers(stacks.contiguous()).flatten(1)
        out: Tensor = self.out(seen).unflatten(0, views.shape[:2])
        return out


class _TimeBlock(nn.Module):
    """A residual convolution over five frames, (B, F, D) -> the same."""

    def __init__(self, config: LipReaderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.conv = nn.Conv1d(config.width, config.width, 5, padding=2)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, seen: Tensor) -> Tensor:
        around = self.conv(self.norm(seen).transpose(1, 2)).transpose(1, 2)
        out: Tensor = seen + self.dropout(self.out(nnf.gelu(around)))
        return out
