"""Prepared datasets for training: clips as arrays, frames mapped from disk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from difftalker.config import FEATURE_OPTIONS
from difftalker.data.prepare import MANIFEST, features_file, load_manifest
from difftalker.errors import MediaError, UsageError
from difftalker.face.crop import CropTrack, frame_rate, mask_boxes
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import UPPER
from difftalker.speech.windows import windows

HELD_S = 4.0
"""Longest span with one fixed crop in which head movement is measured, seconds: over more, a change
of seat would count as sway."""

FEW_CLIPS = 5
"""Fewest clips of which whole ones are held out, one in this many; below, the ends of all clips."""
SHORTEST_END_S, LONGEST_END_S = 1.0, 12.0
"""Length of held-out ends, seconds: a fifth of each clip, at least the first and at most a third of
the clip; all ends together take at most the second."""


class ClipData:
    """One clip of a prepared dataset."""

    def __init__(self, folder: Path, mask: str = "jaw") -> None:
        """``mask`` is the kind of its boxes (:func:`difftalker.face.crop.mask_boxes`)."""
        self.name = self.clip = folder.name
        """``clip`` is the name of the whole clip of which this may be a part."""
        self.person = ""
        """Whose face it shows, where a dataset has several."""
        self.delay_s = 0.0
        """Delay of the sound against the picture, seconds; ``windows`` are shifted by it."""
        self._folder, self._part = folder, slice(None)
        try:
            with np.load(folder / "track.npz", allow_pickle=False) as arrays:
                self.points_crop: NDArray[np.float32] = arrays["points_crop"]
                self.times_s: NDArray[np.float64] = arrays["times_s"]
                self.found: NDArray[np.bool_] = arrays["found"]
                # Datasets made before cuts were stored have none.
                cuts = arrays["cuts"] if "cuts" in arrays else np.zeros(0, np.int64)
                boxes: NDArray[np.int32] = arrays["boxes"]
                crop = CropTrack(centre_px=arrays["centre_px"], side_px=arrays["side_px"])
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise MediaError(
                f"the clip {folder} of the dataset cannot be read: {error}",
                fix="delete its folder and run `difftalker prepare` again",
            ) from error
        self._crop, self._cuts = crop, cuts
        self.side_px: float = float(np.median(crop.side_px))
        """Side of the crop in the footage, pixels."""
        self.boxes = boxes if mask == "jaw" else self._boxes(mask)

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """(frames, size, size, 3) RGB, mapped from disk."""
        loaded: NDArray[np.uint8] = np.load(self._folder / "frames.npy", mmap_mode="r")
        return loaded[self._part]

    def split(self, frame: int) -> tuple[ClipData, ClipData]:
        """Split before a frame; the second part is named after its start."""
        before, after = self._cropped(0, frame), self._cropped(frame, len(self))
        after.name = f"{self.name} from {self.times_s[frame]:.1f} s"
        return before, after

    def _cropped(self, start: int, stop: int) -> ClipData:
        """The frames from ``start`` to ``stop`` of a whole clip; times stay as they are."""
        part, span = copy(self), slice(start, stop)
        part.__dict__.pop("frames", None)
        part._part = span
        part.points_crop, part.times_s = self.points_crop[span], self.times_s[span]
        part.found, part.boxes = self.found[span], self.boxes[span]
        part._crop = CropTrack(
            centre_px=self._crop.centre_px[span], side_px=self._crop.side_px[span]
        )
        inside = (self._cuts > start) & (self._cuts < stop)
        part._cuts = self._cuts[inside] - start
        return part

    def end(self, longest_s: float) -> int:
        """The first frame of the held-out end, counted by frames with a face."""
        seen, rate = np.flatnonzero(self.found), frame_rate(self.times_s)
        least = max(len(seen) // FEW_CLIPS, round(SHORTEST_END_S * rate))
        held = max(1, min(least, len(seen) // 3, round(longest_s * rate)))
        return int(seen[-held])

    def _boxes(self, mask: str) -> NDArray[np.int32]:
        """Boxes of another mask than the stored one, shot by shot as in use."""
        missing = np.where(self.found[:, None, None], self.points_crop, np.nan)
        face = FaceTrack(
            times_s=self.times_s, points_px=missing.astype(np.float32), cuts=self._cuts
        )
        size_px = self.frames.shape[1]
        shots = face.shots()
        return np.concatenate(
            [mask_boxes(self.points_crop[s], self.times_s[s], size_px, mask) for s in shots]
        )

    def movement(self) -> list[tuple[NDArray[np.float32], float]]:
        """Spans of upper points (F, 37, 2), each with its frame rate, Hz.

        They are in units of a crop that is fixed for each span of at most ``HELD_S``: the stored
        crop follows the head and would hide its movement.
        """
        rate = frame_rate(self.times_s)
        points_px = self._crop.to_px(self.points_crop)[:, list(UPPER)]
        spans = []
        for span in self._runs(max(1, round(HELD_S * rate))):
            centre_px = self._crop.centre_px[span].mean(0, keepdims=True)
            held = CropTrack(
                centre_px=centre_px, side_px=self._crop.side_px[span].mean(keepdims=True)
            )
            spans.append((held.to_crop(points_px[span]), rate))
        return spans

    def _runs(self, longest: int) -> list[slice]:
        """Runs of frames with a face and without a cut, of at most ``longest`` frames."""
        frames = np.arange(len(self))
        breaks = np.isin(frames, self._cuts) | ~self.found
        breaks[1:] |= ~self.found[:-1]
        runs = np.split(frames, np.flatnonzero(breaks))
        seen = [run for run in runs if len(run) and self.found[run[0]]]
        pieces = [part for run in seen for part in np.array_split(run, -(-len(run) // longest))]
        return [slice(int(part[0]), int(part[-1]) + 1) for part in pieces]

    def voices(self, features: str) -> int:
        """Number of other voices for which speech features are stored."""
        numbers = itertools.count(1)
        missing = (n for n in numbers if not (self._folder / features_file(features, n)).is_file())
        return next(missing) - 1

    def features(self, features: str, voice: int = 0) -> NDArray[np.float32]:
        """(T, dim): speech features at 50 Hz; ``voice`` 0 is the clip's own.

        Raises:
            UsageError: the dataset holds no such features.
        """
        path = self._folder / features_file(features, voice)
        if not path.is_file():
            raise UsageError(
                f"the dataset holds no {features!r} features",
                fix=f"run `difftalker prepare` again with --features {_option(features)}",
            )
        loaded: NDArray[np.float32] = np.load(path).astype(np.float32)
        return loaded

    def windows(self, features: str, size: int, voice: int = 0) -> NDArray[np.float32]:
        """(frames, size, dim): the features around each frame, synchronous with its picture."""
        times_s = self.times_s + self.delay_s
        return windows(self.features(features, voice), times_s, size=size)

    def windows_of_all(self, features: str, size: int) -> list[NDArray[np.float32]]:
        """The windows (frames, size, dim) of all voices, the clip's own first."""
        return [self.windows(features, size, n) for n in range(self.voices(features) + 1)]


