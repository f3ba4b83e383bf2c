"""The speech encoders by name: to add one, write its class and name it in ``ENCODERS``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from difftalker.config import FEATURE_OPTIONS
from difftalker.errors import UsageError
from difftalker.speech.characters import CharactersEncoder
from difftalker.speech.deepspeech import model as deepspeech
from difftalker.speech.encoder import (
    LogMelEncoder,
    ShortWhisperEncoder,
    SpeechEncoder,
    WhisperEncoder,
)
from difftalker.speech.live import LiveLogMelEncoder, LiveWhisperEncoder

ENCODERS: dict[str, Callable[[str | torch.device], SpeechEncoder]] = {
    encoder.name: encoder
    for encoder in (
        WhisperEncoder,
        ShortWhisperEncoder,
        CharactersEncoder,
        LogMelEncoder,
        LiveWhisperEncoder,
        LiveLogMelEncoder,
    )
}
"""Called with the device. DeepSpeech is not among them: its name has its model file's hash."""


def features_called(option: str) -> str:
    """The encoder's name for what ``--features`` says: ``whisper`` means ``whisper-short``.

    ``deepspeech`` means the model file that ``deepspeech.model.VARIABLE`` names, and becomes a name
    with its hash.

    Raises:
        UsageError: no features are called so.
        AssetError: no DeepSpeech model is named, or its file cannot be read.
    """
    if option == "deepspeech":
        return deepspeech.features_of(deepspeech.model_file())
    if option not in FEATURE_OPTIONS:
        wanted = " or ".join([*FEATURE_OPTIONS, "deepspeech"])
        raise UsageError(f"no features are called {option!r}", wanted=wanted)
    return FEATURE_OPTIONS[option]


def load_encoder(name: str, *, device: str | torch.device = "cpu") -> SpeechEncoder:
    """The encoder called ``name``: one of the table's, or ``deepspeech-`` and its file's hash.

    Raises:
        UsageError: no encoder has that name.
        AssetError: its weights cannot be had.
    """
    if name.startswith(deepspeech.PREFIX):
        return deepspeech.load_named(name, device)
    if name not in ENCODERS:
        raise UsageError(f"no speech encoder is called {name!r}", wanted=" or ".join(ENCODERS))
    return ENCODERS[name](device)
