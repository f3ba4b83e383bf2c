"""What the baselines' networks are made of: a U-Net on patches of pixels, encoders of speech.

Shape letters: B frames, S side of the crop, h w positions of a level, D channels of a level,
V size of a vector, W features in a window of speech.
"""

from __future__ import annotations

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
    channels: tuple[int, ...] = (48, 96, 128, 128)
    """Widths of the U-Net, finest level first; by default those of the light network."""
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

        The ``vector`` scales and shifts the features of so many coarse ``levels``; if that is all
        of them, also what goes straight from input to output.
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
        # A position has fewer features than pixels: noise and what is seen need another way.
        self.straight = nn.Conv2d(seen * self.patch**2, made * self.patch**2, 1, bias=False)
        nn.init.zeros_(self.straight.weight)
        self.gain = Modulation(vector, made * self.patch**2) if not first else None

    def forward(self, pictures: Tensor, vector: Tensor | None = None) -> Tensor:
        """(B, seen, S, S), (B, V) -> (B, made, S, S)."""
        layout = pictures.contiguous(memory_format=torch.channels_last)
        patches = nnf.pixel_unshuffle(layout, self.patch)
        levels, straight = self.encoder(patches), self.straight(patches)
        if vector is not None and self.gain is not None:
            straight = self.gain(straight, vector)
        if vector is not None:
            for level, modulation in zip(self.modulated, self.modulations, strict=True):
                levels[level] = modulation(levels[level], vector)
        x = self.middle(levels[-1])
        for up, block, level in reversed(list(zip(self.up, self.blocks, levels[:-1], strict=True))):
            x = block(nnf.interpolate(up(x), scale_factor=2.0) + level)
        out: Tensor = self.out(nnf.relu(x)) + straight
        return nnf.pixel_shuffle(out, self.patch)


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
        moved: Tensor = x * (1 + scale) + shift
        return moved


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


def picture_error(made: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """L1 of pictures (B, 3, S, S): the mean over all pixels and that over the mask (B, 1, S, S).

    In a dub nothing but the mask is shown; around it colours are compared with the footage's.
    """
    gap = (made.float() - true).abs()
    inside = (gap * mask).sum() / (3 * mask.sum()).clamp(min=1)
    return gap.mean() + inside
