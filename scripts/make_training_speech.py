"""Make speech with known words, for `difftalker train-expert characters ... --speech FOLDER`.

    apt-get install flite espeak-ng; pip install hibari-tts==0.2.1
    python scripts/make_training_speech.py --output FOLDER [--grid GRID --clips FILE.json:KEY ...]

Synthetic voices say random sentences (spoken_text.py), and the sound tracks of GRID clips, whose
names spell their sentences, come in altered copies. Every clip gets its own pace, pitch, loudness
and noise. The folder then holds 16 kHz mono files and ``speech.json``: name, text, voice and
``unseen`` (a voice that is never trained on) of each. The same seed makes the same clips.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, resample_poly

from difftalker.data.footage import find_footage
from difftalker.data.speech import grid_sentence
from difftalker.media.audio import read_audio
from make_speech import write_wav
from spoken_text import sentences, spelled

Floats = NDArray[np.float32]

RATE_HZ = 16_000
LONGEST_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A synthesiser's voice."""

    name: str
    share: int
    """Share of the sentences, relative to the other voices."""
    engine: str
    variant: str
    unseen: bool = False
    """Never trained on: what an unseen voice costs is measured on it."""


VOICES = (
    Voice(name="hibari-heart", share=8, engine="hibari", variant="heart"),
    Voice(name="flite-rms", share=5, engine="flite", variant="rms"),
    Voice(name="flite-awb", share=4, engine="flite", variant="awb"),
    Voice(name="flite-kal16", share=2, engine="flite", variant="kal16"),
    *(
        Voice(name=f"espeak-{variant}", share=1, engine="espeak-ng", variant=variant)
        for variant in ("en-gb", "en-us", "en-gb+m3", "en-us+m7", "en-gb+f2", "en-us+f4")
    ),
    Voice(name="flite-slt", share=2, engine="flite", variant="slt", unseen=True),
)
"""hibari-tts is Apache-2.0, its one packaged voice too; flite and its CMU Arctic voices are free of
restrictions (Carnegie Mellon); what espeak-ng says is free to use (its code is GPL-3.0)."""

Speak = Callable[[str, np.random.Generator], Floats]
Record = dict[str, str | bool]


def hibari(variant: str) -> Speak:
    """The neural synthesiser of make_speech.py, 24 kHz."""
    from hibari import Hibari

    voice = Hibari(voice=variant, threads=1)

    def speak(text: str, rng: np.random.Generator) -> Floats:
        sound = voice(f"{text}.", speed=rng.uniform(0.85, 1.35), seed=int(rng.integers(1 << 30)))
        return np.asarray(resample_poly(sound, 2, 3), np.float32)

    return speak


def flite(variant: str) -> Speak:
    """CMU flite, 16 kHz."""

    def speak(text: str, rng: np.random.Generator) -> Floats:
        pace, tone = rng.uniform(0.75, 1.2), rng.uniform(0.9, 1.1)
        words = ["flite", "-voice", variant, "--setf", f"duration_stretch={pace:.2f}"]
        return _spoken([*words, "--setf", f"f0_shift={tone:.2f}", "-t", f"{text}.", "-o"])

    return speak


def espeak(variant: str) -> Speak:
    """espeak-ng: formants by rule, 22 kHz."""

    def speak(text: str, rng: np.random.Generator) -> Floats:
        pace, tone = rng.integers(130, 230), rng.integers(30, 75)
        return _spoken(["espeak-ng", "-v", variant, "-s", f"{pace}", "-p", f"{tone}", text, "-w"])

    return speak


ENGINES = {"hibari": hibari, "flite": flite, "espeak-ng": espeak}