def _option(features: str) -> str:
    """The option of ``--features`` that computes these features."""
    if features.startswith("deepspeech-"):
        return "deepspeech"
    return {kind: option for option, kind in FEATURE_OPTIONS.items()}.get(features, features)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, split into clips for training and for validation."""

    size_px: int
    train: list[ClipData]
    validation: list[ClipData]


def load_dataset(
    folder: Path, *, validation_clips: int, mask: str = "jaw", whole_clips: bool = False
) -> Dataset:
    """Open a dataset; evenly spread clips are held out, the same ones each time.

    With fewer than ``FEW_CLIPS`` clips their ends are held out instead, and with
    ``validation_clips`` 0 nothing is. ``mask`` is the kind of the clips' boxes. ``whole_clips``
    keeps clips whole, for tasks on sentences: up to half of them are held out, and a single clip
    serves for both.

    Raises:
        MediaError: there is no dataset, or it is damaged.
    """
    manifest = load_manifest(folder)
    clips = [ClipData(folder / "clips" / clip.name, mask) for clip in manifest.clips]
    train, held_out = clips, clips[-1:]
    if validation_clips and len(clips) < FEW_CLIPS and not whole_clips:
        parts = [clip.split(clip.end(LONGEST_END_S / len(clips))) for clip in clips]
        train, held_out = ([pair[i] for pair in parts] for i in (0, 1))
    elif validation_clips:
        free = 2 if whole_clips else FEW_CLIPS
        places = set(_spread(len(clips), min(validation_clips, len(clips) // free)))
        train = [clip for i, clip in enumerate(clips) if i not in places]
        held_out = [clips[i] for i in sorted(places)] or held_out
    return Dataset(size_px=manifest.config.size_px, train=train, validation=held_out)


def is_dataset(folder: Path) -> bool:
    """Whether ``prepare`` made this folder; else datasets of several people may lie in it."""
    return (folder / MANIFEST).is_file() or not any(folder.glob(f"*/{MANIFEST}"))


def load_people(folder: Path, *, held_out: str = "", mask: str = "jaw") -> Dataset:
    """Open a folder with a dataset of each person, ``FOLDER/PERSON``.

    Of people with ``FEW_CLIPS`` or more, one clip in twenty, at least one, is held out, evenly
    spread, and all clips of ``held_out``; if that is none, one serves for both.

    Raises:
        MediaError: there is no dataset, one is damaged, or they have crops of different sizes.
        UsageError: nobody is called ``held_out``.
    """
    places = sorted(place.parent for place in folder.glob(f"*/{MANIFEST}"))
    if held_out and held_out not in (names := [place.name for place in places]):
        raise UsageError(f"nobody in {folder} is called {held_out!r}", wanted=" or ".join(names))
    sizes: set[int] = set()
    train: list[ClipData] = []
    validation: list[ClipData] = []
    for place in places:
        manifest = load_manifest(place)
        sizes.add(manifest.config.size_px)
        clips = [ClipData(place / "clips" / clip.name, mask) for clip in manifest.clips]
        for clip in clips:
            clip.person, clip.name = place.name, f"{place.name}/{clip.name}"
        count = max(1, len(clips) // 20) if len(clips) >= FEW_CLIPS else 0
        kept = {*range(len(clips))} if place.name == held_out else {*_spread(len(clips), count)}
        train += [clip for i, clip in enumerate(clips) if i not in kept]
        validation += [clips[i] for i in sorted(kept)]
    if len(sizes) != 1:
        raise MediaError(
            f"{folder} has {len(places)} datasets, of {len(sizes)} sizes",
            wanted="a folder with a dataset of each person, all of one size",
            fix=f"make them with `difftalker prepare VIDEO... --output {folder}/PERSON`",
        )
    return Dataset(size_px=sizes.pop(), train=train, validation=validation or train[-1:])


def _spread(clips: int, count: int) -> list[int]:
    """``count`` indices, evenly spread."""
    return [int((i + 0.5) * clips / count) for i in range(count)]


def frame_index(clips: Sequence[ClipData], stride: int = 1) -> NDArray[np.int64]:
    """All frames with a face, (n, 2): clip and frame."""
    rows = [(c, f) for c, clip in enumerate(clips) for f in np.flatnonzero(clip.found)[::stride]]
    return np.array(rows, np.int64).reshape(-1, 2)


def span_index(clips: Sequence[ClipData], span: int, stride: int = 5) -> NDArray[np.int64]:
    """Places (n, 2), clip and first frame, at which ``span`` frames in a row show a face."""
    rows = []
    for c, clip in enumerate(clips):
        if len(clip) < span:
            continue
        starts = np.flatnonzero(np.convolve(clip.found, np.ones(span), "valid") > span - 0.5)
        rows += [(c, int(f)) for f in starts[::stride]]
    return np.array(rows, np.int64).reshape(-1, 2)
