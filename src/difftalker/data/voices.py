"""Voice augmentation: the same speech at the same times in other voices.

One speaker's minutes hold one voice, one room, one microphone. The augmentation changes pitch,
vocal tract length, room, noise and spectral tilt, and keeps the words and their times.

    sound -> short-time spectra -> envelopes warped (formants) -> stretched (phase vocoder)
          -> resampled to the old length (pitch) -> tilted -> reverberated -> noise added

Sources: Flanagan and Golden, "Phase vocoder" (1966); Jaitly and Hinton, "Vocal tract length
perturbation (VTLP) improves speech recognition" (2013), for what is gained; Ko et al., "A study on
data augmentation of reverberant speech for robust speech recognition" (2017), for rooms and noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PITCHES = 0.65, 1.9
"""Range of pitch factors: from a deep man's voice to a child's, for a man's of 100 to 120 Hz."""
TRACTS = 0.85, 1.25
"""Range of formant factors: longer and shorter vocal tracts."""
ROOMS_S = 0.1, 0.5
"""Reverberation times (60 dB) of rooms; half of the voices have one."""
DIRECT_DB = 3.0, 15.0
"""Range of direct to reverberant energy, dB."""
NOISE_DB = 12.0, 40.0
"""Range of signal to noise ratios, dB."""
TILTS_DB = -4.0, 4.0
"""Range of spectral tilts of a microphone, dB an octave, zero at 1 kHz."""

PIECE_S = 10.0
"""Length of a piece in one voice, seconds."""

_SIZE, _HOP = 1024, 256
_ENVELOPE = 40
"""Cepstral coefficients that make the envelope, of ``_SIZE`` / 2: 2.5 ms at 16 kHz."""
_TILTED_HZ = 125.0, 8000.0


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice, its room and its microphone."""

    pitch: float = 1.0
    """Factor on the fundamental frequency."""
    tract: float = 1.0
    """Factor on the formants' frequencies."""
    tilt_db: float = 0.0
    """Spectral tilt of the microphone, dB an octave."""
    room_s: float = 0.0
    """Reverberation time, seconds; 0: no room."""
    direct_db: float = 10.0
    """Direct to reverberant energy, dB."""
    noise_db: float = 60.0
    """Signal to noise ratio, dB."""
    noise_tilt_db: float = -3.0
    """Spectral tilt of the noise, dB an octave: 0 is white, -3 pink."""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Voice:
        """Draw a random voice; pitch and vocal tract are correlated, as in people."""
        pitch = float(np.exp(rng.uniform(*np.log(PITCHES))))
        likely = 1 + 0.25 * np.log2(pitch)  # women's formants are a sixth higher, at an octave
        return cls(
            pitch=pitch,
            tract=float(np.clip(likely + rng.normal(0, 0.06), *TRACTS)),
            tilt_db=float(rng.uniform(*TILTS_DB)),
            room_s=float(rng.uniform(*ROOMS_S) * rng.integers(2)),
            direct_db=float(rng.uniform(*DIRECT_DB)),
            noise_db=float(rng.uniform(*NOISE_DB)),
            noise_tilt_db=float(rng.uniform(-6, 0)),
        )


