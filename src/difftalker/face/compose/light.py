"""Light: crops are mapped from the footage's light to the avatar's, and generated faces back.

Networks trained in one light generate wrong colours in another. The map is estimated on the visible
skin. A whole face that the networks generate from landmarks alone shows the avatar's light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.draw import outline
from difftalker.face.landmarks import BROWS, JAW

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

SURE_GAINS, SURE_POWER = (0.06, 0.06, 0.2), 0.12
"""Largest log gains (red, green, blue) and log power within the avatar's own light, as they vary in
its footage. From twice as much on the light counts as another, in between as a share of one."""
SURE_SLOPES = (0.2, 0.25)
"""Largest slopes within it, rightwards and downwards: log gain over a crop's side."""
MAX_GAIN, MAX_POWER, MAX_SLOPE = np.log(6.0), np.log(2.5), 1.2
SETTLE_S = 0.5
"""Time constant of the estimate, seconds."""

_LEVEL = np.arange(256)[:, None]
_QUANTILES = np.linspace(0.1, 0.9, 17)
_MIDDLE = slice(4, 15)
"""The quantiles of skin in plain light, without brows, shadows and glare."""
_CELLS = 32
_LEAST_SKIN = 0.02
"""Least share of the crop that has to show skin for an estimate."""
_DARK, _CLIPPED = 4, 251


@dataclass(frozen=True, kw_only=True)
class LightMap:
    """Map from the footage's light to the avatar's: 255 gain (v / 255) ^ power, times a slope."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Red, green, blue."""
    power: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)
    """Log gain over a crop's side, rightwards and downwards; zero in the crop's middle."""

    def apply(self, crop: Image) -> Image:
        """A crop (S, S, 3) of the footage as it would look in the avatar's light."""
        toned = 255 * np.array(self.gain) * (_LEVEL / 255) ** self.power
        return _looked_up(crop, toned, self._plane(len(crop), 1.0))

    def undo(self, face: Image) -> Image:
        """A crop (S, S, 3) of the avatar in the footage's light."""
        toned = 255 * (_LEVEL / 255 / np.array(self.gain)) ** (1 / self.power)
        return _looked_up(face, toned, self._plane(len(face), -1 / self.power))

    def _plane(self, size_px: int, exponent: float) -> NDArray[np.float32] | None:
        """The slope as a factor at each place, (S, S, 1), to a power; None where it is level."""
        if not any(self.slope):
            return None
        place = (np.arange(size_px) + 0.5) / size_px - 0.5
        across, down = (np.exp(exponent * s * place).astype(np.float32) for s in self.slope)
        return np.asarray((down[:, None] * across)[..., None])


@dataclass(frozen=True, kw_only=True)
class Skin:
    """Tones and brightness of a crop's visible skin, or the mean over several crops."""

    tones: Floats
    """(17, 3): red, green and blue at quantiles from 0.1 to 0.9, 0 to 255."""
    cells: Floats
    """(32, 32): mean log luma where there is skin alone, else not a number."""

    @classmethod
    def of(cls, crop: Image, points_crop: NDArray[np.float32], top_px: int) -> Skin | None:
        """Measure the skin between brows and ``top_px``, the mask's top edge; None where hidden.

        ``crop`` (S, S, 3), ``points_crop`` (68, 2) crop units, of which upper ones are used.
        """
        mask = outline(points_crop[[*BROWS, *JAW[:3], *JAW[14:]]] * len(crop), crop.shape)
        mask[max(0, top_px) :] = 0
        if mask.mean() < _LEAST_SKIN:
            return None
        return cls(tones=_tones(crop, mask), cells=_cells(crop, mask))

    def mixed(self, other: Skin, share: float) -> Skin:
        """The mean with another skin, which has ``share`` of it."""
        both = (1 - share) * self.cells + share * other.cells
        cells = np.where(
            np.isnan(both), np.where(np.isnan(self.cells), other.cells, self.cells), both
        )
        return Skin(tones=(1 - share) * self.tones + share * other.tones, cells=cells)


class Light:
    """Tracks the light of footage frame by frame; it holds one estimate."""

    def __init__(self, own: Skin | None) -> None:
        """``own`` is the avatar's skin in its own light; None leaves all footage as it is."""
        self._own, self._time_s = own, 0.0
        self._seen: Skin | None = None

    def update(self, skin: Skin | None, time_s: float, *, new_shot: bool = False) -> LightMap:
        """Take the next frame's skin; returns its map to the avatar's light."""
        if new_shot:
            self._seen = None
        if skin is not None:
            share = 1 - np.exp(-max(0.0, time_s - self._time_s) / SETTLE_S)
            self._seen = skin if self._seen is None else self._seen.mixed(skin, float(share))
            self._time_s = time_s
        if self._own is None or self._seen is None:
            return LightMap()
        return match(self._seen, self._own)


