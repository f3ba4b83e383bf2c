"""Mel-frequency cepstral coefficients, as SyncNet's evaluation and DeepSpeech 0.1 take them.

The numbers are those of the package python_speech_features (Lyons, 2013-2017, MIT) with its
defaults: rectangular windows, HTK's mel scale, log energy in place of the zeroth coefficient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
FILTERS = 26
COEFFICIENTS = 13
PRE_EMPHASIS = 0.97
LIFTER = 22

Floats = NDArray[np.float64]


def mfcc(samples: NDArray[np.number], coefficients: int = COEFFICIENTS) -> Floats:
    """16 kHz mono (n,), in 16-bit steps as the energy has no other unit -> (frames, C) at 100 Hz.

    Windows of 25 ms every 10 ms; the last one is filled up with zeros, so no sample is lost.
    """
    sound = np.asarray(samples, np.float64)
    emphasised = np.append(sound[:1], sound[1:] - PRE_EMPHASIS * sound[:-1])
    power = np.abs(np.fft.rfft(_frames(emphasised), FFT_SAMPLES)) ** 2 / FFT_SAMPLES
    logs = np.log(_above_zero(power @ mel_triangles().T))
    cepstra = logs @ _cosines(coefficients).T * _lifter(coefficients)
    cepstra[:, 0] = np.log(_above_zero(power.sum(1)))
    return cepstra


def mel_triangles() -> Floats:
    """(26, 257): triangles between whole bins, evenly spaced in HTK's mel from 0 to 8 kHz."""
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, FILTERS + 2) / 2595) - 1)
    edges = np.floor((FFT_SAMPLES + 1) * edges_hz / SAMPLE_RATE_HZ)
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins >= low) & (bins < middle)
    falling = (bins >= middle) & (bins < high)
    with np.errstate(divide="ignore", invalid="ignore"):  # a side without a bin has no width
        up, down = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(rising, up, np.where(falling, down, 0.0))


def _frames(sound: Floats) -> Floats:
    count = 1 + max(0, -(-(len(sound) - WINDOW_SAMPLES) // HOP_SAMPLES))
    padded = np.zeros((count - 1) * HOP_SAMPLES + WINDOW_SAMPLES)
    padded[: len(sound)] = sound
    frames: Floats = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)
    return frames[::HOP_SAMPLES]


def _cosines(coefficients: int) -> Floats:
    """(C, 26): the orthonormal discrete cosine transform of type 2."""
    k, n = np.arange(coefficients)[:, None], np.arange(FILTERS)
    waves: Floats = np.sqrt(2 / FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS))
    waves[0] /= np.sqrt(2)
    return waves


def _lifter(coefficients: int) -> Floats:
    """(C,): gives the higher coefficients more weight."""
    lifter: Floats = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(coefficients) / LIFTER)
    return lifter


def _above_zero(values: Floats) -> Floats:
    return np.where(values == 0, np.finfo(np.float64).eps, values)
