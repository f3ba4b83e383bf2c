"""Which characters are heard: 29 posteriors at 50 Hz, as DeepSpeech gives them.

The paper's speech features are DeepSpeech's (Section 2.2; Hannun et al. 2014): 26 letters, space,
apostrophe and the blank of connectionist temporal classification (Graves et al. 2006). Here a small
network of ours reads them off the frozen encoder of Whisper.
Shape letters: B batch, T features, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.errors import UsageError
from difftalker.speech.encoder import SHORT_WINDOWS, ShortWhisperEncoder, WindowConfig
from difftalker.store import experts as expert

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
"""In DeepSpeech's order; the blank comes last."""
BLANK = len(ALPHABET)
CHARACTERS = len(ALPHABET) + 1
FLOOR = -10.0
"""Natural logarithm of the least posterior that is distinguished from none, 4.5e-5."""


@dataclass(frozen=True, kw_only=True)
class CharactersConfig:
    """The network over Whisper's features."""

    feature_dim: int = 384
    width: int = 224
    layers: int = 4
    kernel: int = 9
    """Features that a convolution sees, odd; four layers reach 0.32 s to either side."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if min(self.feature_dim, self.width, self.layers, self.kernel) < 1 or self.kernel % 2 == 0:
            raise UsageError(f"{self}", wanted="sizes above 0 and an odd kernel")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"{self}", wanted="0 <= dropout < 1")


class _Block(nn.Module):
    """A depthwise convolution over time, then a feed-forward layer, beside the identity."""

    def __init__(self, config: CharactersConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.over_time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        y = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.feed_forward(self.norm(y))
        return out


class CharactersNet(nn.Module):
    """Log-posteriors of the characters from Whisper's features."""

    def __init__(self, config: CharactersConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.feature_dim)
        self.enter = nn.Linear(config.feature_dim, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.leave = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, CHARACTERS))

    def forward(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, feature_dim), and which of T count, (B, T) -> log-posteriors (B, T, 29).

        What does not count is silence to the rest: ``kernel // 2`` such steps part two sentences.
        """
        kept = 1.0 if inside is None else inside[..., None].to(features)
        x = self.enter(self.norm(features)) * kept
        for block in self.blocks:
            x = block(x) * kept
        out: Tensor = self.leave(x).float().log_softmax(-1)
        return out


def levels(log_posteriors: Tensor) -> Tensor:
    """Log-posteriors as features from 0 to 1: ``1 + max(ln p, -10) / 10``.

    The posteriors themselves are nearly all 0 or 1, which gives a network little of a mouth on its
    way from one sound to the next.
    """
    return 1 - log_posteriors.clamp(min=FLOOR) / FLOOR


def decode(scores: Tensor | NDArray[np.float32]) -> str:
    """The best path through (T, 29) posteriors or levels, without its repeats and blanks."""
    best = torch.as_tensor(scores).argmax(-1)
    kept = torch.unique_consecutive(best)
    return "".join(ALPHABET[i] for i in kept.tolist() if i != BLANK)


def encode_text(text: str) -> list[int]:
    """The text's characters as their places in the alphabet.

    Raises:
        UsageError: there is another character in it.
    """
    places = [ALPHABET.find(character) for character in text]
    if -1 in places:
        raise UsageError(f"{text[places.index(-1)]!r} in {text!r}", wanted="a to z, space or '")
    return places


def edit_distance(found: Sequence[object], true: Sequence[object]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(true) + 1))
    for i, one in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(true, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def character_error_rate(found: Sequence[str], true: Sequence[str]) -> float:
    """Edits over all texts for each character of the true ones; lower is better, may exceed 1.

    Raises:
        UsageError: the numbers of texts differ, or nothing was said.
    """
    characters = sum(map(len, true))
    if len(found) != len(true) or not characters:
        raise UsageError(f"{len(found)} texts for {len(true)}", wanted="as many, not all empty")
    return sum(edit_distance(f, t) for f, t in zip(found, true, strict=True)) / characters


def load_characters(folder: str | Path = "") -> CharactersNet:
    """The packaged network, or the one in ``folder``, frozen.

    Raises:
        AssetError: it is missing, altered or does not fit.
    """
    return expert.read(folder, kind="characters").load_network(CharactersNet, CharactersConfig)


class CharactersEncoder(ShortWhisperEncoder):
    """The :func:`levels` of 29 characters, through the windows of ``whisper-short``."""

    name = "characters"

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        config: WindowConfig = SHORT_WINDOWS,
        folder: str | Path = "",
    ) -> None:
        """``folder`` holds another expert than the packaged one.

        Raises:
            AssetError: Whisper's weights or the expert cannot be had.
        """
        super().__init__(device, config=config)
        self.head = load_characters(folder).to(self.device)
        self.dim = CHARACTERS

    def features_of(self, samples: Tensor, asked: slice = slice(None)) -> Tensor:
        """(n,) -> (n / 320, 29)."""
        return levels(self.head(super().features_of(samples)[None])[0])[asked]