def _spoken(command: list[str]) -> Floats:
    """Sound at 16 kHz of a program whose last argument names its output."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.wav")
        subprocess.run([*command, str(out)], check=True, capture_output=True)
        return read_audio(out)


def altered(sound: Floats, rng: np.random.Generator, *, most: float = 0.14) -> Floats:
    """Another pitch, with formants and pace; tilt, loudness, noise and silence about it."""
    factor = Fraction(int(100 * np.exp(rng.uniform(-most, most))), 100)
    sound = resample_poly(sound, factor.denominator, factor.numerator)
    lead, tail = (np.zeros(int(s * RATE_HZ)) for s in rng.uniform(0, 0.5, 2))
    sound = np.concatenate([lead, sound, tail])
    tilt = rng.uniform(-0.5, 0.5)
    sound = lfilter([1, tilt], [1], sound)
    sound = sound / max(float(np.abs(sound).max()), 1e-6)
    noise = lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(len(sound)))
    level = np.sqrt(np.mean(np.square(sound)) / np.mean(np.square(noise)))
    sound = sound + noise * level * 10 ** (-rng.uniform(8, 50) / 20)
    loud = 10 ** (-rng.uniform(0, 26) / 20)
    return np.asarray(sound * loud / np.abs(sound).max(), np.float32)


def synthetic(count: int, seed: int) -> Iterator[tuple[Record, Floats]]:
    """Records and sounds of ``count`` sentences, dealt out to the voices by their shares."""
    texts = iter(sentences(count, seed, _lexicon()))
    total = sum(voice.share for voice in VOICES)
    for v, voice in enumerate(VOICES):
        speak = ENGINES[voice.engine](voice.variant)
        for i in range(count * voice.share // total):
            text, rng = next(texts), np.random.default_rng((seed, v, i))
            record: Record = {"name": f"{voice.name}-{i:04d}", "text": spelled(text)}
            sound = altered(speak(text, rng), rng)
            yield {**record, "voice": voice.name, "unseen": voice.unseen}, sound


def grid(videos: list[Path], copies: int, seed: int) -> Iterator[tuple[Record, Floats]]:
    """Records and altered sounds of GRID clips; ``clip`` names the clip that each comes from."""
    for v, video in enumerate(videos):
        sound = read_audio(video)
        for copy in range(copies):
            rng = np.random.default_rng((seed, v, copy))
            record: Record = {"name": f"{video.stem}-{copy}", "text": grid_sentence(video.stem)}
            record |= {"voice": "grid", "clip": video.stem, "unseen": False}
            yield record, altered(sound, rng)


def _lexicon() -> list[str]:
    """The words of hibari's American pronunciation lexicon."""
    import hibari as package

    path = Path(str(package.__file__)).parent / "assets" / "lexicon_us_gold.json.gz"
    return sorted(json.loads(gzip.decompress(path.read_bytes())))


def main() -> None:
    """Write the clips, then the list of them: a folder without ``speech.json`` is unfinished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--grid", type=Path, nargs="*", default=[])
    parser.add_argument("--clips", nargs="*", default=[])
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    programs = {voice.engine for voice in VOICES} - {"hibari"}
    if missing := sorted(program for program in programs if not shutil.which(program)):
        parser.error(
            f"{' and '.join(missing)} not found; on Debian: apt-get install flite espeak-ng"
        )
    chosen.output.mkdir(parents=True, exist_ok=True)
    videos = find_footage(chosen.grid, chosen.clips) if chosen.grid else []
    made, seconds = [], 0.0
    spoken = synthetic(chosen.sentences, chosen.seed)
    for record, sound in chain(spoken, grid(videos, chosen.copies, chosen.seed)):
        if len(sound) <= LONGEST_S * RATE_HZ:
            write_wav(chosen.output / f"{record['name']}.wav", sound, RATE_HZ)
            made.append(record)
            seconds += len(sound) / RATE_HZ
        if not len(made) % 200:
            print(f"{len(made)} clips", file=sys.stderr)
    (chosen.output / "speech.json").write_text(json.dumps({"version": 1, "clips": made}, indent=0))
    print(f"{chosen.output}: {len(made)} clips, {seconds / 60:.0f} minutes")


if __name__ == "__main__":
    main()
