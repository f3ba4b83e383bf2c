"""Compare our Whisper encoder with the reference ones, and write the golden file of the tests.

    pip install ctranslate2 && pip install --no-deps faster-whisper
    python scripts/compare_whisper.py [--write-golden]

The reference is independent of ours from the samples on: the log-mels of faster-whisper (numpy),
then the encoder of CTranslate2 in float32, on the same weights. Exits 1 beyond the tolerance, which
is widened by the rounding of the reference itself: on 30 s of noise single values are off by 2e-3
from the same sums in float64.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from difftalker.speech.encoder import WhisperEncoder
from difftalker.speech.whisper import SAMPLE_RATE_HZ, WINDOW_SAMPLES, log_mel
from difftalker.store import assets

Floats = NDArray[np.float32]

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "whisper_synthetic_speech.npz"
TOLERANCE = 1e-3
VOCABULARY = 51_864
GOLDEN_ROWS = np.r_[0:150:9, 300, 600, 900, 1499]
"""Feature indices kept in the golden file: some within the speech, some in the padding after it."""


def synthetic_speech(duration_s: float = 3.0) -> Floats:
    """Vowel-like harmonics with a gliding pitch, in syllables with pauses: (samples,), 16 kHz."""
    t = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * (120 * t + 4 * np.sin(2 * np.pi * 0.7 * t))
    formant_hz = 700 + 300 * np.sin(2 * np.pi * 1.3 * t)
    voice = np.zeros_like(t)
    for harmonic in range(1, 30):
        gain = np.exp(-(((120 * harmonic - formant_hz) / 250) ** 2)) + 0.1 / harmonic
        voice += gain * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1)
    return (0.1 * syllables * voice).astype(np.float32)


class ReferenceModel(Protocol):
    """What is used of ``ctranslate2.models.Whisper``."""

    def encode(self, features: object) -> object:
        """Log-mels (B, 80, 3000) -> features (B, 1500, D), both as StorageView."""
        ...


def signals() -> dict[str, Floats]:
    """What is compared: speech-like, noise, a click, silence and full windows."""
    noise = np.random.default_rng(0).standard_normal(WINDOW_SAMPLES).astype(np.float32)
    click = np.zeros(SAMPLE_RATE_HZ, np.float32)
    click[8000] = 1
    return {
        "synthetic speech, 3 s": synthetic_speech(),
        "synthetic speech, 30 s": synthetic_speech(30),
        "noise, 10 s": 0.1 * noise[: 10 * SAMPLE_RATE_HZ],
        "noise, 30 s": 0.1 * noise,
        "click, 1 s": click,
        "silence, 1 s": np.zeros(SAMPLE_RATE_HZ, np.float32),
    }


def padded(samples: Floats) -> Floats:
    """Zero-padded to Whisper's window of 30 s."""
    return np.pad(samples, (0, WINDOW_SAMPLES - len(samples)))


def reference_model(folder: Path) -> ReferenceModel:
    """CTranslate2's Whisper on our asset, float32, made in the empty ``folder``."""
    import ctranslate2

    (folder / "model.bin").symlink_to(assets.path("whisper_tiny_en"))
    # Only decoding reads these; encoding wants the files to exist and to have the right size.
    (folder / "config.json").write_text(json.dumps({"lang_ids": [], "alignment_heads": []}))
    (folder / "vocabulary.txt").write_text("\n".join(map(str, range(VOCABULARY))))
    model: ReferenceModel = ctranslate2.models.Whisper(
        str(folder), compute_type="float32", intra_threads=1
    )
    return model


def reference_features(model: ReferenceModel, mel: Floats) -> Floats:
    """Log-mels (80, 3000) -> features (1500, 384)."""
    import ctranslate2

    batch = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))
    features: Floats = np.array(model.encode(batch))[0]
    return features


def reference_mel(samples: Floats) -> Floats:
    """faster-whisper's log-mels (80, 3000) of a padded window."""
    # Its numpy file alone: the package would ask for a tokenizer and a runtime that are not needed.
    package = importlib.util.find_spec("faster_whisper")
    if package is None or not package.submodule_search_locations:
        sys.exit("faster-whisper is absent; run `pip install --no-deps faster-whisper`")
    file = Path(package.submodule_search_locations[0], "feature_extractor.py")
    spec = importlib.util.spec_from_file_location("reference_feature_extractor", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    mel: Floats = module.FeatureExtractor()(samples, padding=0).astype(np.float32)
    return mel


def compare(model: ReferenceModel, encoder: WhisperEncoder) -> float:
    """Print the differences signal by signal; the largest, less the reference's own rounding."""
    exact = copy.deepcopy(encoder.net).double()
    worst = 0.0
    for name, samples in signals().items():
        window = padded(samples)
        mel = reference_mel(window)
        wanted = reference_features(model, mel)
        (ours,) = encoder.encode([window])
        mel_error = np.abs(log_mel(torch.from_numpy(window)).numpy() - mel).max()
        error = np.abs(ours - wanted).max()
        in_float64 = exact(torch.from_numpy(mel).double()[None])[0].numpy()
        rounding = np.abs(wanted - in_float64).max()
        print(f"{name:24} mel {mel_error:.1e}  features {error:.1e}  rounding {rounding:.1e}")
        worst = max(worst, float(error - rounding))
    return worst


def time_encoding(encoder: WhisperEncoder) -> None:
    """Seconds for 3 s and 60 s of speech on one thread."""
    torch.set_num_threads(1)
    for duration_s in (3, 60):
        samples = synthetic_speech(duration_s)
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            list(encoder.encode([samples]))
            runs.append(time.perf_counter() - start)
        print(f"{duration_s} s of speech encoded in {min(runs):.2f} s on one thread")


def write_golden(model: ReferenceModel) -> None:
    """The reference's features and mels of the synthetic speech, at a few rows."""
    mel = reference_mel(padded(synthetic_speech()))
    features = reference_features(model, mel)[GOLDEN_ROWS]
    np.savez_compressed(
        GOLDEN, rows=GOLDEN_ROWS, features=features, mel=mel[:, 2 * GOLDEN_ROWS], mel_sum=mel.sum(1)
    )
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


def main() -> int:
    """Run the comparison; 1 when ours is farther from the reference than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-golden", action="store_true", help=f"write {GOLDEN.name}")
    options = parser.parse_args()
    encoder = WhisperEncoder()
    with tempfile.TemporaryDirectory() as folder:
        model = reference_model(Path(folder))
        worst = compare(model, encoder)
        if options.write_golden:
            write_golden(model)
    time_encoding(encoder)
    print(f"largest difference beyond rounding {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
