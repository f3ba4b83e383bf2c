"""Speech with known words: folders of sound files with their texts, and the sentences of GRID.

    FOLDER/speech.json    {version: 1, clips: [{name, text, voice, unseen, clip?}]}
          /NAME.wav       one sentence each

``text`` is in a to z, space and apostrophe. ``unseen`` voices are for measuring alone. ``clip`` is
the clip of a dataset that the sound was taken from, so that one held out there is held out here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from difftalker.core.files import whole_folder
from difftalker.core.hashing import sha256_of
from difftalker.errors import MediaError
from difftalker.media.audio import stream_audio
from difftalker.speech.encoder import SpeechEncoder, encode_all
from difftalker.speech.grid import sentence_of_name
from difftalker.speech.registry import load_encoder

Halves = NDArray[np.float16]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One sentence of speech."""

    name: str
    sound: Path
    text: str
    voice: str
    unseen: bool
    clip: str
    """The clip of a dataset that the sound was taken from, or nothing."""


def grid_sentence(name: str) -> str:
    """The sentence of the GRID clip ``name``: six letters, one a word (``bbaf2n``).

    Raises:
        MediaError: the name spells no sentence.
    """
    words = sentence_of_name(name)
    if words is None:
        raise MediaError(
            f"the clip {name} does not say what is spoken in it",
            wanted="GRID's names, in which six letters spell the sentence, such as bbaf2n",
        )
    return " ".join(words)


def load_speech(folder: Path) -> list[Spoken]:
    """The sentences of a folder, in the order of its list.

    Raises:
        MediaError: the list is missing, damaged or of another version, or names a file elsewhere.
    """
    path = folder / "speech.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] != VERSION:
            raise ValueError(f"version {raw['version']}")
        return [_spoken(folder, clip) for clip in raw["clips"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MediaError(
            f"{path} is no list of speech: {error}",
            wanted=f"a file of version {VERSION}",
            fix="make the folder with scripts/make_training_speech.py",
        ) from error


def _spoken(folder: Path, clip: dict[str, object]) -> Spoken:
    name, text = str(clip["name"]), str(clip["text"])
    if not re.fullmatch(r"[\w+-]+", name):
        raise ValueError(f"the name {name!r}")
    if not re.fullmatch(r"[a-z']+( [a-z']+)*", text):
        raise ValueError(f"the text {text!r}")
    return Spoken(
        name=name,
        sound=folder / f"{name}.wav",
        text=text,
        voice=str(clip["voice"]),
        unseen=bool(clip["unseen"]),
        clip=str(clip.get("clip", "")),
    )


def encode_speech(
    clips: Sequence[Spoken], cache: Path, *, features: str, device: str
) -> list[Halves]:
    """Speech features (T, C) of every clip, float16, mapped from disk.

    They are computed once and kept in the folder ``cache`` for the same clips.

    Raises:
        MediaError: a sound cannot be read.
    """
    identity: dict[str, object] = {
        "features": features,
        "sounds": {clip.name: sha256_of(clip.sound) for clip in clips},
    }
    if not _is_cached(cache, identity):
        _fill(cache, clips, identity, load_encoder(features, device=device))
    record = json.loads((cache / "cache.json").read_text())
    flat = np.memmap(cache / "features.f16", np.float16, "r").reshape(-1, record["width"])
    return np.split(flat, np.cumsum(record["lengths"])[:-1])


def _is_cached(cache: Path, identity: dict[str, object]) -> bool:
    path = cache / "cache.json"
    return path.is_file() and json.loads(path.read_text())["identity"] == identity


def _fill(
    cache: Path, clips: Sequence[Spoken], identity: dict[str, object], encoder: SpeechEncoder
) -> None:
    lengths = []
    with whole_folder(cache) as part:
        with (part / "features.f16").open("wb") as file:
            for clip in tqdm(clips, desc="features", unit="clip", mininterval=2.0):
                features = encode_all(encoder, stream_audio(clip.sound)).astype(np.float16)
                lengths.append(len(features))
                file.write(features.tobytes())
        record = {"identity": identity, "lengths": lengths, "width": encoder.dim}
        (part / "cache.json").write_text(json.dumps(record))
