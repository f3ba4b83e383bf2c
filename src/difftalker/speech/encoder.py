"""Speech encoders: 16 kHz mono blocks in, feature chunks at 50 Hz out, at constant memory.

Feature ``t`` of every encoder stands at ``t / 50`` seconds, the start of its 320 samples.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.errors import MediaError, UsageError
from difftalker.speech.whisper import (
    FEATURE_SAMPLES,
    MELS,
    SAMPLE_RATE_HZ,
    load_whisper,
    log_mel,
)
from difftalker.store import assets

Floats = NDArray[np.float32]

FEATURE_RATE_HZ = SAMPLE_RATE_HZ / FEATURE_SAMPLES


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a stream is cut for an encoder that sees one window at a time."""

    window_s: float = 30.0
    """Length of a window; Whisper takes 30 s at the most."""
    overlap_s: float = 5.0
    """Shared by two windows; 2/5 of it is the least context of a feature, but at both ends."""
    fade_s: float = 1.0
    """Linear cross-fade in the middle of the overlap: a hard seam would be a jump of the mouth."""
    padded: bool = True
    """Whether the last window is filled up with zeros, as Whisper does."""

    def __post_init__(self) -> None:
        """Refuse windows that do not fit."""
        if not 0 < self.fade_s <= self.overlap_s < self.window_s <= 30:
            raise UsageError(f"{self}", wanted="0 < fade_s <= overlap_s < window_s <= 30")
        if any(n % FEATURE_SAMPLES for n in (self.window_samples, self.overlap_samples)):
            raise UsageError(f"{self}", wanted="multiples of 0.02 s, the time of a feature")

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return round(self.window_s * SAMPLE_RATE_HZ)

    @property
    def overlap_samples(self) -> int:
        """Samples that two windows share."""
        return round(self.overlap_s * SAMPLE_RATE_HZ)


WHISPER_WINDOWS = WindowConfig()
"""Whisper's own. Words alone in a padded window and amid 30 s of speech have unlike features."""
SHORT_WINDOWS = WindowConfig(window_s=4, overlap_s=2, fade_s=0.4, padded=False)
"""What is learned on short clips holds amid long speech: a linear readout of log-mels, fitted on
clips of 3 s (R2 0.86), keeps 0.83 on their concatenation, but 0.42 with Whisper's own windows."""


