"""People in a video: detections are joined to tracklets, tracklets to people, and one is chosen.

A *tracklet* is one face tracked without doubt: where place, size or look allow two continuations,
it ends and another begins. Tracklets that look alike and never overlap in time are one *person*. A
tracklet that might belong to two people belongs to nobody.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from difftalker.core.hashing import sha256_of
from difftalker.errors import FaceError, UsageError
from difftalker.face.detect.looks import LOOK_SIZE, lower_face
from difftalker.face.detect.looks import look as look_of
from difftalker.face.landmarks import BROWS, EYES, JAW, NOSE, NOSE_BASE

Place = Literal["largest", "leftmost", "rightmost", "center"]

ALIKE = 0.48
"""Largest distance between looks (see ``face.detect.looks``) of one person,"""
CLEARLY = 0.06
"""if the next person's look is farther by at least this."""
ALIKE_ON_A_PHOTO = 0.6
"""Largest distance from a photo of the person, taken in another light and place."""
FOLLOWED = 0.5
"""Largest change of the look from one frame of a tracklet to the next,"""
FOLLOWED_ALONE = 0.7
"""and the largest where the face is alone and hardly moves."""
STEP = 0.8
"""Largest distance of a detection from the predicted place, face widths."""
GAP_S = 0.4
"""Longest gap within a tracklet, seconds; beyond it looks alone decide whose face it is."""
SEEN_SHARE, SEEN_S = 0.05, 0.4
"""Shortest time for which a person is seen: share of the longest seen, and seconds."""

_MAX_PICTURE_PX = 100_000_000
_PICTURE_SIDE_PX = 1280
_SAME_FACE = 0.4
_VEIL_FRAMES = 5
_VEIL_STEP = 0.35
_DOUBT = 0.15
_LOOK_WEIGHT = 2.0
_EXEMPLARS = 8
_NEW_EXEMPLAR = 0.15
_LOOK_EVERY = 4
_TOGETHER_S = 0.5
_UPPER = (*BROWS, *EYES, *NOSE)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The person to drive."""

    place: Place = "largest"
    number: int | None = None
    """People are counted from 1 as they come in, those who come together from left to right."""
    picture: Path | None = None

    @classmethod
    def parse(cls, face: str | int | Path) -> Choice:
        """``largest``, ``leftmost``, ``rightmost``, ``center``, a number, or a picture's path.

        Raises:
            UsageError: it is none of these, or there is no such file.
        """
        text = str(face)
        if text in get_args(Place):
            return cls(place=text)  # type: ignore[arg-type]
        if text.isdecimal() and int(text) > 0:
            return cls(number=int(text))
        if Path(text).is_file():
            return cls(picture=Path(text))
        raise UsageError(
            f"--face {text}",
            wanted=f"{', '.join(get_args(Place))}, a number from 1 on, or a picture of the person",
        )

    @property
    def key(self) -> str:
        """A text that identifies the choice; a picture is identified by its content.

        Raises:
            FaceError: the picture cannot be read.
        """
        if self.picture is None:
            return self.place if self.number is None else str(self.number)
        try:
            return f"picture {sha256_of(self.picture)}"
        except OSError as error:
            raise FaceError(f"{self.picture} cannot be read: {error.strerror}") from error


class Detection:
    """One face in one frame."""

    def __init__(self, image: NDArray[np.uint8], points_px: NDArray[np.float32]) -> None:
        self._image, self.points_px = image, points_px
        self.centre = points_px[list(_UPPER)].mean(0)
        self.width = max(float(np.ptp(points_px[:, 0])), 1.0)

    @cached_property
    def look(self) -> NDArray[np.float32]:
        """See ``looks.look``."""
        return look_of(self._image, self.points_px)

    @cached_property
    def lower(self) -> NDArray[np.int8]:
        """See ``looks.lower_face``."""
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
    """One face tracked without doubt."""

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
    """Where the face was last, and how wide."""

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
        """How far a detection is from where this face was going, in face widths, size included."""
        expected = self.centre + self.speed * (frame - self.frames[-1])
        moved = min(float(np.linalg.norm(seen.centre - at)) for at in (expected, self.centre))
        size = abs(float(np.log(seen.width / self.width)))
        return moved * 2 / (seen.width + self.width) + size

    def unlike(self, look: NDArray[np.float32]) -> float:
        """Distance of a look from the nearest exemplar; 0 where there is none."""
        if not len(self.exemplars):
            return 0.0
        return float(np.linalg.norm(self.exemplars - look, axis=1).min())

    def ends_where(self, later: Tracklet) -> bool:
        """Whether the other one begins at its end's place and in its size."""
        here, there = (
            np.concatenate([p.min(0), p.max(0)]) for p in (self.points_px[-1], later.points_px[0])
        )
        width = here[2] - here[0]
        return bool(np.abs(here - there).max() < _VEIL_STEP * width)

    def _remember(self, look: NDArray[np.float32]) -> None:
        if len(self.exemplars) and self.unlike(look) < _NEW_EXEMPLAR:
            return
        self.exemplars = np.concatenate([self.exemplars, look[None]])
        if len(self.exemplars) > _EXEMPLARS:
            # One of the two that are most alike goes.
            apart = _apart(self.exemplars, self.exemplars) + 9 * np.eye(len(self.exemplars))
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
        followed = {j: self._open[i] for i, j in pairs}
        for j in kept:
            others = [faces[k] for k in kept if k != j]
            crossed = any(faces[j].is_crossed_by(other) for other in others)
            tracklet = followed.get(j)
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
        unlike = np.array([[s.unlike(seen.look) for seen in faces] for s in self._open])
        far = (place > STEP) | (unlike > (FOLLOWED_ALONE if alone else FOLLOWED))
        return np.where(far, np.inf, place + _LOOK_WEIGHT * unlike)

    @staticmethod
    def _is_new(j: int, faces: Sequence[Detection], matched: Sequence[int]) -> bool:
        """Whether a face counts: it is followed, or is no second find of another one."""
        if j in matched:
            return True
        others = [k for k in range(len(faces)) if k in matched or k < j]
        return not any(faces[j].is_same_as(faces[k]) for k in others)


