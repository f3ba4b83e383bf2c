"""The sync expert: embeds mouths and sounds so that those of one moment lie close together.

Two towers in the manner of SyncNet (Chung and Zisserman, "Out of time", 2016): windows of 5 video
frames at 25 Hz against the sound of the same 0.2 s. Confidence and distance are read off as there.
Shape letters: B clips, F frames, N = F - 4 windows, T features (two a frame), D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.errors import UsageError
from difftalker.speech.encoder import FEATURE_RATE_HZ
from difftalker.speech.whisper import MELS
from difftalker.speech.windows import windows

FRAME_RATE_HZ = 25.0
WINDOW_FRAMES = 5
FEATURES_A_FRAME = round(FEATURE_RATE_HZ / FRAME_RATE_HZ)
WINDOW_FEATURES = WINDOW_FRAMES * FEATURES_A_FRAME
REACH_FRAMES = 15
"""Largest offset between picture and sound that is measured, frames."""

MOUTH_CROP = (0.53125, 0.90625, 0.25, 0.75)
"""The mouth's region of the crop: top, bottom, left, right, crop units, from below the nose to the
throat. The crop follows the upper face alone, so its place does not depend on the mouth."""
MOUTH_PX = (48, 64)
"""Height and width of the network's input, pixels."""


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Sizes of both towers."""

    picture_channels: tuple[int, ...] = (48, 72, 96)
    """Convolutions over one frame: the first shrinks it by four, the others by two."""
    frame_dim: int = 160
    """Features of one frame, before five are joined."""
    sound_channels: tuple[int, ...] = (32, 48, 64)
    """Convolutions over log-mels, each halving the frequencies and taking three features."""
    sound_dim: int = 32
    width: int = 256
    dim: int = 128
    """Size of the embedding."""
    groups: int = 8
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if len(self.picture_channels) != 3 or len(self.sound_channels) != 3:
            raise UsageError(f"{self}", wanted="three channels for pictures and three for sound")


@dataclass(frozen=True, kw_only=True)
class SyncScore:
    """Agreement of picture and sound of one clip, by SyncNet's measures."""

    confidence: float
    """Median over the offsets of the mean distance, less its minimum: high where only one fits."""
    distance: float
    """The minimum over the offsets of the mean distance."""
    offset_frames: int
    """Frames by which the sound that fits best comes after the picture."""


class SyncNet(nn.Module):
    """Mouths and sounds to embeddings of unit length."""

    def __init__(self, config: SyncConfig) -> None:
        super().__init__()
        self.config = config
        self.picture_tower = _PictureTower(config)
        self.sound_tower = _SoundTower(config)
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        """Log of the inverse temperature of the similarities in the loss."""

    def picture(self, mouths: Tensor) -> Tensor:
        """Grey mouths (B, F, 48, 64), 0 to 255, at 25 Hz -> (B, F - 4, D), one a window."""
        embedded: Tensor = self.picture_tower(mouths)
        return nnf.normalize(embedded.float(), dim=-1)

    def sound(self, mel: Tensor) -> Tensor:
        """Log-mels (B, T, 80) at 50 Hz -> (B, (T - 10) // 2 + 1, D), one a window of 0.2 s."""
        embedded: Tensor = self.sound_tower(mel)
        return nnf.normalize(embedded.float(), dim=-1)


