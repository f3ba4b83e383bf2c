"""Make the packaged speech, packaged/samples/speech.wav, with an offline synthesiser.

    pip install hibari-tts==0.2.1
    python scripts/make_speech.py [--output FILE]

The one voice inside the synthesiser's wheel is a woman's, and the packaged avatar is a man. So it
speaks fast and is played slowly: pitch and formants fall together, to those of a deeper voice, and
the pace stays natural. The same text and seed give the same file on one machine.
"""

from __future__ import annotations

import argparse
import os
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

Floats = NDArray[np.float32]

OUTPUT = Path(__file__).parents[1] / "src" / "difftalker" / "packaged" / "samples" / "speech.wav"
TEXT = "My mouth is painted by a computer program. Watch how the lips move with every word."
SEED = 0
SLOWED = Fraction(41, 50)
"""How fast the voice is played: the formants of men lie about a sixth below those of women."""
SPEED = 1.2
"""How fast it speaks before; times ``SLOWED``, a little under the synthesiser's usual pace."""
PEAK = 0.7
"""Highest sample of the file: loud enough, with room for a lossy encoder."""
QUIET = 0.01
"""Share of the peak below which the ends of the speech are silence."""
LEAD_S, TAIL_S = 0.2, 0.4
"""Silence kept at both ends: the mouth is seen to open, and to close."""


def speak(text: str, seed: int) -> tuple[Floats, int]:
    """The text as mono samples (n,) of the deepened voice, and their rate in Hz."""
    from hibari import Hibari

    voice = Hibari(threads=1)
    fast = voice(text, speed=SPEED, seed=seed)
    slow = resample_poly(fast, SLOWED.denominator, SLOWED.numerator)
    return slow.astype(np.float32), int(voice.sample_rate)


def trimmed(samples: Floats, rate_hz: int) -> Floats:
    """The samples with set lengths of silence at both ends, and a set peak."""
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    lead, tail = (round(seconds * rate_hz) for seconds in (LEAD_S, TAIL_S))
    padded = np.pad(samples, (lead, tail))
    kept = padded[loud[0] : loud[-1] + 1 + lead + tail]
    return np.asarray(kept * (PEAK / np.abs(kept).max()), np.float32)


def write_wav(path: Path, samples: Floats, rate_hz: int) -> None:
    """Write mono samples from -1 to 1 as 16-bit PCM; the file appears complete."""
    part = path.with_name(f".{path.name}.part")
    try:
        with wave.open(str(part), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Write the file and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output: Path = parser.parse_args().output
    samples, rate_hz = speak(TEXT, SEED)
    samples = trimmed(samples, rate_hz)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_wav(output, samples, rate_hz)
    print(f"{output}: {len(samples) / rate_hz:.2f} s, {rate_hz} Hz, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