def _in_doubt(cost: NDArray[np.float64], i: int, j: int) -> bool:
    """Whether the pair could as well be others: one of them has nearly as good a choice."""
    others_i, others_j = np.delete(cost[i], j), np.delete(cost[:, j], i)
    second = max(others_i.min(initial=np.inf), others_j.min(initial=np.inf))
    return bool(second - cost[i, j] < _DOUBT)


@dataclass(kw_only=True)
class Person:
    """Tracklets of one person."""

    tracklets: list[Tracklet]

    @cached_property
    def frames(self) -> NDArray[np.int64]:
        """(n,): where the person is seen, rising."""
        return np.sort(np.concatenate([np.array(s.frames, np.int64) for s in self.tracklets]))

    @cached_property
    def boxes_px(self) -> NDArray[np.float32]:
        """(n, 4): the face's left, top, right and bottom where it is seen."""
        points = np.stack([p for s in self.tracklets for p in s.points_px])
        return np.concatenate([points.min(1), points.max(1)], axis=1)

    @property
    def first_left_px(self) -> float:
        """The left edge of the face where it is first seen."""
        first = min(self.tracklets, key=lambda s: s.frames[0])
        return float(first.points_px[0][:, 0].min())

    @property
    def summary(self) -> tuple[float, ...]:
        """The person's row of ``FaceTrack.people``."""
        box = np.median(self.boxes_px, axis=0)
        return len(self.frames), int(self.frames[0]), *(float(edge) for edge in box)

    @property
    def exemplars(self) -> NDArray[np.float32]:
        """(m, LOOK_SIZE): looks that the person has had."""
        return np.concatenate([s.exemplars for s in self.tracklets])


def find_people(
    tracklets: Sequence[Tracklet],
    times_s: NDArray[np.float64],
    cuts: NDArray[np.int64],
) -> list[Person]:
    """Link tracklets to people, numbered as ``Choice.number`` says; veils are marked.

    The longest tracklets come first, as their looks are known best. A tracklet unlike every person
    who is not seen at the same time begins a new person. One about as near to two people is left
    out.
    """
    people: list[Person] = []
    seen: list[NDArray[np.bool_]] = []
    _mark_veils(tracklets, cuts)
    known = [s for s in tracklets if len(s.exemplars) and s.veils is None]
    for tracklet in sorted(known, key=lambda s: (-len(s.frames), s.frames[0])):
        free = [n for n in range(len(people)) if not seen[n][tracklet.frames].any()]
        apart = [float(_apart(people[n].exemplars, tracklet.exemplars).min()) for n in free]
        nearest, second = np.sort([*apart, np.inf, np.inf])[:2]
        if nearest <= ALIKE and second - nearest < CLEARLY:
            continue
        if nearest <= ALIKE:
            owner = free[apart.index(nearest)]
        else:
            owner = len(people)
            people.append(Person(tracklets=[]))
            seen.append(np.zeros(len(times_s), bool))
        people[owner].tracklets.append(tracklet)
        seen[owner][tracklet.frames] = True
    return _in_order(people, times_s)


