"""The networks after DAE-Talker: a diffusion autoencoder, and conformers that predict its codes.

Shape letters: B frames, S side of the crop, V size of a vector, W features in a window of speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.baselines.nets import BaselineConfig, PatchUNet
from difftalker.config import checks
from difftalker.face.landmarks import UPPER
from difftalker.synthesis.light import Encoder
from difftalker.synthesis.sampling import sample

PREDICTION = "v_prediction"
"""v of Salimans and Ho (2022): it allows few steps."""


@dataclass(frozen=True, kw_only=True)
class DaeTalkerConfig(BaselineConfig):
    """Sizes and shares."""

    feature_dim: int = 384
    window: int = 32
    code_dim: int = 128
    """Size of a frame's code."""
    layers: int = 3
    """Conformer blocks."""
    heads: int = 4
    kernel: int = 7
    """Width of their convolutions, features."""
    timesteps: int = 1000
    steps: int = 10
    """Steps of DDIM."""
    codes_batch: int = 64
    codes_learning_rate: float = 5e-4
    codes_share: float = 0.3
    """Share of the time for the prediction of codes; the rest is for the autoencoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.up_to(4096, self, "code_dim", "timesteps")
        checks.up_to(256, self, "layers", "heads", "kernel", "steps")
        checks.positive(self, "codes_batch", "codes_learning_rate")
        checks.shares(self, "codes_share")
        fits = self.speech_dim % self.heads == 0
        checks.check(fits, "heads", self.heads, f"a divisor of {self.speech_dim}")
        checks.check(self.kernel % 2 == 1, "kernel", self.kernel, "an odd number")


class SemanticEncoder(nn.Module):
    """A picture to its code."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.levels = Encoder(3 * config.patch**2, config.channels)
        self.write = nn.Sequential(
            nn.Linear(config.channels[-1], config.code_dim),
            # Codes of one scale, so that errors of their prediction have one.
            nn.LayerNorm(config.code_dim, elementwise_affine=False),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S), -1..1 -> (B, V)."""
        coarse = self.levels(nnf.pixel_unshuffle(pictures, self.patch))[-1]
        code: Tensor = self.write(coarse.mean((2, 3)))
        return code


class Denoiser(nn.Module):
    """The conditional U-Net: noisy picture, mask, time and code -> v."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.code = nn.Linear(config.code_dim, width)
        self.net = PatchUNet(4, 3, config, vector=width, levels=len(config.channels))

    def forward(self, noisy: Tensor, mask: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """(B, 3, S, S), (B, 1, S, S), (B,), (B, V) -> (B, 3, S, S)."""
        known = nnf.silu(self.time(sinusoids(t, self.width)) + self.code(code))
        predicted: Tensor = self.net(torch.cat([noisy, mask.to(noisy)], 1), known)
        return predicted


class DiffusionAutoencoder(nn.Module):
    """Pictures to codes, and back by DDIM."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.denoiser = SemanticEncoder(config), Denoiser(config)

    def decode(self, clean: Tensor, mask: Tensor, code: Tensor, noise: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) whose mask (B, 1, S, S) is made by codes, from noise (3, S, S)."""
        return sample(
            lambda z, t: self.denoiser(z, mask, t, code),
            clean,
            mask,
            noise.to(clean).expand_as(clean),
            sampler="ddim",
            steps=self.config.steps,
            prediction=PREDICTION,
            timesteps=self.config.timesteps,
        )


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Numbers (B,) as sines and cosines (B, width), as Vaswani et al. (2017) write positions."""
    half = torch.arange(width // 2, device=t.device) / (width // 2)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * half)
    return torch.cat([angles.sin(), angles.cos()], 1)


def first_noise(size_px: int, seed: int = 0) -> Tensor:
    """(3, S, S): where every frame begins; drawn on the CPU, the same on every device."""
    return torch.randn((3, size_px, size_px), generator=torch.Generator().manual_seed(seed))


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


class CodePredictor(nn.Module):
    """Speech around a frame, and its pose, to its code."""

    mean: Tensor
    """(V,): the mean of the codes that were learned from."""
    spread: Tensor
    """(V,): their standard deviations."""

    def __init__(self, config: DaeTalkerConfig) -> None:
        super().__init__()
        width = config.speech_dim
        self.read = nn.Linear(config.feature_dim, width)
        self.places = nn.Parameter(0.02 * torch.randn(config.window, width))
        self.pose = nn.Linear(2 * len(UPPER), width)
        self.blocks = nn.Sequential(
            *(ConformerBlock(width, config.heads, config.kernel) for _ in range(config.layers))
        )
        self.write = nn.Linear(width, config.code_dim)
        self.register_buffer("mean", torch.zeros(config.code_dim))
        self.register_buffer("spread", torch.ones(config.code_dim))

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Measure codes (n, V): frames differ by little of what all have in common."""
        self.mean.copy_(codes.mean(0))
        self.spread.copy_(codes.std(0).clamp(min=1e-3))

    def forward(self, windows: Tensor, upper: Tensor) -> Tensor:
        """(B, W, features), upper points (B, 37, 2) from the crop's middle -> (B, V)."""
        x = self.read(windows) + self.places + self.pose(upper.flatten(1))[:, None]
        x = self.blocks(x)
        middle = x.shape[1] // 2
        code: Tensor = self.write(x[:, middle - 1 : middle + 1].mean(1))
        return self.mean + self.spread * code


def upper_of(points: Tensor) -> Tensor:
    """Points (B, 68, 2), crop units -> upper ones (B, 37, 2) from the crop's middle."""
    return points[:, list(UPPER)] - 0.5
