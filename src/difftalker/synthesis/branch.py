"""The landmark branch, and the prompt of speech (Sections 2.4 and 3.4).

The branch is a trainable copy of the prior's encoder with convolutions over the drawn landmarks.
Shape letters: B frames, C latent channels, D channels of a level, K channels of a landmark map, S
its side, W speech features in a window, L tokens of a prompt.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig, SynthesisConfig
from difftalker.face.draw import CHANNELS
from difftalker.synthesis.prior import Prior, UNetEncoder


class AudioPrompt(nn.Module):
    """Maps speech features to a prompt, one token a feature; its output is zero at the start.

    Its width is chosen so that it has about as many parameters as the stem over drawn landmarks,
    which it may replace. Features of zero stand for missing speech.
    """

    def __init__(self, speech: CompletionConfig, width: int, parameters: int) -> None:
        super().__init__()
        dim, window = speech.feature_dim, speech.window
        hidden = max(8, (parameters - window * width) // (dim + width + 1))
        self.position = nn.Parameter(torch.zeros(window, width))
        self.read = nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )
        nn.init.zeros_(self.read[-1].weight)  # type: ignore[arg-type]

    def forward(self, windows: Tensor) -> Tensor:
        """(B, W, features) -> (B, W, D)."""
        tokens: Tensor = self.read(windows) + self.position
        return tokens


class LandmarkBranch(nn.Module):
    """A trainable copy of the prior's encoder, conditioned on drawn landmarks (Section 2.4)."""

    def __init__(self, config: SynthesisConfig, prior: Prior) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(UNetEncoder(prior.unet)).requires_grad_(True)
        stem = _new_stem(config, prior.unet.config.block_out_channels[0])
        self.stem = stem if config.uses_landmarks else None
        self.register_buffer("context", prior.context.clone())
        levels = prior.unet.config.block_out_channels
        self.lateral = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(levels)
        )

    def forward(self, maps: Tensor | None, known: Tensor, context: Tensor) -> list[Tensor]:
        """Maps (B, K, S, S) in 0..1, known latents (B, C, H, W) -> features a level, finest first.

        ``context`` (B, L, D) is the prompt. ``maps`` is None where speech replaces the landmarks.
        """
        steps = torch.zeros(len(known), device=known.device)
        drawn = 0.0 if maps is None or self.stem is None else self.stem(maps)
        encoded = self.encoder(known, steps, context, drawn)
        levels = _last_of_each_size([*encoded.skips, encoded.middle])
        # Coarse levels add their context to finer ones, as in a feature pyramid.
        for i in reversed(range(len(levels) - 1)):
            above = self.lateral[i](levels[i + 1])
            levels[i] = levels[i] + nnf.interpolate(above, size=levels[i].shape[-2:])
        return levels


def new_prompt(
    config: SynthesisConfig, prior: Prior, speech: CompletionConfig
) -> AudioPrompt | None:
    """A prompt as large as the stem over landmarks; None where the network uses no audio."""
    if not config.uses_audio:
        return None
    stem = _new_stem(config, prior.unet.config.block_out_channels[0])
    parameters = sum(p.numel() for p in stem.parameters())
    return AudioPrompt(speech, prior.context.shape[-1], parameters)


def _new_stem(config: SynthesisConfig, width: int) -> nn.Sequential:
    """Convolutions from drawn landmarks to the first level of the encoder."""
    channels = (len(CHANNELS), *config.stem_channels)
    return nn.Sequential(
        *(
            layer
            for a, b in pairwise(channels)
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU())
        ),
        nn.Conv2d(channels[-1], width, 3, padding=1),
    )


def _last_of_each_size(maps: list[Tensor]) -> list[Tensor]:
    """Keep the deepest map of each size, from the largest size down."""
    by_size = {tuple(m.shape[-2:]): m for m in maps}
    return [by_size[size] for size in sorted(by_size, reverse=True)]