def _mark_veils(tracklets: Sequence[Tracklet], cuts: NDArray[np.int64]) -> None:
    """Find faces that look like somebody else in the midst of a face that stays where it is."""
    ending, beginning = defaultdict(list), defaultdict(list)
    for tracklet in tracklets:
        ending[tracklet.frames[-1]].append(tracklet)
        beginning[tracklet.frames[0]].append(tracklet)
    for veil in tracklets:
        before = [s for k in range(_VEIL_FRAMES) for s in ending[veil.frames[0] - 1 - k]]
        after = [s for k in range(_VEIL_FRAMES) for s in beginning[veil.frames[-1] + 1 + k]]
        for one, two in itertools.product(before, after):
            cut = (cuts > one.frames[-1]) & (cuts <= two.frames[0])
            stays = one.ends_where(veil) and veil.ends_where(two)
            same = _apart(one.exemplars, two.exemplars).min(initial=np.inf) <= ALIKE
            if same and stays and one.veils is None and not cut.any():
                veil.veils = one


def _in_order(people: list[Person], times_s: NDArray[np.float64]) -> list[Person]:
    most = max((len(p.frames) for p in people), default=0)
    least = SEEN_S / float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0
    least = min(most, max(SEEN_SHARE * most, least))
    counted = [p for p in people if len(p.frames) >= least]
    counted.sort(key=lambda p: int(p.frames[0]))
    ordered: list[Person] = []
    while counted:
        until_s = times_s[counted[0].frames[0]] + _TOGETHER_S
        together = [p for p in counted if times_s[p.frames[0]] <= until_s]
        ordered += sorted(together, key=lambda p: p.first_left_px)
        counted = counted[len(together) :]
    return ordered


def choose(
    people: Sequence[Person],
    choice: Choice,
    width_px: int,
    photo: NDArray[np.float32] | None = None,
) -> int:
    """Index of the chosen person; ``photo`` is the look of the face in the picture.

    Raises:
        FaceError: there are fewer people, or nobody looks like the picture.
    """
    if choice.number is not None:
        if choice.number > len(people):
            raise FaceError(
                f"{_count(len(people))} in the footage, and --face {choice.number}",
                wanted=f"a number from 1 to {len(people)}",
                fix="people are counted as they come in, those who come together from the left",
            )
        return choice.number - 1
    if photo is not None:
        return _most_alike(people, photo)
    centre = np.array([float(np.median(p.boxes_px[:, ::2].mean(1))) for p in people])
    area = np.array(
        [float(np.prod(p.boxes_px[:, 2:] - p.boxes_px[:, :2], axis=1).sum()) for p in people]
    )
    least = {
        "largest": -area,
        "leftmost": centre,
        "rightmost": -centre,
        "center": np.abs(centre - width_px / 2),
    }
    return int(least[choice.place].argmin())


def _most_alike(people: Sequence[Person], photo: NDArray[np.float32]) -> int:
    apart = np.array([float(_apart(p.exemplars, photo[None]).min()) for p in people])
    order = apart.argsort()
    if apart[order[0]] > ALIKE_ON_A_PHOTO:
        raise FaceError(
            f"none of {_count(len(people))} in the footage looks like the face in the picture",
            wanted="the face of one of them, turned to the camera",
            fix="take a picture out of the footage itself, or choose by number",
        )
    if len(order) > 1 and apart[order[1]] - apart[order[0]] < CLEARLY / 2:
        raise FaceError(
            "two people in the footage look about as much like the face in the picture",
            fix="take a picture out of the footage itself, or choose by number",
        )
    return int(order[0])


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture's file as (H, W, 3) RGB, upright, shrunk where it is large.

    Raises:
        FaceError: it is no picture, or of more pixels than any camera gives.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF")) as opened:
            if opened.width * opened.height > _MAX_PICTURE_PX:
                raise FaceError(
                    f"the picture {path} has {opened.width} x {opened.height} pixels",
                    wanted=f"{_MAX_PICTURE_PX} in all at most",
                )
            opened.draft("RGB", (_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            upright.thumbnail((_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
            return np.asarray(upright, np.uint8).copy()
    except FaceError:
        raise
    # Pillow raises a dozen kinds of errors over damaged files.
    except Exception as error:
        raise FaceError(
            f"{path} cannot be read as a picture",
            wanted="a .jpg or .png file of the person",
        ) from error


def _count(people: int) -> str:
    return "1 person" if people == 1 else f"{people} people"


def _apart(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
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
