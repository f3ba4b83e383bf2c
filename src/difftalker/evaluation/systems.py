"""The systems under test: each makes the videos of a row of the report.

To add one: write what makes its video and register it; the report, its page and the command line's
choice of rows take it from ``SYSTEMS``. Other avatars and other programs become systems by
``ablation`` and ``program``.
"""

from __future__ import annotations

import re
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.engine import Rendering
from difftalker.errors import MediaError, UsageError
from difftalker.evaluation.footage import Footage, Output
from difftalker.evaluation.predictions import conform, find_prediction
from difftalker.marks.marking import UNMARKED
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.media.video import VideoWriter, read_frames


@dataclass(frozen=True, kw_only=True)
class Dubber:
    """An avatar, how it renders, and where the videos go."""

    avatar: Avatar
    videos: Path
    """Has a folder a row."""
    scratch: Path
    """Goes after the run."""
    rendering: Rendering
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
            seed=self.seed,
            **self.rendering.options(),
        )
        result = dub.save(self.place(row, clip), marks=UNMARKED)
        return Output(video=result.output, audio=audio, voice=voice, dub=result)


Make = Callable[[Dubber, Footage, Footage | None], Output]
"""Makes the video of one clip; the second clip lends its speech, if there is one."""


@dataclass(frozen=True, kw_only=True)
class System:
    """What makes the videos of one row."""

    note: str
    """What the report's page says of it."""
    make: Make


SYSTEMS: dict[str, System] = {}
"""The rows of every evaluation by name, in the order of the report."""


def register(name: str, note: str) -> Callable[[Make], Make]:
    """Make a function the system of a name."""

    def registered(make: Make) -> Make:
        SYSTEMS[name] = System(note=note, make=make)
        return make

    return registered


@register(
    "real",
    "the footage through the H.264 encoder of dubbed videos: the best that any figure can be, and"
    " what the codec alone costs",
)
def _real(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
    out, info = dubber.place("real", clip), clip.located.info
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


@register(
    "copied",
    "the footage as it is, under another clip's sound: what doing nothing scores. Its pictures are"
    " perfect and its mouth says something else",
)
def _copied(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
    voice = _needed(other)
    return Output(video=clip.path, audio=voice.path, voice=voice)


@register("own_audio", "dubbed with the clip's own sound: the task, where the truth is known")
def _own_audio(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
    return dubber.dub("own_audio", clip, clip.path, clip)


@register(
    "other_audio",
    "dubbed with the next clip's sound: against the footage its mouth has to get worse, or speech"
    " does not move it",
)
def _other_audio(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
    voice = _needed(other)
    return dubber.dub("other_audio", clip, voice.path, voice)


@register("silence", "dubbed with silence: whether the mouth rests")
def _silence(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
    silent = dubber.scratch / f"{clip.path.stem}.wav"
    seconds = float(clip.located.track.times_s[-1]) + 1
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * SAMPLE_RATE_HZ)))
    return dubber.dub("silence", clip, silent, None)


def _needed(other: Footage | None) -> Footage:
    if other is None:
        raise MediaError("there is no other clip to take speech from", wanted="two clips at least")
    return other


def ablation(name: str, theirs: Dubber) -> System:
    """Another avatar, with the clip's own sound."""

    def make(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
        return theirs.dub(name, clip, clip.path, clip)

    return System(note="another avatar, with the clip's own sound", make=make)


def program(name: str, folder: Path) -> System:
    """What another program made of the clips with their own sound, CLIP.mp4 in a folder.

    Raises:
        MediaError: there is no such folder.
    """
    if not folder.is_dir():
        raise MediaError(f"no such folder: {folder}", wanted="one with a video for each clip")

    def make(dubber: Dubber, clip: Footage, other: Footage | None) -> Output:
        source = find_prediction(folder, clip.path.stem)
        found = conform(source, clip.located, dubber.scratch / f"{name}.mkv")
        audio = source if found.has_audio else clip.path
        return Output(video=found.video, audio=audio, voice=clip, note=found.note)

    note = (
        f"videos of another program, from the folder {folder.resolve().name}, taken to be dubbed"
        " with the clip's own sound"
    )
    return System(note=note, make=make)


def chosen_systems(
    rows: Sequence[str] | None, ablations: Mapping[str, Dubber], predictions: Mapping[str, Path]
) -> dict[str, System]:
    """The system of each row, in the order of the report: ours, ablations, other programs.

    ``rows`` are names of ``SYSTEMS``, all of them by default.

    Raises:
        UsageError: an unknown row, or a name that cannot be one.
        MediaError: a folder of predictions is not there.
    """
    wanted = tuple(SYSTEMS) if rows is None else rows
    if unknown := [row for row in wanted if row not in SYSTEMS] or ([] if wanted else ["nothing"]):
        raise UsageError(f"no row is called {unknown[0]!r}", wanted=" or ".join(SYSTEMS))
    _check_names([*ablations, *predictions])
    return {
        **{row: system for row, system in SYSTEMS.items() if row in wanted},
        **{name: ablation(name, one) for name, one in ablations.items()},
        **{name: program(name, one) for name, one in predictions.items()},
    }


def _check_names(names: Sequence[str]) -> None:
    """Names of rows become folders of videos, too."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
            raise UsageError(
                f"a row cannot be called {name!r}", wanted="letters, digits and any of _.+-"
            )
    if taken := [name for name in names if name in SYSTEMS or names.count(name) > 1]:
        raise UsageError(
            f"two rows are called {taken[0]!r}", fix="give one of them another name: NAME=..."
        )


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
