"""Speech features of sound as it comes: each is known a twentieth of a second after its time.

Feature ``t`` stands at ``t / 50`` seconds and tells of the sound ``LAG_S`` before, so that it is
computed with as much sound after it. A window of sixteen of them around a frame therefore depends
on nothing later than ``AHEAD_S`` after the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difftalker.speech.encoder import (
    FEATURE_RATE_HZ,
    Floats,
    LogMelEncoder,
    ShortWhisperEncoder,
    WindowedEncoder,
    checked_block,
)
from difftalker.speech.whisper import FEATURE_SAMPLES

LAG_FEATURES = 4
LAG_S = LAG_FEATURES / FEATURE_RATE_HZ
"""Sound after that which a feature tells of, seconds."""
HOP_FEATURES = 2
"""Features that are computed at once."""
AHEAD_S = 0.2
"""Sound after a frame on which the window of sixteen features around it may depend, seconds."""
CONTEXT_FEATURES = 50
"""Features of the sound that is encoded for each hop: one second."""
BATCH = 32
"""Hops that are encoded at once, where that much sound is there."""

HOP_SAMPLES = HOP_FEATURES * FEATURE_SAMPLES
_CONTEXT = CONTEXT_FEATURES * FEATURE_SAMPLES


class LiveEncoder:
    """Encodes the last second of sound anew for each hop, by another encoder's function."""

    name: str
    dim: int
    _inner: WindowedEncoder

    def encode(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """Blocks (n,) of 16 kHz mono -> chunks (T_i, dim), 50 Hz; see ``encoder.SpeechEncoder``.

        Sound is preceded by silence, and followed by it at its end.

        Raises:
            MediaError: a block is not mono, or holds samples that are not finite.
        """
        stream, samples, given = LiveStream(self), 0, 0
        for block in blocks:
            samples += len(block)
            chunk = stream.push(block)
            given += len(chunk)
            yield chunk
        rest = -(-samples // FEATURE_SAMPLES) - given
        if rest > 0:
            yield stream.push(np.zeros(2 * HOP_SAMPLES, np.float32))[:rest]

    @torch.inference_mode()
    def encode_hops(self, sounds: Floats) -> Floats:
        """The last second of sound at each hop (h, 16000) -> its features (2 h, dim)."""
        stop = CONTEXT_FEATURES - LAG_FEATURES
        heard = torch.from_numpy(sounds).to(self._inner.device)
        hop: Tensor = self._inner.features_of(heard, slice(stop - HOP_FEATURES, stop))
        return hop.flatten(0, 1).float().cpu().numpy()


class LiveStream:
    """One sound as it comes: samples in, features out as soon as they are known."""

    def __init__(self, encoder: LiveEncoder, before: Floats | None = None) -> None:
        """``before`` (n,) is the sound before the first hop; by default, and before it, silence."""
        self._encoder = encoder
        self._held = np.zeros(_CONTEXT - HOP_SAMPLES, np.float32)
        if before is not None:
            self._held = np.concatenate([self._held, before])[-len(self._held) :]

    def push(self, block: Floats) -> Floats:
        """Samples (n,) at 16 kHz -> the features that they complete, (t, dim)."""
        self._held = np.concatenate([self._held, checked_block(block)])
        hops = max(0, (len(self._held) - _CONTEXT) // HOP_SAMPLES + 1)
        known = [np.zeros((0, self._encoder.dim), np.float32)]
        for start in range(0, hops, BATCH):
            firsts = range(start * HOP_SAMPLES, min(start + BATCH, hops) * HOP_SAMPLES, HOP_SAMPLES)
            sounds = [self._held[first : first + _CONTEXT] for first in firsts]
            known.append(self._encoder.encode_hops(np.stack(sounds)))
        self._held = self._held[hops * HOP_SAMPLES :].copy()
        return np.concatenate(known)


class LiveWhisperEncoder(LiveEncoder):
    """Whisper on the last second."""

    name = "whisper-live"

    def __init__(self, device: str | torch.device = "cpu", *, weights: Path | None = None) -> None:
        """``weights`` is a CTranslate2 ``model.bin``; by default the one of :mod:`assets`.

        Raises:
            AssetError: the weights cannot be had or read.
        """
        self._inner = ShortWhisperEncoder(device, weights=weights)
        self.dim = self._inner.dim


class LiveLogMelEncoder(LiveEncoder):
    """Log-mels of the last second: needs no weights."""

    name = "mel-live"
    dim = LogMelEncoder.dim

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._inner = LogMelEncoder(device)
