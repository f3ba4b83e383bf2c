"""What the baselines' networks are made of: a U-Net on patches of pixels, encoders of speech.

Shape letters: B frames, S side of the crop, h w positions of a level, D channels of a level,
V size of a vector, W features in a window of speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import checks
from difftalker.synthesis.light import Encoder, ResidualBlock


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """What every baseline's network has; numbers alone, as they are kept in config.json."""

    size_px: int = 256
    """Side of the crops, as the dataset has it."""
    feature_dim: int = 80
    """Width of the speech features, as the dataset has them."""
    window: int = 16
    """Speech features around a frame, at 50 Hz."""
    patch: int = 4
    """Pixels a side that go into one position before the first convolution."""
    channels: tuple[int, ...] = (32, 64, 96, 128)
    """Widths of the U-Net, finest level first."""
    speech_dim: int = 128
    """Size of what is read from a window of speech."""
    batch: int = 16
    """Frames in a step of the networks of pictures."""
    learning_rate: float = 5e-4
    """That of the networks of pictures."""

    def __post_init__(self) -> None:
        checks.channels(self.channels)
        checks.positive(self, "size_px", "feature_dim", "window", "patch", "batch", "learning_rate")
        checks.up_to(4096, self, "speech_dim")
        step = self.patch * 2 ** (len(self.channels) - 1)
        fits = self.size_px % step == 0
        checks.check(fits, "size_px", self.size_px, f"a multiple of {step}, the coarsest position")


class PatchUNet(nn.Module):
    """Pictures and a vector to pictures (Ronneberger et al., "U-Net", 2015), patch by patch."""

    def __init__(
        self, seen: int, made: int, config: BaselineConfig, *, vector: int = 0, levels: int = 0
    ) -> None:
        """``seen`` and ``made`` are channels of pictures.

        The ``vector`` scales and shifts the features of so many coarse ``levels``.
        """
        super().__init__()
        widths, self.patch = config.channels, config.patch
        self.encoder = Encoder(seen * self.patch**2, widths)
        self.middle = ResidualBlock(widths[-1])
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])
        first = len(widths) - levels
        self.modulated = range(first, len(widths))
        self.modulations = nn.ModuleList(Modulation(vector, width) for width in widths[first:])
        self.out = nn.Conv2d(widths[0], made * self.patch**2, 3, padding=1)

    def forward(self, pictures: Tensor, vector: Tensor | None = None) -> Tensor:
        """(B, seen, S, S), (B, V) -> (B, made, S, S)."""
        layout = pictures.contiguous(memory_format=torch.channels_last)
        levels = self.encoder(nnf.pixel_unshuffle(layout, self.patch))
        if vector is not None:
            for level, modulation in zip(self.modulated, self.modulations, strict=True):
                levels[level] = modulation(levels[level], vector)
        x = self.middle(levels[-1])
        for up, block, level in reversed(list(zip(self.up, self.blocks, levels[:-1], strict=True))):
            x = block(nnf.interpolate(up(x), scale_factor=2.0) + level)
        return nnf.pixel_shuffle(self.out(nnf.relu(x)), self.patch)


class Modulation(nn.Module):
    """Scales and shifts features by a vector (Perez et al., "FiLM", 2018); at first not at all."""

    def __init__(self, vector: int, width: int) -> None:
        super().__init__()
        self.write = nn.Linear(vector, 2 * width)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(B, D, h, w), (B, V) -> (B, D, h, w)."""
        scale, shift = self.write(vector)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class WindowEncoder(nn.Module):
    """Convolutions over the time of a window of speech features."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.layers = nn.Sequential(
            nn.Conv1d(config.feature_dim, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * -(-config.window // 4), width),
            nn.ReLU(),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(B, W, features) -> (B, V)."""
        read: Tensor = self.layers(windows.mT)
        return read


class ConformerBlock(nn.Module):
    """Half a feed-forward network, attention, a convolution, the other half.

    Gulati et al., "Conformer" (2020), Figure 1.
    """

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.before, self.after = _feed_forward(width), _feed_forward(width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.widen = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GLU())
        self.along = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.join = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.last = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, V) -> (B, W, V)."""
        x = x + self.before(x) / 2
        seen = self.norm(x)
        x = x + self.attention(seen, seen, seen, need_weights=False)[0]
        x = x + self.join(self.along(self.widen(x).mT).mT)
        out: Tensor = self.last(x + self.after(x) / 2)
        return out


def _feed_forward(width: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
    )


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Numbers (B,) as sines and cosines (B, width), as Vaswani et al. (2017) write positions."""
    half = torch.arange(width // 2, device=t.device) / (width // 2)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * half)
    return torch.cat([angles.sin(), angles.cos()], 1)


def picture_error(made: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """L1 of pictures (B, 3, S, S): the mean over all pixels and that over the mask (B, 1, S, S).

    In a dub nothing but the mask is shown; around it colours are compared with the footage's.
    """
    gap = (made.float() - true).abs()
    inside = (gap * mask).sum() / (3 * mask.sum()).clamp(min=1)
    return gap.mean() + inside
