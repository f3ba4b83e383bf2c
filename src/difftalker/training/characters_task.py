"""Learning to spell speech, by connectionist temporal classification.

Source: Graves, Fernandez, Gomez and Schmidhuber 2006, "Connectionist temporal classification".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import FEATURE_DIMS, StageConfig
from difftalker.data.dataset import ClipData, Dataset
from difftalker.data.speech import Spoken, encode_speech, grid_sentence, load_speech
from difftalker.speech.characters import (
    BLANK,
    CharactersConfig,
    CharactersNet,
    character_error_rate,
    decode,
    encode_text,
)
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.task import Log

FEATURES = "whisper-short"
STAGE = StageConfig(
    steps=1600,
    batch=20,
    learning_rate=2e-3,
    warmup_steps=100,
    ema=0.995,
    validate_every=400,
    checkpoint_every=200,
)
HELD_OUT_STRIDE = 25
"""Every so-manieth sentence of the voices that are learned from is kept to measure on."""
HIDDEN_SPANS, HIDDEN_FEATURES = 2, 8
"""Spans of a sentence that are hidden from the network in training, and their longest."""

ABOUT = """Reads characters (26 letters, space, apostrophe, blank) off the encoder of Whisper
tiny.en, at 50 Hz: the speech features `characters`. The figures are character error rates of the
best path, without a dictionary: on GRID clips (`cer_grid`), on new sentences of the synthetic
voices that it learned from (`cer_known_voices`), and on a voice it was not trained on
(`cer_unseen_voice`)."""
CORPORA = "the GRID audiovisual sentence corpus (Cooke et al. 2006, CC BY 4.0)"
SYNTHETIC = """; synthetic speech with its texts, made by `scripts/make_training_speech.py`: \
hibari-tts 0.2.1 (voice heart, Apache-2.0), CMU flite 2.2 (voices rms, awb, kal16 and, unseen, \
slt; free of restrictions) and espeak-ng 1.51 (what it says is free to use)"""


@dataclass(frozen=True)
class Utterance:
    """A spoken sentence: its features and its text."""

    name: str
    features: NDArray[np.floating]
    """(T, C)."""
    text: str


class CharactersTask:
    """The mean negative log-likelihood of the text, a character."""

    name = "characters"

    def __init__(
        self,
        model: CharactersNet,
        train: Sequence[Utterance],
        watched: Mapping[str, Sequence[Utterance]],
        *,
        device: str = "cpu",
    ) -> None:
        """``watched`` are sentences held out, by the name of their figure."""
        self.model, self.device = model, device
        self._train, self._watched = train, watched
        self.examples = len(train)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Sentences in one row, spans of them hidden; see ``trainer.Task``."""
        chosen = [self._train[int(i)] for i in indices]
        texts = [encode_text(heard.text) for heard in chosen]
        features = [_hidden(torch.tensor(h.features).float(), generator) for h in chosen]
        gap = self.model.config.kernel // 2
        parted = [nnf.pad(one, (0, 0, 0, gap)) for one in features]
        inside = [torch.arange(len(one)) < len(one) - gap for one in parted]
        return {
            "features": torch.cat(parted)[None].to(self.device),
            "inside": torch.cat(inside)[None].to(self.device),
            "lengths": torch.tensor([len(one) for one in features]),
            "text": torch.tensor([place for text in texts for place in text]),
            "text_lengths": torch.tensor([len(text) for text in texts]),
        }

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of this task; see ``trainer.Task``."""
        row = self.model(batch["features"], batch["inside"])[0]
        gap = self.model.config.kernel // 2
        scores = row.split((batch["lengths"] + gap).tolist())
        total = nnf.ctc_loss(
            torch.nn.utils.rnn.pad_sequence(list(scores)),
            batch["text"],
            batch["lengths"],
            batch["text_lengths"],
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
        return {"loss": total / batch["text_lengths"].sum()}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the sentences; see ``trainer.Task``."""
        return [self._train[int(i)].name for i in indices]

    def validate(self) -> Log:
        """Character error rates on all that is watched."""
        return {
            name: character_error_rate([self._read(h) for h in heard], [h.text for h in heard])
            for name, heard in self._watched.items()
        }

    def sheet(self) -> NDArray[np.uint8] | None:
        """Nothing to see."""
        return None

    def _read(self, heard: Utterance) -> str:
        features = torch.tensor(heard.features).float().to(self.device)
        return decode(self.model(features[None])[0])


def _hidden(features: Tensor, generator: torch.Generator) -> Tensor:
    """Features (T, C) of a sentence with a few short spans set to 0."""
    steps = torch.arange(len(features))
    kept = torch.ones(len(features), dtype=torch.bool)
    for first, size in torch.rand(HIDDEN_SPANS, 2, generator=generator):
        start = first * len(features)
        kept &= (steps < start) | (steps >= start + size * HIDDEN_FEATURES)
    return features * kept[:, None]


def job(data: Dataset, options: ExpertOptions) -> ExpertJob:
    """Learn from a dataset of GRID clips, and from further speech.

    Raises:
        MediaError: a clip's name spells no sentence, or the speech cannot be read.
        UsageError: the dataset lacks the features.
    """
    config = CharactersConfig(feature_dim=FEATURE_DIMS[FEATURES])
    train = [_grid(clip) for clip in data.train]
    watched: dict[str, Sequence[Utterance]] = {
        "cer_grid": [_grid(clip) for clip in data.validation]
    }
    if options.speech:
        held_out = {clip.name for clip in data.validation}
        more, unseen = _further(load_speech(options.speech), held_out, options)
        train, watched = train + more, watched | unseen
    model = CharactersNet(config).to(options.device)
    task = CharactersTask(model, train, watched, device=options.device)
    return ExpertJob(
        task=task,
        stage=STAGE,
        config=asdict(config),
        unseen=task.validate,
        about=ABOUT,
        corpora=CORPORA + (SYNTHETIC if options.speech else ""),
    )


def _grid(clip: ClipData) -> Utterance:
    return Utterance(clip.name, clip.features(FEATURES), grid_sentence(clip.name))


def _further(
    spoken: Sequence[Spoken], held_out: set[str], options: ExpertOptions
) -> tuple[list[Utterance], dict[str, Sequence[Utterance]]]:
    """Sentences to learn from, and those to measure on."""
    usable = [clip for clip in spoken if clip.clip not in held_out]
    features = encode_speech(
        usable, options.run / "speech", features=FEATURES, device=options.device
    )
    train: list[Utterance] = []
    known: list[Utterance] = []
    unseen: list[Utterance] = []
    for i, (clip, found) in enumerate(zip(usable, features, strict=True)):
        measured = not clip.clip and i % HELD_OUT_STRIDE == 0
        kept = unseen if clip.unseen else known if measured else train
        kept.append(Utterance(clip.name, found, clip.text))
    return train, {"cer_known_voices": known, "cer_unseen_voice": unseen}
