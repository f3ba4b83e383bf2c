"""An invisible mark in the pictures that survives encoding, scaling and trimming.

The mark is one faint pattern, the same in all frames. Its DCT coefficients have signs: those of the
message, each bit on many coefficients, and one in five known, by which it is found in a picture
that was cut. The signs are spread by a fixed key. Frequencies are low enough to survive H.264, and
high enough to tell from the picture. A large frame shows the pattern several times, mirrored at its
edges; an upright one shows it on its side. To read it, frames are averaged and weighted by the
inverse of their local variance, and the coefficients are correlated with the signs (Cox et al.,
"Secure spread spectrum watermarking for multimedia", 1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.special import log_ndtr

from difftalker.marks.code import CODED_BITS, FIELD_BITS, Floats, Message

WIDTH, HEIGHT = 360, 288
"""The pattern's size, in units of its own."""
_LOW, _HIGH = 0.05, 0.11
"""Frequencies, cycles a unit."""
_STRENGTH = 1.15
"""RMS of the pattern, steps of 8 bits: 47 dB below their peak."""
_COPY_PX = 480
"""About the side of a copy in a large frame, the geometric mean of its two sides, pixels."""
_MOST_COPIES = 8
"""In a row and in a column."""
_SEED = 0x0D1F
_WHITE_UNITS = 3.0
"""What is coarser than this is no part of the pattern."""
_LEAST_LOG_CHANCE = math.log(1e-9)
"""A mark counts as found where unmarked pictures would look so less often than this."""

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A watermark that was read."""

    message: Message
    chance: float
    """Bound of the probability that unmarked pictures look so, of random ones."""
    copies: int
    """How many times the pattern stands in a row."""


@dataclass(frozen=True)
class _Spread:
    """Where the pattern's coefficients lie, and what they carry."""

    places: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Rows and columns of the coefficients, (n,) each."""
    signs: NDArray[np.int8]
    """(n,): the key."""
    bits: NDArray[np.intp]
    """(n,): which coded bit each carries; -1 is none."""
    rings: NDArray[np.intp]
    """(n,): coefficients of about one frequency."""


@cache
def _spread() -> _Spread:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frequency = np.hypot(rows / (2 * HEIGHT), columns / (2 * WIDTH))
    down, across = np.nonzero((frequency >= _LOW) & (frequency < _HIGH))
    places, count = (down, across), len(down)
    # Bits of a PCG64, which NumPy keeps from version to version, unlike the methods of Generator.
    order = np.argsort(np.random.PCG64(_SEED).random_raw(count), kind="stable")
    key = np.random.PCG64(_SEED + 1).random_raw(count)
    bits = np.empty(count, np.intp)
    turn = np.arange(count)
    bits[order] = np.where(turn % 5 == 0, -1, (turn - turn // 5 - 1) % CODED_BITS)
    rings = ((frequency[places] - _LOW) / (_HIGH - _LOW) * 4).astype(np.intp)
    return _Spread(places, (1 - 2 * (key >> 63).astype(np.int8)).astype(np.int8), bits, rings)


def _pattern(signs: NDArray[np.int8]) -> Floats:
    """Coefficients (n,) as a picture (HEIGHT, WIDTH), of standard deviation 1."""
    coefficients = np.zeros((HEIGHT, WIDTH))
    coefficients[_spread().places] = signs
    picture: NDArray[np.float64] = idctn(coefficients, norm="ortho")
    return np.asarray(picture / picture.std())


def copies(width: int, height: int) -> int:
    """How many copies of the pattern a frame of a size has in a row, and in a column."""
    return min(_MOST_COPIES, max(1, round(math.sqrt(width * height) / _COPY_PX)))


class Watermark:
    """Marks pictures with one message."""

    def __init__(self, message: Message, width: int, height: int) -> None:
        """``width`` and ``height`` are those of the pictures, pixels."""
        spread, coded = _spread(), message.to_signs()
        sent = np.where(spread.bits < 0, 1, coded[spread.bits]).astype(np.int8)
        signs = spread.signs * sent
        mosaic = _mosaic(_pattern(signs), copies(width, height))
        upright = mosaic.T if height > width else mosaic
        steps = cv2.resize(upright, (width, height), interpolation=cv2.INTER_CUBIC)
        steps = np.rint(steps * (_STRENGTH / steps.std()))
        brighter, darker = np.maximum(steps, 0), np.maximum(-steps, 0)
        self._brighter, self._darker = (
            np.repeat(part.astype(np.uint8)[..., None], 3, 2) for part in (brighter, darker)
        )

    def mark(self, image: Image) -> Image:
        """A marked copy of a picture (H, W, 3), RGB."""
        lighter = cv2.add(image, self._brighter)
        return np.asarray(cv2.subtract(lighter, self._darker, lighter), np.uint8)


def _mosaic(tile: Floats, count: int) -> Floats:
    """``count`` x ``count`` copies of a picture, mirrored where they meet."""
    row = np.hstack([tile[:, :: -1 if i % 2 else 1] for i in range(count)])
    return np.vstack([row[:: -1 if i % 2 else 1] for i in range(count)])


def _folded(picture: Floats, count: int) -> Floats:
    """The mean of the copies of which a picture is a mosaic."""
    height, width = picture.shape[0] // count, picture.shape[1] // count
    parts = picture.reshape(count, height, count, width).swapaxes(1, 2).copy()
    parts[:, 1::2] = parts[:, 1::2, :, ::-1]
    parts[1::2] = parts[1::2, :, ::-1]
    folded: Floats = parts.mean((0, 1))
    return folded


class Mean:
    """The mean luma of neighbouring pictures of one size."""

    def __init__(self) -> None:
        self.count, self._sum = 0, np.zeros((0, 0), np.float32)

    def add(self, image: Image) -> None:
        """Count a picture (H, W, 3), RGB, in."""
        if not self.count:
            self._sum = np.zeros(image.shape[:2], np.float32)
        cv2.accumulate(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self._sum)
        self.count += 1

    @property
    def value(self) -> Floats:
        """(H, W): the mean of at least one."""
        return self._sum / self.count


def find(luma: Floats) -> Found | None:
    """The watermark in the mean luma (H, W) of neighbouring frames; None where there is none."""
    height, width = luma.shape
    if height > width:
        return find(luma.T)
    likely = copies(width, height)
    # Frequencies that the frame hardly shows are not looked for: below 3.3 pixels a cycle.
    shown = min(width / WIDTH, height / HEIGHT) / (3.3 * _HIGH)
    possible = range(1, max(1, min(_MOST_COPIES, int(shown))) + 1)
    counts = sorted(possible, key=lambda count: abs(count - likely))
    for count in counts:
        found = _read(luma, count)
        if found is not None:
            return found
    return None


def _read(luma: Floats, count: int) -> Found | None:
    """What is read where there are so many copies in a row."""
    size = (WIDTH * count, HEIGHT * count)
    smaller = luma.shape[1] > size[0]
    whole = cv2.resize(
        luma.astype(np.float32), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    )
    return _decoded(_folded(_whitened(np.asarray(whole, np.float32)), count), count)


def _whitened(luma: Floats) -> Floats:
    """Fine structure, weighted by the inverse of its local variance: a matched filter."""
    fine = luma - cv2.GaussianBlur(luma, (0, 0), _WHITE_UNITS)
    variance = cv2.GaussianBlur(fine * fine, (0, 0), _WHITE_UNITS)
    return np.asarray(fine / (variance + 1))


def _decoded(tile: Floats, count: int) -> Found | None:
    """The message of a picture (HEIGHT, WIDTH) that holds the pattern as it is."""
    spread = _spread()
    seen = dctn(tile.astype(np.float64), norm="ortho")[spread.places] * spread.signs
    power = np.bincount(spread.rings, seen * seen) / np.bincount(spread.rings)
    seen = np.clip(seen / np.sqrt(power[spread.rings] + 1e-12), -3, 3)
    data = spread.bits >= 0
    soft = np.bincount(spread.bits[data], seen[data], CODED_BITS).astype(np.float64)
    message = Message.from_soft(soft)
    if message is None:
        return None
    agreed = float(soft @ message.to_signs() + seen[~data].sum())
    score = agreed / math.sqrt(float(seen @ seen))
    # Any of the messages could have come out, in any of the ways to look at the picture.
    log_chance = 2 * FIELD_BITS * math.log(2) + float(log_ndtr(-score)) + math.log(_MOST_COPIES)
    if log_chance > _LEAST_LOG_CHANCE:
        return None
    return Found(message=message, chance=math.exp(log_chance), copies=count)
