"""Do other voices drive an avatar? Its lips against those of who speaks, and what is read off them.

    python scripts/measure_voices.py grid-s1 GRID/s1/bras6n.mpg GRID/s1/lwbs1s.mpg \
        --voices GRID/other_speakers --altered 2 --read

Each voice is a video of somebody who speaks. Its sound moves the landmarks of the avatar's footage,
and the opening of their lips is correlated with that of the speaker's own. ``--altered N`` also
lets the avatar's person say the same words in N synthetic voices (``difftalker.data.voices``): the
sound of each piece of footage, so altered, drives the other pieces, and the opening is correlated
with that under the person's own voice. ``--read`` also renders them: the lip reader's word error,
where the name of a file spells a sentence of GRID. Prints a line a voice, mean and extremes over
the footage, and the mean over voices.
"""

from __future__ import annotations

import argparse
import tempfile
import wave
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from difftalker.data.footage import find_footage
from difftalker.data.voices import by_others
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage, locate
from difftalker.evaluation.footage import Footage, Output
from difftalker.evaluation.judges.lipreading import LipJudge, word_error
from difftalker.face.detect.track import track
from difftalker.marks.marking import UNMARKED
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.media.video import read_frames
from difftalker.metrics import mouth_opening_correlation
from difftalker.speech.grid import sentence_of_name

Figures = tuple[float, float]
"""Correlation of the opening, and word error, not a number where nothing is read."""


def figures(
    avatar: Avatar,
    face: TrackedFootage,
    audio: Path,
    speaker: TrackedFootage,
    said: Sequence[str] | None,
    judge: LipJudge | None,
) -> Figures:
    """Figures of a face dubbed with ``audio``, against the opening and words of ``speaker``."""
    points = avatar.complete(face, audio)
    opening = mouth_opening_correlation(
        face.points_px(points),
        face.track.times_s,
        speaker.track.points_px,
        speaker.track.times_s,
    )
    if judge is None or said is None:
        return opening, np.nan
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.mp4"
        avatar.dub(face.video, audio, located=face, landmarks=points).save(made, marks=UNMARKED)
        clip = Footage(path=face.video, size_px=256, located=face, locate_seconds=0.0)
        output = Output(video=made, audio=audio, voice=None)
        found = judge.words(clip, output, track(read_frames(made), source=made))
    return opening, word_error(found, said)


def altered(video: Path, number: int, path: Path) -> Path:
    """The sound of a video in another voice, as a file."""
    rng = np.random.default_rng([number, *video.stem.encode()])
    sound = np.concatenate(list(by_others(stream_audio(video), SAMPLE_RATE_HZ, rng)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def as_own_voice(avatar: Avatar, face: TrackedFootage, video: Path) -> TrackedFootage:
    """A face as it is with the sound of a video in the person's own voice: landmarks alone."""
    points_px = face.points_px(avatar.complete(face, video))
    return replace(face, track=replace(face.track, points_px=points_px))


def show(name: str, found: Iterable[Figures]) -> Figures:
    """Print a line; returns the means."""
    opening, errors = np.array(list(found)).T
    read = f", {np.nanmean(errors):.3f} of the words misread" if np.isfinite(errors).any() else ""
    span = f"({opening.min():.3f} to {opening.max():.3f})"
    print(f"{name}: {opening.mean():.3f} {span}{read}", flush=True)
    return float(opening.mean()), float(np.nanmean(errors)) if read else np.nan


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("footage", type=Path, nargs="+", help="of the avatar's person")
    parser.add_argument("--voices", type=Path, nargs="*", default=[], help="videos, or folders")
    parser.add_argument("--altered", type=int, default=0, metavar="N", help="synthetic voices")
    parser.add_argument("--read", action="store_true", help="render, and read lips")
    options = parser.parse_args()
    avatar, judge = load(options.avatar), LipJudge() if options.read else None
    size_px, mask = avatar.config.size_px, avatar.config.mask
    faces = [locate(video, size_px, mask=mask) for video in options.footage]
    means = []
    for voice in find_footage(options.voices, ()) if options.voices else []:
        speaker, said = locate(voice, size_px), sentence_of_name(voice.stem)
        rows = [figures(avatar, face, voice, speaker, said, judge) for face in faces]
        means.append(show(voice.stem, rows))
    if means:
        show(f"mean of {len(means)} voices", means)
    same = []
    for number in range(options.altered):
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for spoken in faces:
                audio = altered(spoken.video, number, Path(folder) / f"{spoken.video.stem}.wav")
                said = sentence_of_name(spoken.video.stem)
                for face in faces:
                    if face is not spoken or len(faces) == 1:
                        own = as_own_voice(avatar, face, spoken.video)
                        rows.append(figures(avatar, face, audio, own, said, judge))
            same.append(show(f"the same words, voice {number}", rows))
    if same:
        show(f"mean of {len(same)} synthetic voices", same)


if __name__ == "__main__":
    main()
