"""Edits of completed landmarks: the lower face opened, dropped, smoothed or moved in time.

Every edit is a function of points (frames, 68, 2) in crop units, and changes the lower face alone:
lips and lower contour. Within its span it fades in and out; outside of it no number changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from difftalker.core.arrays import smoothstep
from difftalker.errors import UsageError
from difftalker.face.crop import frame_rate
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import BROWS, CHIN, CONTOUR, LOWER, NOSE_BASE, UPPER
from difftalker.face.lips import open_mouth

AMOUNTS = {
    "mouth": (0.0, 10.0, "a gain"),
    "jaw": (0.0, 10.0, "a gain"),
    "smooth": (0.0, 10.0, "seconds"),
    "shift": (-60.0, 60.0, "seconds"),
}
"""Kind of edit -> least amount, greatest amount, unit."""
SOFT_S = 0.12
"""Length of an edit's fades within its span, seconds."""
REST_PERCENT = 10
"""Percentile of the jaw's drop over the track that counts as a closed jaw."""

Points = NDArray[np.float32]
"""(frames, 68, 2), crop units."""
Cuts = NDArray[np.int64]
"""The frames that begin a new shot, rising."""
NO_CUTS: Cuts = np.zeros(0, np.int64)

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_WRITTEN = re.compile(
    rf"(?P<kind>[a-z]+)=(?P<amount>[+-]?{_NUMBER})"
    rf"(?:@(?P<start>{_NUMBER})?-(?P<stop>{_NUMBER})?)?"
)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change of the lower face within [start_s, stop_s).

    Raises:
        UsageError: there is no such edit, or its amount or span makes no sense.
    """

    kind: str
    """``mouth``, ``jaw``, ``smooth`` or ``shift``."""
    amount: float
    """A gain for ``mouth`` and ``jaw``, 1 for no change; seconds for ``smooth`` (the Gaussian's
    standard deviation) and ``shift`` (positive: later)."""
    start_s: float = -math.inf
    """Seconds since the first frame; by default the edit has no start and no fade in."""
    stop_s: float = math.inf
    """Seconds since the first frame; by default the edit has no end and no fade out."""
    soft_s: float = SOFT_S
    """Length of the two fades, which lie within the span."""

    def __post_init__(self) -> None:
        if self.kind not in AMOUNTS:
            raise UsageError(f"no edit is called {self.kind!r}", wanted=" or ".join(AMOUNTS))
        least, greatest, unit = AMOUNTS[self.kind]
        if not least <= self.amount <= greatest:
            raise UsageError(
                f"the edit {self.kind}={self.amount:g}",
                wanted=f"{unit} between {least:g} and {greatest:g}",
            )
        if not self.start_s < self.stop_s:
            raise UsageError(
                f"an edit from {self.start_s:g} s to {self.stop_s:g} s", wanted="a start before it"
            )
        if not 0 <= self.soft_s < math.inf:
            raise UsageError(f"fades of {self.soft_s:g} s", wanted="zero seconds or more")

    @classmethod
    def parse(cls, text: str) -> Edit:
        """``mouth=1.3@1.0-2.5``; without ``@START-STOP``, or one of its ends, open on that side.

        Raises:
            UsageError: the text is no edit.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"the edit {text!r}",
                wanted="KIND=AMOUNT@START-STOP in seconds, such as mouth=1.3@1.0-2.5",
            )
        return cls(
            kind=found["kind"],
            amount=float(found["amount"]),
            start_s=float(found["start"]) if found["start"] else -math.inf,
            stop_s=float(found["stop"]) if found["stop"] else math.inf,
        )

    def weights(self, times_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """(frames,): 0 outside the span, rising smoothly to 1 within it."""
        inside = ((times_s >= self.start_s) & (times_s < self.stop_s)).astype(np.float64)
        if self.soft_s:
            to_edge = np.minimum(times_s - self.start_s, self.stop_s - times_s)
            inside *= np.clip(to_edge / self.soft_s, 0, 1)
        return smoothstep(inside).astype(np.float32)

    def apply(
        self,
        points: Points,
        times_s: NDArray[np.float64],
        found: NDArray[np.bool_],
        cuts: Cuts = NO_CUTS,
    ) -> Points:
        """Apply the edit to points (frames, 68, 2); ``found`` (frames,) marks detected faces."""
        changed = self._everywhere(points, times_s, found, cuts)
        weight = self.weights(times_s)[:, None, None]
        # Where the weight is zero this adds a zero: those points stay as they are, bit for bit.
        return (points + weight * (changed - points)).astype(np.float32)

    def _everywhere(
        self, points: Points, times_s: NDArray[np.float64], found: NDArray[np.bool_], cuts: Cuts
    ) -> Points:
        if self.kind == "mouth":
            return open_mouth(points, self.amount)
        if self.kind == "jaw":
            return drop_jaw(points, self.amount)
        if self.kind == "smooth":
            return smooth_motion(points, times_s, found, self.amount, cuts)
        return shift_time(points, times_s, self.amount, cuts)


def apply_edits(
    points: Points,
    times_s: NDArray[np.float64],
    found: NDArray[np.bool_],
    edits: Iterable[Edit],
    cuts: Cuts = NO_CUTS,
) -> Points:
    """Apply one edit after the other to points (frames, 68, 2), crop units."""
    for edit in edits:
        points = edit.apply(points, times_s, found, cuts)
    return points


def drop_jaw(points: Points, gain: float) -> Points:
    """Drop the lower contour of points (frames, 68, 2) ``gain`` times as far as it is.

    The drop is the chin's distance from the base of the nose along the face's own downward
    direction, less that of the closed jaw: the 10th percentile over the track, in units of the
    face's size. The chin moves most and the ends of the contour least. A closed jaw stays.
    """
    brows_to_nose = points[:, NOSE_BASE] - points[:, BROWS].mean(1)
    size = np.maximum(np.linalg.norm(brows_to_nose, axis=-1), 1e-6)
    down = brows_to_nose / size[:, None]
    drop = ((points[:, CHIN] - points[:, NOSE_BASE]) * down).sum(-1)
    # A value of the track itself, not one between two: a second edit finds the same one.
    rest = np.percentile(drop / size, REST_PERCENT, method="lower")
    lowered = (gain - 1) * np.maximum(0, drop - rest * size)
    share = np.sin(np.pi * np.arange(1, len(CONTOUR) + 1) / (len(CONTOUR) + 1))
    out = points.copy()
    out[:, CONTOUR] += lowered[:, None, None] * share[:, None] * down[:, None]
    return out


def smooth_motion(
    points: Points,
    times_s: NDArray[np.float64],
    found: NDArray[np.bool_],
    sigma_s: float,
    cuts: Cuts = NO_CUTS,
) -> Points:
    """Smooth the lower face's motion against the head with a Gaussian, without lag.

    Each run of neighbouring frames with a face is smoothed by itself, and so is each shot.
    """
    head = head_of(points)
    motion = points[:, LOWER] - head
    motion[~found] = np.nan
    track = FaceTrack(times_s=times_s, points_px=motion, cuts=cuts)
    smoothed = track.smoothed(sigma_s * frame_rate(times_s)).points_px + head
    out = points.copy()
    out[:, LOWER] = np.where(found[:, None, None], smoothed, points[:, LOWER])
    return out


def shift_time(
    points: Points, times_s: NDArray[np.float64], delay_s: float, cuts: Cuts = NO_CUTS
) -> Points:
    """Delay the lower face's motion against the head by ``delay_s``; ends of shots are repeated."""
    head = head_of(points)
    motion = (points[:, LOWER] - head).reshape(len(points), -1)
    moved = np.empty_like(motion)
    for start, stop in pairwise(sorted({0, *cuts.tolist(), len(points)})):
        shot = slice(start, stop)
        wanted = times_s[shot] - delay_s
        for column, values in enumerate(motion[shot].T):
            moved[shot, column] = np.interp(wanted, times_s[shot], values)
    out = points.copy()
    out[:, LOWER] = moved.reshape(len(points), len(LOWER), 2) + head
    return out


def head_of(points: Points) -> Points:
    """(frames, 1, 2): where the head is, by the mean of the upper points."""
    middle: Points = points[:, UPPER].mean(1, keepdims=True)
    return middle
