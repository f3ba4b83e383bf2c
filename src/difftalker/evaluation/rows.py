"""The rows of an evaluation: each makes the video of a clip that is then measured."""

from __future__ import annotations

import re
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from difftalker.config import SamplingConfig
from difftalker.dubbing.avatar import Avatar
from difftalker.errors import MediaError, UsageError
from difftalker.evaluation.predictions import conform, find_prediction
from difftalker.evaluation.scoring import Footage, Output
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.media.video import VideoWriter, read_frames

Maker = Callable[[Footage, Footage | None], Output]
"""Makes the video of one clip; the second clip lends its speech, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Where and how the videos of the rows are made."""

    avatar: Avatar
    videos: Path
    scratch: Path
    sampling: SamplingConfig
    seed: int

    def place(self, row: str, clip: Footage) -> Path:
        """The file for a clip's video; its folder is made."""
        folder = self.videos / row
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{clip.path.stem}.mp4"

    def dub(self, row: str, clip: Footage, audio: Path, voice: Footage | None) -> Output:
        """Dub the clip with the sound of a file."""
        dub = self.avatar.dub(
            clip.path,
            audio,
            located=clip.located,
            sampler=self.sampling.sampler,
            steps=self.sampling.steps,
            seed=self.seed,
        )
        result = dub.save(self.place(row, clip))
        return Output(video=result.output, audio=audio, voice=voice, dub=result)


def _real(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    """The footage through the encoder that dubbed videos go through."""
    out, info = studio.place("real", clip), clip.located.info
    writer = VideoWriter(
        out,
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=info.time_base,
        audio=clip.path,
        sample_aspect_ratio=info.sample_aspect_ratio,
    )
    with writer:
        for frame in read_frames(clip.path):
            writer.write(frame.image, frame.pts)
    return Output(video=out, audio=clip.path, voice=clip)


def _copied(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    """The footage itself, under another clip's sound."""
    voice = _needed(other)
    return Output(video=clip.path, audio=voice.path, voice=voice)


def _own_audio(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    return studio.dub("own_audio", clip, clip.path, clip)


def _other_audio(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    voice = _needed(other)
    return studio.dub("other_audio", clip, voice.path, voice)


def _silence(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    silent = studio.scratch / f"{clip.path.stem}.wav"
    seconds = float(clip.located.track.times_s[-1]) + 1
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * SAMPLE_RATE_HZ)))
    return studio.dub("silence", clip, silent, None)


def _needed(other: Footage | None) -> Footage:
    if other is None:
        raise MediaError("there is no other clip to take speech from", wanted="two clips at least")
    return other


_MAKERS = {
    "real": _real,
    "copied": _copied,
    "own_audio": _own_audio,
    "other_audio": _other_audio,
    "silence": _silence,
}
ROWS = tuple(_MAKERS)
"""The rows of every evaluation, in the order of the report."""


def makers(
    studio: Studio,
    rows: Sequence[str],
    ablations: Mapping[str, Studio],
    predictions: Mapping[str, Path],
) -> dict[str, Maker]:
    """What makes each row, in the order of the report: ours, ablations, other programs.

    Raises:
        UsageError: an unknown row, or a name that cannot be one.
        MediaError: a folder of predictions is not there.
    """
    if unknown := [row for row in rows if row not in ROWS] or ([] if rows else ["nothing"]):
        raise UsageError(f"no row is called {unknown[0]!r}", wanted=" or ".join(ROWS))
    _check_names([*ablations, *predictions])
    for folder in predictions.values():
        if not folder.is_dir():
            raise MediaError(f"no such folder: {folder}", wanted="one with a video for each clip")
    return {
        **{row: partial(_MAKERS[row], studio) for row in ROWS if row in rows},
        **{name: partial(_ablation, name, one) for name, one in ablations.items()},
        **{name: partial(_prediction, name, one, studio) for name, one in predictions.items()},
    }


def _check_names(names: Sequence[str]) -> None:
    """Names of rows become folders of videos, too."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
            raise UsageError(
                f"a row cannot be called {name!r}", wanted="letters, digits and any of _.+-"
            )
    if taken := [name for name in names if name in ROWS or names.count(name) > 1]:
        raise UsageError(
            f"two rows are called {taken[0]!r}", fix="give one of them another name: NAME=..."
        )


def _ablation(name: str, studio: Studio, clip: Footage, other: Footage | None) -> Output:
    """Another avatar's dubbing with the clip's own sound."""
    return studio.dub(name, clip, clip.path, clip)


def _prediction(
    name: str, folder: Path, studio: Studio, clip: Footage, other: Footage | None
) -> Output:
    """What another program made of the clip with its own sound."""
    source = find_prediction(folder, clip.path.stem)
    found = conform(source, clip.located, studio.scratch / f"{name}.mkv")
    audio = source if found.has_audio else clip.path
    return Output(video=found.video, audio=audio, voice=clip, note=found.note)


def named_paths(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` or ``VALUE``, whose name is then its last part, as names and values.

    Raises:
        UsageError: two of one name.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            name, value = Path(text).resolve().name, text
        if name in named:
            raise UsageError(f"two rows are called {name!r}", fix="name them apart: NAME=...")
        named[name] = value
    return named
