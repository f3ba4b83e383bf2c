"""Which frame of the footage is shown when, where sound and picture differ in length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError, UsageError
from difftalker.media.container import MediaPath
from difftalker.media.gaps import Gaps
from difftalker.media.limits import check_duration, check_frames, current
from difftalker.media.video import Frame, Image, VideoInfo, read_backwards, read_frames

Fit = Literal["trim", "pad", "loop", "pingpong"]
"""What happens where sound and picture differ in length:

trim       the picture rules: longer sound is cut, shorter sound is followed by silence
pad        the longer one rules: the last frame is held until longer sound has ended
loop       the sound rules: the footage begins anew until the sound has ended, or is cut there
pingpong   the same, played forth and back
"""

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames of an output."""

    source: Integers
    """(frames,): which frame of the footage each one is."""
    ticks: Integers
    """(frames,): when it is shown, in time bases after the first; rising."""
    source_ticks: Integers
    """(footage frames,): the same of the footage itself."""
    time_base: Fraction
    """Seconds."""

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(frames,), seconds from the start of the output."""
        return np.asarray(self.ticks * float(self.time_base), np.float64)

    @property
    def is_footage(self) -> bool:
        """Whether it is the footage as it is."""
        same_length = len(self.source) == len(self.source_ticks)
        return same_length and bool((np.diff(self.source) == 1).all())

    def cuts(self, footage: Integers) -> Integers:
        """Where a new shot begins: at the cuts of the footage, and at every leap in it."""
        shot = np.searchsorted(footage, self.source, side="right")
        leap = np.abs(np.diff(self.source)) > 1
        return np.flatnonzero(leap | (np.diff(shot) != 0)) + 1


def fit(
    times_s: NDArray[np.float64],
    info: VideoInfo,
    mode: Fit,
    sound_s: float,
    gaps: Gaps | None = None,
) -> Timeline:
    """The frames to show for footage with frames at ``times_s`` and ``sound_s`` seconds of sound.

    Where the sound has ``gaps`` the frame before stays: no others are shown there but what the
    picture rules.

    Raises:
        UsageError: there is no such way to fit.
        MediaError: the output would have more frames than ``media.limits`` allows, or the times are
            not those of the footage.
    """
    if mode not in get_args(Fit):
        raise UsageError(f"--fit {mode}", wanted=" or ".join(get_args(Fit)))
    check_duration("the footage", float(times_s[-1]), current())
    ticks = np.rint(times_s / float(info.time_base)).astype(np.int64)
    if (np.diff(ticks) < 1).any():
        raise MediaError(
            f"frames are closer to each other than {info.path} can tell them apart",
            wanted="the times of that very footage",
            fix="make landmarks of it anew with `difftalker landmarks`",
        )
    last = max(1, round(1 / (info.fps * info.time_base)))
    lasts = np.r_[np.diff(ticks), last]
    source = np.arange(len(ticks))
    until = round(Fraction(sound_s) / info.time_base)
    if mode == "pad":
        held = max(0, -(-(until - int(lasts.sum())) // last))
        check_frames("the output", held + len(source), info.width * info.height, current())
        source = np.r_[source, np.full(held, source[-1])]
        lasts = np.r_[lasts, np.full(held, last)]
    elif mode != "trim":
        turned = source[-2:0:-1] if mode == "pingpong" else source[:0]
        cycle = np.r_[source, turned]
        frames = -(-until * len(cycle) // int(lasts[cycle].sum()))
        check_frames("the output", frames, info.width * info.height, current())
        source = _repeated(cycle, lasts, until)
        lasts = lasts[source]
    starts = np.cumsum(lasts) - lasts
    if gaps is not None and mode != "trim":
        shown = ~gaps.contain(starts * float(info.time_base))
        shown[: len(ticks) if mode == "pad" else 0] = True
        source, starts = source[shown], starts[shown]
    return Timeline(source=source, ticks=starts, source_ticks=ticks, time_base=info.time_base)


def _repeated(cycle: Integers, lasts: Integers, until: int) -> Integers:
    """A cycle of frames again and again, as far as frames begin before ``until``; one at least."""
    times = max(1, -(-until // int(lasts[cycle].sum())))
    source = np.tile(cycle, times)
    ends = np.cumsum(lasts[source])
    return source[: 1 + int(np.searchsorted(ends, until))]


def play(path: MediaPath, timeline: Timeline) -> Iterator[Frame]:
    """Stream the frames of footage as a timeline says; a few frames are held at a time.

    Raises MediaError as ``media.video.read_frames`` does.
    """
    shown = _images(path, timeline)
    first_pts: int | None = None
    for ticks, time_s, (image, pts) in zip(timeline.ticks, timeline.times_s, shown, strict=False):
        first_pts = pts if first_pts is None else first_pts
        yield Frame(image, first_pts + int(ticks), float(time_s))


def _images(path: MediaPath, timeline: Timeline) -> Iterator[tuple[Image, int]]:
    """Each picture in turn, with its time in the footage as stored."""
    first_pts, image = 0, None
    offsets: set[int] = set()
    for start, count, step in _runs(timeline.source):
        if step > 0:
            for n, frame in enumerate(islice(read_frames(path), start + count)):
                offsets.add(frame.offset)
                if n == 0:
                    first_pts = frame.pts
                if n >= start:
                    image = frame.image
                    yield image, frame.pts
        elif step < 0:
            places = timeline.source_ticks[start - count + 1 : start + 1] + first_pts
            offset = next(iter(offsets)) if len(offsets) == 1 else None
            for image in read_backwards(path, places.tolist(), offset):
                yield image, first_pts
        elif image is not None:
            for _ in range(count):
                yield image, first_pts


def _runs(source: Integers) -> Iterator[tuple[int, int, int]]:
    """The numbers as (start, count, step); a step of 0 repeats the number before the run."""
    at = 0
    while at < len(source):
        step = int(source[at + 1] - source[at]) if at + 1 < len(source) else 1
        if at and source[at] == source[at - 1]:
            step = 0
        elif step not in (-1, 1):
            step = 1
        ahead = np.flatnonzero(np.diff(source[at:]) != step)
        count = int(ahead[0]) + 1 if len(ahead) else len(source) - at
        yield int(source[at]), count, step
        at += count
