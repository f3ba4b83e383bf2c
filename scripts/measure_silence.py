"""How fast may lips open in silence? Dubbed clips that completion has not seen, at several speeds.

    python scripts/measure_silence.py grid-s1 DATASET GRID/s1 --slower 1 0.75

Landmarks of some clips of a prepared dataset are completed by a fit to all but a quarter of them,
as the avatar's own fit knows its clips too well to show when a mouth opens. Their lips are held in
silence (``difftalker.landmarks.silence_hold``), where lips open so many times slower than they do.
The footage is dubbed with them, with its own sound and with that of the next clip.

Prints, for both kinds: the correlation of the lips' opening with that of the speaker, of the
landmarks asked for and of those detected on the output, and the share of silent frames in which the
mouth moves, likewise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from difftalker.data.dataset import ClipData, load_dataset
from difftalker.data.footage import find_footage
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage, locate
from difftalker.face.detect.track import track
from difftalker.landmarks import silence_hold
from difftalker.landmarks.completion import CompletionNet
from difftalker.marks.marking import UNMARKED
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.media.video import read_frames
from difftalker.metrics import mouth_opening_correlation, silence_leak
from difftalker.speech.silence import silent_at
from difftalker.training.cross_fit import align_sound, complete, fitted

FOLDS = 4
COLUMNS = ("opening asked for", "rendered", "silence asked for", "rendered")


def held_out(
    avatar: Avatar, clips: Sequence[ClipData], delays_s: dict[str, float] | None
) -> CompletionNet:
    """A completion of the avatar's kind, fitted to all clips but every fourth, in all voices."""
    config = avatar.config.completion
    if delays_s is None:
        align_sound(config, clips)
    else:
        for clip in clips:
            clip.delay_s = delays_s[clip.name]
    known = [clip for i, clip in enumerate(clips) if i % FOLDS]
    windows = [clip.windows_of_all(config.features, config.window) for clip in known]
    return fitted(config, known, windows)


def figures(
    avatar: Avatar,
    net: CompletionNet,
    face: TrackedFootage,
    speaker: tuple[ClipData, TrackedFootage],
    folder: Path,
) -> tuple[float, ...]:
    """What ``COLUMNS`` says, of a face that is driven by the sound of a clip."""
    clip, said = speaker
    times_s, audio = face.track.times_s, said.video
    clip.delay_s = 0.0
    windows = clip.windows(net.config.features, net.config.window)
    spoken = windows[np.minimum(np.arange(len(times_s)), len(windows) - 1)]
    silent = silent_at(stream_audio(audio), times_s, rate_hz=SAMPLE_RATE_HZ)
    asked = complete(net, face.framing.points_crop, spoken)
    asked = silence_hold.hold_silence(asked, times_s, face.track.usable, silent, face.track.cuts)
    made = folder / "made.mp4"
    made.unlink(missing_ok=True)
    avatar.dub(face.video, audio, located=face, landmarks=asked).save(made, marks=UNMARKED)
    rendered = track(read_frames(made), source=made).points_px

    def alike(points: NDArray[np.float32]) -> float:
        reference = said.track.points_px, said.track.times_s
        return mouth_opening_correlation(points, times_s, *reference)

    def moves(points: NDArray[np.float32]) -> float:
        return silence_leak(points, times_s, silent)

    return alike(asked), alike(rendered), moves(asked), moves(rendered)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("avatar")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("footage", type=Path, help="the folder that the dataset was made of")
    parser.add_argument("--delays", type=Path, help="RUN/delays.json of a training; else found")
    parser.add_argument("--slower", type=float, nargs="+", default=[1.0], metavar="TIMES")
    parser.add_argument("--clips", type=int, default=13)
    options = parser.parse_args()
    avatar = load(options.avatar)
    clips = load_dataset(options.dataset, validation_clips=0).train
    net = held_out(
        avatar, clips, json.loads(options.delays.read_text()) if options.delays else None
    )
    unseen = clips[::FOLDS]
    unseen = unseen[:: max(1, len(unseen) // options.clips)][: options.clips]
    videos = {video.stem: video for video in find_footage([options.footage])}
    size_px, mask = avatar.config.size_px, avatar.config.mask
    faces = [(clip, locate(videos[clip.name], size_px, mask=mask)) for clip in unseen]
    print(f"{len(faces)} clips" + " " * 22 + "  ".join(COLUMNS))
    for times in options.slower:
        opened_s = [(opening, times * seconds) for opening, seconds in silence_hold.OPENED_S]
        with (
            mock.patch.object(silence_hold, "OPENED_S", opened_s),
            tempfile.TemporaryDirectory() as folder,
        ):
            for kind, later in (("own sound", 0), ("the next clip's", 1)):
                speakers = [*faces[later:], *faces[:later]]
                rows = [
                    figures(avatar, net, face, speaker, Path(folder))
                    for (_, face), speaker in zip(faces, speakers, strict=True)
                ]
                means = np.nanmean(rows, 0)
                cells = [f"{m:{len(n)}.{3}f}" for m, n in zip(means, COLUMNS, strict=True)]
                print(f"{times} times slower, {kind:16}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
