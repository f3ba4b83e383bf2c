"""What training reads of a prepared dataset: clips as arrays, frames straight from disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from difftalker.data.prepare import load_manifest
from difftalker.errors import MediaError, UsageError
from difftalker.speech.windows import windows


class ClipData:
    """One clip of a prepared dataset."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        try:
            with np.load(folder / "track.npz", allow_pickle=False) as arrays:
                self.points_crop: NDArray[np.float32] = arrays["points_crop"]
                self.boxes: NDArray[np.int32] = arrays["boxes"]
                self.times_s: NDArray[np.float64] = arrays["times_s"]
                self.found: NDArray[np.bool_] = arrays["found"]
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise MediaError(
                f"the clip {folder} of the dataset cannot be read: {error}",
                fix="delete its folder and run `difftalker prepare` again",
            ) from error

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """(frames, size, size, 3) RGB, mapped from disk."""
        loaded: NDArray[np.uint8] = np.load(self._folder / "frames.npy", mmap_mode="r")
        return loaded

    def windows(self, features: str, size: int) -> NDArray[np.float32]:
        """(frames, size, dim): the features around each frame."""
        path = self._folder / f"{features}.npy"
        if not path.is_file():
            raise UsageError(
                f"the dataset holds no {features!r} features",
                fix=f"run `difftalker prepare` again with --features {features}",
            )
        return windows(np.load(path).astype(np.float32), self.times_s, size=size)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, split into clips to learn from and clips to watch the learning on."""

    size_px: int
    train: list[ClipData]
    validation: list[ClipData]


def load_dataset(folder: Path, *, validation_clips: int) -> Dataset:
    """Open a dataset; every so-manieth clip is held out, the same ones each time.

    Raises:
        MediaError: there is no dataset, or it is damaged.
    """
    manifest = load_manifest(folder)
    clips = [ClipData(folder / "clips" / clip.name) for clip in manifest.clips]
    held_out = set(_spread(len(clips), validation_clips))
    train = [clip for i, clip in enumerate(clips) if i not in held_out]
    # A single clip has to serve for both.
    watched = [clips[i] for i in sorted(held_out)] or clips[-1:]
    return Dataset(size_px=manifest.config.size_px, train=train, validation=watched)


def _spread(clips: int, wanted: int) -> list[int]:
    """At most ``wanted`` places, evenly spread, of which at least half of the clips are free."""
    count = min(wanted, clips // 2)
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