def match(seen: Skin, own: Skin) -> LightMap:
    """The map that takes the tones of one skin to those of another; plain where they agree.

    Power and gains by least squares between the logarithms of their quantiles, slopes between
    those of their cells.
    """
    x, y = seen.tones, own.tones
    clear = (np.minimum(x, y) > _DARK) & (np.maximum(x, y) < _CLIPPED)
    if clear[_MIDDLE].sum(0).min() < 2:
        return LightMap()
    x, y = np.log(np.maximum(x, 1) / 255), np.log(np.maximum(y, 1) / 255)
    power = np.clip(np.log(_power(x, y, clear)), -MAX_POWER, MAX_POWER)
    gains = _gains(x, y, clear, 1.0)
    other = _otherness([*gains, power], [*SURE_GAINS, SURE_POWER])
    # Light from one side spreads the tones as a power does: it is not taken for one.
    across, _ = _slope(own.cells - seen.cells)
    power *= other * (1 - _otherness([across], SURE_SLOPES[:1]))
    gains = _gains(x, y, clear, float(np.exp(power))) * other
    slope = _slope(own.cells - np.exp(power) * seen.cells)
    across, down = (
        s * _otherness([s], [least]) for s, least in zip(slope, SURE_SLOPES, strict=True)
    )
    red, green, blue = np.exp(np.clip(gains, -MAX_GAIN, MAX_GAIN)).tolist()
    return LightMap(gain=(red, green, blue), power=float(np.exp(power)), slope=(across, down))


def _otherness(logs: Sequence[float], sure: Sequence[float]) -> float:
    """0 where all ``logs`` lie within ``sure``, the avatar's own light; 1 from twice that on."""
    return float(np.clip(np.max(np.abs(logs) / np.array(sure)) - 1, 0, 1))


def _gains(x: Floats, y: Floats, clear: NDArray[np.bool_], power: float) -> Floats:
    """Log gain of each channel, (3,), by the middle of its quantiles."""
    middle = np.zeros_like(clear)
    middle[_MIDDLE] = clear[_MIDDLE]
    difference = np.where(middle, y - power * x, 0)
    return np.asarray(difference.sum(0) / middle.sum(0))


def _power(x: Floats, y: Floats, clear: NDArray[np.bool_]) -> float:
    """The power that fits all channels best, each about its own mean."""
    spread = together = 0.0
    for a, b, used in zip(x.T, y.T, clear.T, strict=True):
        a, b = a[used] - a[used].mean(), b[used] - b[used].mean()
        spread, together = spread + float(a @ a), together + float(a @ b)
    return together / spread if spread > 1e-3 and together > 0 else 1.0


def _slope(difference: Floats) -> tuple[float, float]:
    """The plane through cells (32, 32) of log luma, rightwards and downwards over a crop's side."""
    known = np.isfinite(difference)
    if known.sum() < 12:
        return 0.0, 0.0
    place = (np.argwhere(known) + 0.5) / _CELLS
    plane = np.c_[place, np.ones(len(place))]
    found, *_ = np.linalg.lstsq(plane, difference[known], rcond=None)
    down, across, _ = np.clip(found, -MAX_SLOPE, MAX_SLOPE).tolist()
    return across, down


def _tones(crop: Image, mask: NDArray[np.uint8]) -> Floats:
    """The quantiles of each channel where ``mask`` is not zero, between whole levels, (17, 3)."""
    tones, edges = [], np.arange(257) - 0.5
    for channel in range(3):
        counts = cv2.calcHist([crop], [channel], mask, [256], [0, 256]).ravel()
        total = np.r_[0, np.cumsum(counts, dtype=np.float64)]
        tones.append(np.interp(_QUANTILES, total / total[-1], edges))
    return np.stack(tones, 1)


def _cells(crop: Image, mask: NDArray[np.uint8]) -> Floats:
    """Mean log luma of the cells that ``mask`` fills, (32, 32); elsewhere not a number."""
    size = (_CELLS, _CELLS)
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    filled = cv2.resize(mask * 255, size, interpolation=cv2.INTER_AREA) == 255
    clear = filled & (grey > _DARK) & (grey < _CLIPPED)
    return np.where(clear, np.log(np.maximum(grey, 1) / 255.0), np.nan)


def _looked_up(image: Image, toned: Floats, plane: NDArray[np.float32] | None) -> Image:
    """Each channel by its own table, (256, 3), times a plane (S, S, 1)."""
    table = toned if plane is not None else np.clip(np.rint(toned), 0, 255)
    if plane is None and np.array_equal(table, _LEVEL.repeat(3, 1)):
        return image
    out = cv2.LUT(image, table[None].astype(np.uint8 if plane is None else np.float32))
    return np.asarray(out if plane is None else np.clip(np.rint(out * plane), 0, 255), np.uint8)