class SpeechEncoder(Protocol):
    """What turns speech into features."""

    name: str
    dim: int

    def encode(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """Blocks (n,) of 16 kHz mono, any sizes -> chunks (T_i, dim), float32, 50 Hz.

        The chunks add up to ``ceil(samples / 320)`` features. Pulls blocks as it needs them.
        """
        ...


def encode_all(encoder: SpeechEncoder, blocks: Iterable[Floats]) -> Floats:
    """All features at once, (T, dim)."""
    return np.concatenate([np.zeros((0, encoder.dim), np.float32), *encoder.encode(blocks)])


@dataclass(frozen=True)
class _Window:
    samples: Floats
    """(n,), a whole number of features; zeros after the end of the speech."""
    length: int
    """Samples of speech in it."""
    last: bool


def _cut(blocks: Iterable[Floats], config: WindowConfig) -> Iterator[_Window]:
    """Overlapping windows of a stream; one holds more than the overlap unless it is the first."""
    size, overlap = config.window_samples, config.overlap_samples
    buffer = np.zeros(size, np.float32)
    filled = 0
    for block in blocks:
        rest = checked_block(block)
        while len(rest):
            if filled == size:
                # Only now is it known that this window is not the last one.
                yield _Window(buffer.copy(), filled, last=False)
                buffer[:overlap] = buffer[-overlap:]
                filled = overlap
            taken = rest[: size - filled]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            rest = rest[len(taken) :]
    if filled:
        buffer[filled:] = 0
        end = size if config.padded else _features_of(filled) * FEATURE_SAMPLES
        yield _Window(buffer[:end], filled, last=True)


def _features_of(samples: int) -> int:
    return -(-samples // FEATURE_SAMPLES)


def checked_block(block: Floats) -> Floats:
    """The block of sound, if it can be encoded.

    Raises:
        MediaError: it is not mono, or holds samples that are not finite.
    """
    if block.ndim != 1:
        raise MediaError(f"an audio block of shape {block.shape}", wanted="mono samples, (n,)")
    if not np.isfinite(block).all():
        raise MediaError("audio samples that are not finite", wanted="numbers from -1 to 1")
    return block


def _fade(config: WindowConfig) -> Floats:
    """Weights (n, 1) of the later window over the overlap: 0, a ramp in the middle, 1."""
    steps = np.arange(config.overlap_samples // FEATURE_SAMPLES)
    middle_s = (steps - (len(steps) - 1) / 2) / FEATURE_RATE_HZ
    weights: Floats = np.clip(middle_s / config.fade_s + 0.5, 0, 1).astype(np.float32)
    return weights[:, None]


class WindowedEncoder(abc.ABC):
    """Streams any length through a function of windows."""

    name: str
    dim: int

    def __init__(
        self, device: str | torch.device = "cpu", *, config: WindowConfig = WHISPER_WINDOWS
    ) -> None:
        self.device = torch.device(device)
        self.config = config

    @abc.abstractmethod
    def features_of(self, samples: Tensor, asked: slice = slice(None)) -> Tensor:
        """Windows of sound (..., n) -> what is ``asked`` for of (..., n / 320, dim)."""

    def encode(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """See :class:`SpeechEncoder`. Speech of up to a window is encoded at once.

        Raises:
            MediaError: a block is not mono, or holds samples that are not finite.
        """
        fade = _fade(self.config)
        tail: Floats | None = None
        silent: dict[int, Floats] = {}  # what there is of it is encoded once
        for window in _cut(blocks, self.config):
            is_silent = not window.samples.any()
            if is_silent and len(window.samples) in silent:
                chunk = silent[len(window.samples)].copy()
            else:
                chunk = self._encode_window(window.samples)
            if is_silent:
                silent.setdefault(len(window.samples), chunk.copy())
            if tail is not None:
                chunk[: len(fade)] = tail + fade * (chunk[: len(fade)] - tail)
            if window.last:
                yield chunk[: _features_of(window.length)]
            else:
                yield chunk[: -len(fade)]
                tail = chunk[-len(fade) :]

    def _encode_window(self, samples: Floats) -> Floats:
        with torch.inference_mode():
            features = self.features_of(torch.from_numpy(samples).to(self.device))
            chunk: Floats = features.float().cpu().numpy()
        return chunk


class WhisperEncoder(WindowedEncoder):
    """The encoder of Whisper tiny.en: what is said, little of who says it."""

    name = "whisper"

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        config: WindowConfig = WHISPER_WINDOWS,
        weights: Path | None = None,
    ) -> None:
        """``weights`` is a CTranslate2 ``model.bin``; by default the one of :mod:`assets`.

        Raises:
            AssetError: the weights cannot be had or read.
        """
        super().__init__(device, config=config)
        self.net = load_whisper(weights or assets.path("whisper_tiny_en")).to(self.device)
        self.dim = self.net.width

    def features_of(self, samples: Tensor, asked: slice = slice(None)) -> Tensor:
        """(..., n) -> (..., n / 320, 384)."""
        mels = log_mel(samples)
        features: Tensor = self.net(mels.reshape(-1, *mels.shape[-2:]), asked)
        return features.reshape(*mels.shape[:-2], *features.shape[-2:])


class ShortWhisperEncoder(WhisperEncoder):
    """Whisper on windows of 4 s, see :data:`SHORT_WINDOWS`."""

    name = "whisper-short"

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        config: WindowConfig = SHORT_WINDOWS,
        weights: Path | None = None,
    ) -> None:
        super().__init__(device, config=config, weights=weights)


class LogMelEncoder(WindowedEncoder):
    """Whisper's log-mels, averaged in pairs to 50 Hz: needs no weights."""

    name = "mel"
    dim = MELS

    def features_of(self, samples: Tensor, asked: slice = slice(None)) -> Tensor:
        """(..., n) -> (..., n / 320, 80)."""
        mels = log_mel(samples)
        pairs: Tensor = mels.unflatten(-1, (-1, 2)).mean(-1)
        return pairs.transpose(-1, -2)[..., asked, :]
