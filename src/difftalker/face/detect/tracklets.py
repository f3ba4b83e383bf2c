"""Tracklets: detections joined over neighbouring frames.

A *tracklet* is one face tracked without doubt: where place, size or look allow two continuations,
it ends and another begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from difftalker.face.detect.looks import LOOK_SIZE, lower_face
from difftalker.face.detect.looks import look as look_of
from difftalker.face.landmarks import BROWS, EYES, JAW, NOSE, NOSE_BASE

LOOK_CHANGE = 0.5
"""Largest change of the look from one frame of a tracklet to the next,"""
LOOK_CHANGE_ALONE = 0.7
"""and the largest where the face is alone and hardly moves."""
LARGEST_STEP = 0.8
"""Largest distance of a detection from the predicted place, face widths."""
GAP_S = 0.4
"""Longest gap within a tracklet, seconds; beyond it looks alone decide whose face it is."""

_SAME_FACE = 0.4
_VEIL_STEP = 0.35
_DOUBT = 0.15
_LOOK_WEIGHT = 2.0
_EXEMPLARS = 8
_NEW_EXEMPLAR = 0.15
_LOOK_EVERY = 4
_UPPER = (*BROWS, *EYES, *NOSE)


class Detection:
    """A face in one frame."""

    def __init__(self, image: NDArray[np.uint8], points_px: NDArray[np.float32]) -> None:
        self._image, self.points_px = image, points_px
        self.centre = points_px[list(_UPPER)].mean(0)
        self.width = max(float(np.ptp(points_px[:, 0])), 1.0)

    @cached_property
    def look(self) -> NDArray[np.float32]:
        """(LOOK_SIZE,): see ``looks.look``."""
        return look_of(self._image, self.points_px)

    @cached_property
    def lower(self) -> NDArray[np.int8]:
        """(6, 6, 3): see ``looks.lower_face``."""
        return lower_face(self._image, self.points_px)

    def is_same_as(self, other: Detection) -> bool:
        """Whether both are one face that was found twice."""
        apart = float(np.linalg.norm(self.centre - other.centre))
        return apart < _SAME_FACE * min(self.width, other.width)

    def is_crossed_by(self, other: Detection) -> bool:
        """Whether the other's head reaches into this one's mask."""
        low, high = _mask_px(self.points_px)
        other_low, other_high = _head_px(other.points_px)
        return bool((low < other_high).all() and (other_low < high).all())


@dataclass(kw_only=True)
class Tracklet:
    """A face tracked without doubt."""

    frames: list[int] = field(default_factory=list)
    points_px: list[NDArray[np.float32]] = field(default_factory=list)
    lower: list[NDArray[np.int8]] = field(default_factory=list)
    crossed: list[bool] = field(default_factory=list)
    """Whether another head reached into the lower face."""
    veils: Tracklet | None = None
    """The tracklet that this one interrupts, with something before most of the face."""
    exemplars: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, LOOK_SIZE), np.float32)
    )
    """(n, LOOK_SIZE): looks that differ, a few."""
    speed: NDArray[np.float32] = field(default_factory=lambda: np.zeros(2, np.float32))
    """Pixels a frame."""
    centre: NDArray[np.float32] = field(default_factory=lambda: np.zeros(2, np.float32))
    width: float = 1.0
    """Last centre and width of the face, pixels."""

    def add(self, frame: int, seen: Detection, crossed: bool, *, look: bool) -> None:
        """Add the detection of a frame."""
        if self.frames:
            step = (seen.centre - self.centre) / (frame - self.frames[-1])
            self.speed = (self.speed + step) / 2
        self.frames.append(frame)
        self.points_px.append(seen.points_px)
        self.lower.append(seen.lower)
        self.crossed.append(crossed)
        self.centre, self.width = seen.centre, seen.width
        if look and not crossed:
            self._remember(seen.look)

    def distance(self, seen: Detection, frame: int) -> float:
        """Distance of a detection from the predicted place, face widths, plus log size ratio."""
        expected = self.centre + self.speed * (frame - self.frames[-1])
        moved = min(float(np.linalg.norm(seen.centre - at)) for at in (expected, self.centre))
        size = abs(float(np.log(seen.width / self.width)))
        return moved * 2 / (seen.width + self.width) + size

    def look_distance(self, look: NDArray[np.float32]) -> float:
        """Distance of a look from the nearest exemplar; 0 where there is none."""
        if not len(self.exemplars):
            return 0.0
        return float(np.linalg.norm(self.exemplars - look, axis=1).min())

    def ends_where(self, later: Tracklet) -> bool:
        """Whether ``later`` begins where this one ends, in the same size."""
        here, there = (
            np.concatenate([p.min(0), p.max(0)]) for p in (self.points_px[-1], later.points_px[0])
        )
        width = here[2] - here[0]
        return bool(np.abs(here - there).max() < _VEIL_STEP * width)

    def _remember(self, look: NDArray[np.float32]) -> None:
        if len(self.exemplars) and self.look_distance(look) < _NEW_EXEMPLAR:
            return
        self.exemplars = np.concatenate([self.exemplars, look[None]])
        if len(self.exemplars) > _EXEMPLARS:
            # One of the two that are most alike goes.
            apart = look_distances(self.exemplars, self.exemplars) + 9 * np.eye(len(self.exemplars))
            spare = int(apart.argmin()) % len(apart)
            self.exemplars = np.delete(self.exemplars, spare, axis=0)


class Tracker:
    """Joins the detections of each frame to tracklets."""

    def __init__(self) -> None:
        self.tracklets: list[Tracklet] = []
        self._open: list[Tracklet] = []
        self._times: list[float] = []

    def update(self, time_s: float, faces: Sequence[Detection], *, cut: bool) -> None:
        """Take the detections of the next frame; a cut ends all tracklets."""
        frame = len(self._times)
        self._times.append(time_s)
        if cut:
            self._open = []
        self._open = [s for s in self._open if time_s - self._times[s.frames[-1]] <= GAP_S]
        pairs = self._matched(frame, faces)
        kept = [j for j in range(len(faces)) if self._is_new(j, faces, [j for _, j in pairs])]
        look = frame % _LOOK_EVERY == 0 or len(kept) > 1
        continued = {j: self._open[i] for i, j in pairs}
        for j in kept:
            others = [faces[k] for k in kept if k != j]
            crossed = any(faces[j].is_crossed_by(other) for other in others)
            tracklet = continued.get(j)
            if tracklet is None:
                tracklet = Tracklet()
                self._open.append(tracklet)
                self.tracklets.append(tracklet)
            tracklet.add(frame, faces[j], crossed, look=look or not len(tracklet.exemplars))

    def _matched(self, frame: int, faces: Sequence[Detection]) -> list[tuple[int, int]]:
        """Pair open tracklets with faces, (tracklet, face); close the doubtful tracklets."""
        from scipy.optimize import linear_sum_assignment

        if not self._open or not faces:
            return []
        cost = self._costs(frame, faces)
        rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
        pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]
        pairs = [(i, j) for i, j in pairs if np.isfinite(cost[i, j])]
        doubtful = {i for i, j in pairs if _in_doubt(cost, i, j)}
        sure = [(i, j) for i, j in pairs if i not in doubtful]
        left = [i for i in range(len(self._open)) if i not in doubtful]
        self._open = [self._open[i] for i in left]
        return [(left.index(i), j) for i, j in sure]

    def _costs(self, frame: int, faces: Sequence[Detection]) -> NDArray[np.float64]:
        """(open tracklets, faces): place, size and look against each other; infinite if unlike."""
        place = np.array([[s.distance(seen, frame) for seen in faces] for s in self._open])
        alone = place.shape == (1, 1) and place[0, 0] < 0.25
        if alone and frame % _LOOK_EVERY and self._open[0].frames[-1] == frame - 1:
            return place
        unlike = np.array([[s.look_distance(seen.look) for seen in faces] for s in self._open])
        far = (place > LARGEST_STEP) | (unlike > (LOOK_CHANGE_ALONE if alone else LOOK_CHANGE))
        return np.where(far, np.inf, place + _LOOK_WEIGHT * unlike)

    @staticmethod
    def _is_new(j: int, faces: Sequence[Detection], matched: Sequence[int]) -> bool:
        """Whether a face counts: it continues a tracklet, or is no duplicate of another one."""
        if j in matched:
            return True
        others = [k for k in range(len(faces)) if k in matched or k < j]
        return not any(faces[j].is_same_as(faces[k]) for k in others)


def _in_doubt(cost: NDArray[np.float64], i: int, j: int) -> bool:
    """Whether the pair is ambiguous: one of them has another match nearly as good."""
    others_i, others_j = np.delete(cost[i], j), np.delete(cost[:, j], i)
    second = max(others_i.min(initial=np.inf), others_j.min(initial=np.inf))
    return bool(second - cost[i, j] < _DOUBT)


def look_distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m): distances between looks (n, k) and (m, k)."""
    square = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0)), np.float32)


def _mask_px(points_px: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two corners of about what ``crop.mask_boxes`` covers of a face."""
    brow, nose = points_px[list(BROWS), 1].mean(), points_px[NOSE_BASE, 1]
    low = np.array([points_px[list(JAW), 0].min(), nose], np.float32)
    high = np.array([points_px[list(JAW), 0].max(), nose + 1.38 * (nose - brow)], np.float32)
    return low, high


def _head_px(points_px: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two corners of a head: the face, and hair around it."""
    low, high = points_px.min(0), points_px.max(0)
    hair = 0.15 * (high - low)
    return low - hair * (1, 2), high + hair * (1, 0)