def by_others(blocks: Iterable[Floats], rate_hz: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Change the voice of mono sound, blocks (n,) of any sizes, in pieces of ``PIECE_S``."""
    for piece in _pieces(blocks, round(PIECE_S * rate_hz)):
        yield spoken_by(Voice.drawn(rng), piece, rate_hz, rng)


def _pieces(blocks: Iterable[Floats], size: int) -> Iterator[Floats]:
    """Regroup blocks to ``size`` samples; the last one may be shorter."""
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if len(held):
        yield held


def spoken_by(
    voice: Voice, samples: Floats, rate_hz: int, rng: np.random.Generator | None = None
) -> Floats:
    """Mono sound (n,) in another voice, (n,), at about the same level; ``rng`` makes the noise."""
    rng = rng or np.random.default_rng(0)
    spoken = _tilted(_pitched(voice, samples), voice.tilt_db, rate_hz)
    if voice.room_s:
        spoken = _in_room(spoken, voice, rate_hz, rng)
    noise = _tilted(rng.standard_normal(len(spoken)), voice.noise_tilt_db, rate_hz)
    spoken = spoken + noise * (_rms(spoken) / max(_rms(noise), 1e-9) * 10 ** (-voice.noise_db / 20))
    level = _rms(samples) / max(_rms(spoken), 1e-9)
    return np.clip(spoken * level, -1, 1).astype(np.float32)


def _pitched(voice: Voice, samples: Floats) -> NDArray[np.float64]:
    """Move the formants first, then the pitch, which moves them too."""
    from scipy.signal import istft, resample_poly, stft

    window = {"nperseg": _SIZE, "noverlap": _SIZE - _HOP}
    padded = np.pad(samples.astype(np.float64), (0, max(0, _SIZE - len(samples))))
    spectra = stft(padded, **window)[2].T
    spectra = spectra * _warped(spectra, voice.tract / voice.pitch)
    stretched = istft(_stretched(spectra, voice.pitch).T, **window)[1]
    ratio = Fraction(voice.pitch).limit_denominator(64)
    spoken = resample_poly(stretched, ratio.denominator, ratio.numerator)
    missing = max(0, len(samples) - len(spoken))
    return np.pad(spoken, (0, missing))[: len(samples)]


def _warped(spectra: NDArray[np.complex128], factor: float) -> NDArray[np.float64]:
    """Gains (frames, bins) that move the envelope of spectra to ``factor`` times its frequency."""
    log = np.log(np.abs(spectra) + 1e-6 * np.abs(spectra).max() + 1e-12)
    cepstra = np.fft.irfft(log, axis=1)
    cepstra[:, _ENVELOPE : -_ENVELOPE + 1] = 0
    envelopes = np.fft.rfft(cepstra, axis=1).real
    bins = np.arange(spectra.shape[1])
    moved = np.stack([np.interp(bins / factor, bins, one) for one in envelopes])
    gains: NDArray[np.float64] = np.exp(np.clip(moved - envelopes, -6, 6))
    return gains


def _stretched(spectra: NDArray[np.complex128], factor: float) -> NDArray[np.complex128]:
    """Stretch spectra (frames, bins) in time by ``factor`` with a phase vocoder."""
    places = np.arange(0, len(spectra) - 1, 1 / factor)
    before = places.astype(np.int64)
    share = (places - before)[:, None]
    sizes = (1 - share) * np.abs(spectra[before]) + share * np.abs(spectra[before + 1])
    expected = 2 * np.pi * _HOP * np.arange(spectra.shape[1]) / _SIZE
    turned = np.angle(spectra[before + 1]) - np.angle(spectra[before]) - expected
    turned = expected + turned - 2 * np.pi * np.round(turned / (2 * np.pi))
    phases = np.angle(spectra[:1]) + np.concatenate([0 * turned[:1], np.cumsum(turned[:-1], 0)])
    return np.asarray(sizes * np.exp(1j * phases))


def _tilted(sound: NDArray[np.floating], db_an_octave: float, rate_hz: int) -> NDArray[np.float64]:
    """Tilt the spectrum of a sound by ``db_an_octave``, zero at 1 kHz."""
    spectrum = np.fft.rfft(sound)
    hz = np.clip(np.fft.rfftfreq(len(sound), 1 / rate_hz), *_TILTED_HZ)
    return np.fft.irfft(spectrum * (hz / 1000) ** (db_an_octave / 20 / np.log10(2)), len(sound))


def _in_room(
    sound: NDArray[np.float64], voice: Voice, rate_hz: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Add reverberation: decaying noise as the room's impulse response."""
    from scipy.signal import fftconvolve

    times_s = np.arange(1, round(voice.room_s * rate_hz)) / rate_hz
    tail = rng.standard_normal(len(times_s)) * 10 ** (-3 * times_s / voice.room_s)
    echo = np.r_[0, fftconvolve(sound, tail)[: len(sound) - 1]]
    share = _rms(sound) / max(_rms(echo), 1e-9) * 10 ** (-voice.direct_db / 20)
    return np.asarray(sound + share * echo)


def _rms(sound: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
