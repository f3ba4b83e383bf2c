"""Checks of footage before training: is it good enough to learn a speaker from?

No check refuses footage. Each finding is one line: what was found, what is wanted, what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.data.dataset import ClipData
from difftalker.data.likeness import look_in
from difftalker.face.landmarks import mouth_opening
from difftalker.speech.windows import windows

Floats = NDArray[np.float64]

WANTED_S = 120.0
SMALL = 0.5
"""Least width of the footage's crop, over that of the avatar's; below it detail is missing."""
SOFT = 3.0
"""Least detail of a face in focus, grey levels; GRID's faces have 6 to 8."""
OTHER_PERSON = 0.55
"""Largest distance between looks of one person."""
ENOUGH_FOR_SYNC_S = 20.0
LAG_FRAMES = 12
TOLERATED_FRAMES = 2
LEAST_GAIN = 0.05
"""Least gain in explained variance of the opening for an offset to be reported."""


def findings(clips: Sequence[ClipData], features: str) -> list[str]:
    """List what is wrong with the footage, one line each; empty where nothing is.

    ``features`` are those that the clips were prepared with.
    """
    checks = (_length(clips), _size(clips), _focus(clips), _people(clips), _sync(clips, features))
    return [line for lines in checks for line in lines]


def _length(clips: Sequence[ClipData]) -> Iterator[str]:
    seconds = _seconds(clips)
    if seconds < WANTED_S:
        yield (
            f"the footage shows the face for {seconds:.0f} seconds; wanted two minutes or more;"
            " add clips, or expect mouths that are less exact"
        )


def _seconds(clips: Sequence[ClipData]) -> float:
    return sum(float(c.found.sum() * np.median(np.diff(c.times_s))) for c in clips)


def _size(clips: Sequence[ClipData]) -> Iterator[str]:
    side, size = float(np.median([c.side_px for c in clips])), clips[0].frames.shape[1]
    if side < SMALL * size:
        yield (
            f"the face and its surroundings are {side:.0f} pixels wide; wanted {SMALL * size:.0f}"
            " or more; use footage of a higher resolution, or expect soft faces"
        )


def _focus(clips: Sequence[ClipData]) -> Iterator[str]:
    detail = float(np.median([_detail(c) for c in clips]))
    if detail < SOFT:
        yield (
            f"the faces have {detail:.1f} grey levels of detail; wanted {SOFT:.0f} or more; use"
            " footage in focus, less compressed, not enlarged"
        )


def _detail(clip: ClipData) -> float:
    """Standard deviation of the high-pass mouth region in one frame, grey levels."""
    frame = int(np.flatnonzero(clip.found)[clip.found.sum() // 2])
    top, bottom, left, right = clip.boxes[frame]
    grey = cv2.cvtColor(np.asarray(clip.frames[frame]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float((grey - cv2.GaussianBlur(grey, (0, 0), 3))[top:bottom, left:right].std())


def _people(clips: Sequence[ClipData]) -> Iterator[str]:
    looks = np.stack([_look(clip) for clip in clips])
    apart = np.linalg.norm(looks[:, None] - looks[None], axis=-1)
    most = looks[int(np.median(apart, axis=1).argmin())]
    others = np.flatnonzero(np.linalg.norm(looks - most, axis=1) > OTHER_PERSON)
    if len(others):
        names = ", ".join(clips[i].name for i in others[:3]) + (" ..." if len(others) > 3 else "")
        yield (
            f"{len(others)} of {len(clips)} clips ({names}) seem to show somebody else; wanted one"
            " speaker; leave them out, or choose with --face"
        )


def _look(clip: ClipData) -> NDArray[np.float32]:
    return look_in(clip, int(np.flatnonzero(clip.found)[clip.found.sum() // 2]))


def _sync(clips: Sequence[ClipData], features: str) -> Iterator[str]:
    """Find the offset at which speech explains the mouth best, by cross-validated regression."""
    if _seconds(clips) < ENOUGH_FOR_SYNC_S:
        return
    period = float(np.median(np.concatenate([np.diff(c.times_s) for c in clips])))
    offsets = np.arange(-LAG_FRAMES, LAG_FRAMES + 1)
    explained = np.array([_cross_validated(clips, features, k * period) for k in offsets])
    best = int(explained.argmax())
    beside = explained[abs(offsets) <= TOLERATED_FRAMES].max()
    if explained[best] < LEAST_GAIN:
        yield (
            "the sound does not predict when the mouth opens; wanted the voice of the person seen;"
            " look whether sound and picture belong together"
        )
    elif abs(offsets[best]) > TOLERATED_FRAMES and explained[best] > beside + LEAST_GAIN:
        late = "after" if offsets[best] > 0 else "before"
        yield (
            f"the sound comes {abs(offsets[best]) * period:.2f} seconds {late} the lips; wanted"
            f" {TOLERATED_FRAMES} frames or less; shift it before training"
        )


def _cross_validated(clips: Sequence[ClipData], features: str, later_s: float) -> float:
    """Share of the opening's variance that speech ``later_s`` later explains, cross-validated."""
    halves: list[list[tuple[Floats, Floats]]] = [[], []]
    for i, clip in enumerate(clips):
        speech, opening = _speech_and_opening(clip, features, later_s)
        middle = len(opening) // 2
        halves[i % 2].append((speech[:middle], opening[:middle]))
        halves[1 - i % 2].append((speech[middle:], opening[middle:]))
    first, second = ([np.concatenate(part) for part in zip(*h, strict=True)] for h in halves)
    return float(
        np.mean([_explained_variance(*first, *second), _explained_variance(*second, *first)])
    )


def _explained_variance(x: Floats, y: Floats, unseen: Floats, wanted: Floats) -> float:
    """Share of the variance of ``wanted`` that ridge regression of y (N,) on x (N, C) explains."""
    middle, mean = x.mean(0), y.mean()
    inside = (x - middle).T @ (x - middle)
    penalty = np.eye(len(inside)) * (0.1 * np.trace(inside) / len(inside) + 1e-9)
    weights = np.linalg.solve(inside + penalty, (x - middle).T @ (y - mean))
    left = wanted - mean - (unseen - middle) @ weights
    return 1 - float(left.var()) / max(float(wanted.var()), 1e-12)


def _speech_and_opening(clip: ClipData, features: str, later_s: float) -> tuple[Floats, Floats]:
    """Speech (n, C) and the mouth's opening (n,) less its mean, where there is a face."""
    speech = windows(clip.features(features), clip.times_s + later_s, size=1)[clip.found, 0]
    opening = mouth_opening(clip.points_crop[clip.found]).astype(np.float64)
    return speech.astype(np.float64), opening - opening.mean()
