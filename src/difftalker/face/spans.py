"""Spans: which frames are driven, why others are not, and how the new mouth fades in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from difftalker.core.arrays import smoothstep
from difftalker.face.crop import frame_rate
from difftalker.face.detect.track import COVERED, OTHER, FaceTrack
from difftalker.face.landmarks import JAW, roll_deg

Reason = Literal["face", "no face", "turned away", "rolled", "covered", "other person"]

TURNED = 0.75
"""Turn (see ``turn``) from which half of the mouth is hidden; such a face is not driven."""
TURNED_BACK = 0.65
"""Turn below which a face that was turned away is driven again."""
ROLLED_DEG = 35.0
"""Roll (``landmarks.roll_deg``) from which on a face is not driven: avatars learn upright heads."""
FADE_S = 0.16
"""Length of the fade between a new mouth and frames that keep their own, seconds."""

_NOSE_TIP = 30
_EARS = (JAW[1], JAW[15])


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of frames that are treated alike, within one shot."""

    start_frame: int
    stop_frame: int
    """The first frame after the span."""
    start_s: float
    stop_s: float
    driven: bool
    """Whether its frames get a new mouth; others pass through bit for bit."""
    reason: Reason
    after_cut: bool
    """Whether it begins with a hard cut."""


def find_spans(track: FaceTrack) -> tuple[Span, ...]:
    """All frames of a track as spans, in order, without gaps."""
    reasons = _reasons(track)
    cut = np.zeros(len(track), bool)
    cut[track.cuts] = True
    new = np.flatnonzero(np.r_[True, reasons[1:] != reasons[:-1]] | cut)
    ends_s = np.r_[track.times_s, track.times_s[-1] + 1 / frame_rate(track.times_s)]
    return tuple(
        Span(
            start_frame=int(start),
            stop_frame=int(stop),
            start_s=float(ends_s[start]),
            stop_s=float(ends_s[stop]),
            driven=bool(reasons[start] == "face"),
            reason=reasons[start],
            after_cut=bool(cut[start]),
        )
        for start, stop in zip(new, [*new[1:], len(track)], strict=True)
    )


def strengths(spans: Sequence[Span], times_s: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weight of the new mouth in each frame, (frames,): 0 where not driven, 1 in the middle.

    It rises and falls over ``FADE_S`` where a driven span borders on frames without a new mouth in
    the same shot; at a cut and at both ends of the video there is nothing to hide.
    """
    weight = np.zeros(len(times_s), np.float32)
    steps = round(FADE_S * frame_rate(times_s)) + 1
    for before, span, after in zip((None, *spans), spans, (*spans[1:], None), strict=False):
        if not span.driven:
            continue
        length = span.stop_frame - span.start_frame
        ramp = np.ones(length)
        place = np.arange(1, length + 1)
        if before is not None and not before.driven and not span.after_cut:
            ramp = np.minimum(ramp, place / steps)
        if after is not None and not after.driven and not after.after_cut:
            ramp = np.minimum(ramp, place[::-1] / steps)
        weight[span.start_frame : span.stop_frame] = smoothstep(ramp)
    return weight


def turn(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure how far faces are turned to the side, (frames, 68, 2) -> (frames,), -1 to 1.

    The tip of the nose between the ends of the jaw, along the line that joins them: 0 in the
    middle, towards the camera; -1 and 1 above either end. Not a number without a face.
    """
    left, right = points_px[:, _EARS[0]], points_px[:, _EARS[1]]
    across = right - left
    along = ((points_px[:, _NOSE_TIP] - left) * across).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        place: NDArray[np.float32] = 2 * along / (across * across).sum(-1) - 1
    return place


def is_rolled(track: FaceTrack) -> NDArray[np.bool_]:
    """(frames,): whether the head is rolled by more than ``ROLLED_DEG``."""
    with np.errstate(invalid="ignore"):
        rolled: NDArray[np.bool_] = np.abs(roll_deg(track.points_px)) > ROLLED_DEG
    return rolled


def _reasons(track: FaceTrack) -> NDArray[np.object_]:
    """Why each frame is driven, or is not."""
    reasons = np.where(track.found, "face", "no face").astype(object)
    amount = np.abs(turn(track.points_px))
    new_shots, away = set(track.cuts.tolist()), False
    for i in np.flatnonzero(track.found):
        away = amount[i] > (TURNED_BACK if away and i not in new_shots else TURNED)
        if away:
            reasons[i] = "turned away"
    reasons[track.why == COVERED] = "covered"
    reasons[is_rolled(track)] = "rolled"
    reasons[track.why == OTHER] = "other person"
    return reasons