class _PictureTower(nn.Module):
    """Convolutions over each frame, then over five neighbours."""

    def __init__(self, config: SyncConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for i, channels in enumerate(config.picture_channels):
            side, stride = (3, 2) if i else (7, 4)
            layers += [
                nn.Conv2d(before, channels, side, stride=stride, padding=side // 2),
                nn.GroupNorm(config.groups, channels),
                nn.ReLU(),
            ]
            before = channels
        self.frame = nn.Sequential(*layers, nn.Flatten())
        flat = before * (MOUTH_PX[0] // 16) * (MOUTH_PX[1] // 16)
        self.joined = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(flat, config.frame_dim))
        self.window = nn.Conv1d(config.frame_dim, config.width, WINDOW_FRAMES)
        self.out = _head(config)

    def forward(self, mouths: Tensor) -> Tensor:
        batch, frames = mouths.shape[:2]
        each = self.joined(self.frame(_standard(mouths.flatten(0, 1).float())[:, None]))
        windows = self.window(nnf.relu(each.view(batch, frames, -1)).mT)
        out: Tensor = self.out(windows.mT)
        return out


class _SoundTower(nn.Module):
    """Convolutions over log-mels; the last one joins a window and moves on by a frame."""

    def __init__(self, config: SyncConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for channels in config.sound_channels:
            layers += [
                nn.Conv2d(before, channels, 3, stride=(2, 1), padding=(1, 0)),
                nn.GroupNorm(config.groups, channels),
                nn.ReLU(),
            ]
            before = channels
        layers += [nn.Conv2d(before, config.sound_dim, 1), nn.ReLU(), nn.Dropout(config.dropout)]
        self.features = nn.Sequential(*layers)
        left = WINDOW_FEATURES - 2 * len(config.sound_channels)
        self.window = nn.Conv2d(
            config.sound_dim, config.width, (MELS // 8, left), stride=(1, FEATURES_A_FRAME)
        )
        self.out = _head(config)

    def forward(self, mel: Tensor) -> Tensor:
        windows = self.window(self.features(mel.mT[:, None]))
        out: Tensor = self.out(windows.squeeze(2).mT)
        return out


def _head(config: SyncConfig) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(config.width), nn.ReLU(), nn.Linear(config.width, config.dim))


def _standard(images: Tensor) -> Tensor:
    """Pictures (n, H, W) with a mean of 0 and a deviation of 1: light and contrast do not count."""
    mean, deviation = images.mean((1, 2), keepdim=True), images.std((1, 2), keepdim=True)
    return (images - mean) / (deviation + 4)


def grey_mouth(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut the expert's input from an avatar's crop: (S, S, 3) RGB -> (48, 64) grey."""
    size = crop.shape[0]
    top, bottom, left, right = (round(edge * size) for edge in MOUTH_CROP)
    grey = cv2.cvtColor(np.ascontiguousarray(crop[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    shrinks = grey.shape[0] >= MOUTH_PX[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(grey, MOUTH_PX[::-1], interpolation=how)  # type: ignore[return-value]


def frames_at_rate(
    times_s: NDArray[np.float64], rate_hz: float = FRAME_RATE_HZ
) -> NDArray[np.int64]:
    """Resample frames to a steady rate: the frame whose time (F,), rising, is nearest to each tick.

    Ticks run from 0 to the last time; footage of that rate gives each frame once.
    """
    # Containers round times: a frame that is a hundredth early still counts.
    ticks = np.arange(int(float(times_s[-1]) * rate_hz + 0.01) + 1) / rate_hz
    edges = (times_s[1:] + times_s[:-1]) / 2
    nearest: NDArray[np.int64] = np.searchsorted(edges, ticks, side="right")
    return nearest


def whole_windows(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(F,) -> (F - 4,): whether a face was found in all frames of each window."""
    runs = np.lib.stride_tricks.sliding_window_view(found, WINDOW_FRAMES)
    return np.asarray(runs.all(1), bool)


def sound_of_frames(mel: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Log-mels (T, 80) at 50 Hz -> (2 frames, 80): two a frame at 25 Hz, the edge repeated."""
    # Feature t begins at t / 50 s and a window is centred on its time: half a feature later.
    times = np.arange(frames) / FRAME_RATE_HZ + 0.5 / FEATURE_RATE_HZ
    heard = windows(mel, times, size=FEATURES_A_FRAME)
    return heard.reshape(-1, heard.shape[-1])


def offset_distances(picture: Tensor, sound: Tensor, *, reach: int = REACH_FRAMES) -> Tensor:
    """Mean distance at each offset of the sound, (N, D) and (N, D) -> (2 reach + 1,).

    Entry ``reach + k`` compares window ``i`` of the picture with window ``i + k`` of the sound,
    over all ``i`` for which both exist and are numbers. Not a number where none is.
    """
    count = min(len(picture), len(sound))
    means = []
    for k in range(-reach, reach + 1):
        low, high = max(0, -k), min(count, count - k)
        gaps = picture[low:high] - sound[low + k : high + k] if low < high else picture[:0]
        means.append(gaps.norm(dim=-1).nanmean())
    return torch.stack(means)


def read_score(distances: Tensor) -> SyncScore:
    """Confidence, distance and offset from mean distances (2 reach + 1,); see SyncNet, Section 3.

    The median of an even number of offsets is the lower of its two middles, as torch gives it.
    """
    known = distances[distances.isfinite()]
    if not len(known):
        return SyncScore(confidence=np.nan, distance=np.nan, offset_frames=0)
    least = known.min()
    place = int(torch.where(distances.isnan(), torch.inf, distances).argmin())
    return SyncScore(
        confidence=float(known.median() - least),
        distance=float(least),
        offset_frames=place - len(distances) // 2,
    )


def shift_discrimination(distances: Tensor, *, least_frames: int = 5) -> float:
    """Share of the shifts by ``least_frames`` or more that fit worse than no shift.

    ``distances`` (2 reach + 1,) as of :func:`offset_distances`: a shift fits worse where its mean
    distance is above that at offset 0.
    """
    middle = len(distances) // 2
    shifts = torch.arange(len(distances)) - middle
    shifted = distances[(shifts.abs() >= least_frames) & distances.isfinite()]
    return float((shifted > distances[middle]).float().mean())
