"""Videos that other programs made of the same clips, brought to the footage's times and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.data.footage import VIDEO_SUFFIXES
from difftalker.dubbing.footage import TrackedFootage
from difftalker.errors import MediaError
from difftalker.media.video import VideoWriter, probe_video, read_frames

Image = NDArray[np.uint8]

MAY_LACK_S = 0.5
"""Time by which a prediction may end before its footage; its last picture then stands in."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A video with as many frames as the footage, of the same size."""

    video: Path
    note: str
    """What was done to it; empty where it fitted as it came."""
    has_audio: bool
    """Whether the program's own file has a sound track."""


def find_prediction(folder: Path, clip: str) -> Path:
    """The file of a clip in a program's folder, CLIP.mp4 or another video of that name.

    Raises:
        MediaError: there is none.
    """
    for suffix in (".mp4", *VIDEO_SUFFIXES):
        if (path := folder / f"{clip}{suffix}").is_file():
            return path
    raise MediaError(f"{folder.name} has no {clip}.mp4", wanted="one video a clip, by its name")


def conform(video: Path, footage: TrackedFootage, scratch: Path) -> Prediction:
    """A program's video as pictures at the footage's times, of the footage's size.

    Each frame of the footage is given the picture that is nearest in time since either's first
    frame. Where anything has to be done, the result is written without loss to ``scratch``, .mkv.

    Raises:
        MediaError: the video cannot be read, or ends more than half a second early.
    """
    info, size = probe_video(video), (footage.info.width, footage.info.height)
    times = np.array([frame.time_s for frame in read_frames(video)])
    wanted = footage.track.times_s
    lacking_s = _lacking_s(times, wanted)
    if lacking_s > MAY_LACK_S:
        raise MediaError(
            f"{video.name} ends {lacking_s:.2f} s before the footage",
            wanted=f"at most {MAY_LACK_S} s",
        )
    chosen = nearest_frames(times, wanted)
    notes = []
    if len(times) != len(wanted) or not np.array_equal(chosen, np.arange(len(wanted))):
        notes.append(f"{len(times)} frames matched by time to {len(wanted)}")
    if lacking_s > 0:
        held = int((chosen == len(times) - 1).sum()) - 1
        notes.append(f"ended {lacking_s:.2f} s early, its last picture held for {held} frames")
    if (info.width, info.height) != size:
        notes.append(f"resized from {info.width} x {info.height} to {size[0]} x {size[1]}")
    if notes:
        _write(video, footage, chosen, scratch)
    return Prediction(
        video=scratch if notes else video, note="; ".join(notes), has_audio=info.has_audio
    )


def nearest_frames(times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each wanted time (n,) the index of the frame nearest to it; both times rise.

    Of two that are equally near it is the earlier.
    """
    after = np.clip(np.searchsorted(times_s, wanted_s), 0, len(times_s) - 1)
    before = np.maximum(after - 1, 0)
    # A tenth of a millisecond: containers round times, and halves should not depend on that.
    later = times_s[after] - wanted_s < wanted_s - times_s[before] - 1e-4
    nearest: NDArray[np.intp] = np.where(later, after, before)
    return nearest


def _lacking_s(times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> float:
    """How long the footage goes on after the last picture of the video has had its time."""
    shown_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.04
    return max(0.0, float(wanted_s[-1] - times_s[-1]) - shown_s / 2 - 1e-3)


def _write(video: Path, footage: TrackedFootage, chosen: NDArray[np.intp], out: Path) -> None:
    info, place = footage.info, 0
    size = info.width, info.height
    with VideoWriter(
        out, width=size[0], height=size[1], fps=info.fps, time_base=info.time_base, lossless=True
    ) as writer:
        for i, frame in enumerate(read_frames(video)):
            while place < len(chosen) and chosen[place] == i:
                pts = round(float(footage.track.times_s[place]) / float(info.time_base))
                writer.write(_resized(frame.image, size), pts)
                place += 1


def _resized(image: Image, size: tuple[int, int]) -> Image:
    """A picture at (width, height); smaller ones by area, larger ones by cubic interpolation."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    method = cv2.INTER_AREA if width * height > size[0] * size[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
