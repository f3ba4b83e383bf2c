"""What is measured: a clip whose face was found, and the video that a system made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.dub import DubResult
from difftalker.dubbing.footage import TrackedFootage
from difftalker.face.crop import cut
from difftalker.face.detect.people import Choice
from difftalker.media.video import read_frames

Image = NDArray[np.uint8]

Figures = dict[str, float]
"""Measure to value; not finite where there was nothing to measure."""

KEPT_BYTES = 256 * 2**20
"""Crops of one video up to this size are kept for all who look at them: a minute at 256 pixels."""


class Crops:
    """The crops of a video, (S, S, 3) RGB each, frame by frame; may be gone through again.

    They are cut once and kept; those of a long video are decoded anew each time.
    """

    def __init__(self, video: Path, located: TrackedFootage, size_px: int) -> None:
        self._video, self._located, self._size_px = video, located, size_px
        self._kept: list[Image] | None = None

    def __len__(self) -> int:
        return len(self._located)

    def __iter__(self) -> Iterator[Image]:
        if self._kept is None and len(self) * 3 * self._size_px**2 <= KEPT_BYTES:
            self._kept = list(self._cut())
        return self._cut() if self._kept is None else iter(self._kept)

    def _cut(self) -> Iterator[Image]:
        crop = self._located.framing.crop
        for i, frame in zip(range(len(self)), read_frames(self._video), strict=True):
            yield cut(frame.image, crop, i, self._size_px)


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip whose face was found."""

    path: Path
    size_px: int
    """Side of the crops in which pictures are compared, and of the mask boxes."""
    located: TrackedFootage
    locate_seconds: float
    face: Choice | None = None
    """Whose face it is, where there are several people; by default the largest."""
    _crops: dict[Path, Crops] = field(default_factory=dict, repr=False, compare=False)

    def crops(self, video: Path | None = None) -> Crops:
        """The crops of the footage, or of a video made from it, where the footage's face is.

        They are shared: measures and judges that look at the same video cut it once.
        """
        path = self.path if video is None else video
        return self._crops.setdefault(path, Crops(path, self.located, self.size_px))

    def forget(self, video: Path | None = None) -> None:
        """Let go of the crops of a video that has been measured, or of all."""
        if video is None:
            self._crops.clear()
        elif video != self.path:  # which the next row needs
            self._crops.pop(video, None)

    @property
    def found(self) -> NDArray[np.bool_]:
        """(frames,): whether a face was found."""
        return self.located.track.found


@dataclass(frozen=True, kw_only=True)
class Output:
    """The video of one row for one clip."""

    video: Path
    audio: Path
    """What is heard with it."""
    voice: Footage | None
    """The footage whose speech that is: it shows how the mouth should move."""
    dub: DubResult | None = None
    note: str = ""
    """What was done to the video before it was measured, if anything."""
