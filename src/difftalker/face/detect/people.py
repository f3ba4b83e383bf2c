"""People in a video: tracklets are joined to people, and one of them is chosen.

Tracklets that look alike and never overlap in time are one *person*. A tracklet that might belong
to two people belongs to nobody.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from difftalker.core.hashing import sha256_of
from difftalker.errors import FaceError, UsageError
from difftalker.face.detect.tracklets import Tracklet, look_distances

Place = Literal["avatar", "largest", "leftmost", "rightmost", "center"]

SAME_PERSON = 0.48
"""Largest distance between looks (see ``face.detect.looks``) of one person,"""
CLEAR_MARGIN = 0.06
"""if the next person's look is farther by at least this."""
SAME_AS_PHOTO = 0.6
"""Largest distance from a photo of the person, taken in another light and place."""
SAME_AS_AVATAR = 0.42
"""Largest distance from the looks of an avatar's training footage. Half-way, in doubt nearer to
strangers, between the person (0.18 at most on clips of ``grid-s1`` that it learned from) and other
speakers of the GRID corpus (0.46 at least)."""
SEEN_SHARE, SEEN_S = 0.05, 0.4
"""Shortest time for which a person is seen: share of the longest seen, and seconds."""

_MAX_PICTURE_PX = 100_000_000
_PICTURE_SIDE_PX = 1280
_VEIL_FRAMES = 5
_TOGETHER_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The person to drive."""

    place: Place = "avatar"
    """``avatar`` is the person of the avatar; where nobody's looks are known, the largest face."""
    number: int | None = None
    """People are counted from 1 as they come in, those who come together from left to right."""
    picture: Path | None = None

    @classmethod
    def parse(cls, face: str | int | Path) -> Choice:
        """``avatar``, ``largest``, ``leftmost``, ``rightmost``, ``center``, a number, or a path.

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


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What the person of an avatar looks like."""

    avatar: str
    """The avatar's name."""
    looks: NDArray[np.float32]
    """(n, LOOK_SIZE): looks from its training footage that differ."""

    def distance(self, person: Person) -> float:
        """Median distance of a person's looks from the nearest of these."""
        return float(np.median(look_distances(person.exemplars, self.looks).min(1)))


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
        apart = [float(look_distances(people[n].exemplars, tracklet.exemplars).min()) for n in free]
        nearest, second = np.sort([*apart, np.inf, np.inf])[:2]
        if nearest <= SAME_PERSON and second - nearest < CLEAR_MARGIN:
            continue
        if nearest <= SAME_PERSON:
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
            same = look_distances(one.exemplars, two.exemplars).min(initial=np.inf) <= SAME_PERSON
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
    likeness: Likeness | None = None,
) -> int:
    """Index of the chosen person; ``photo`` is the look of the face in the picture.

    With a ``likeness`` and no other choice it is the person that looks most like the avatar's, if
    anybody does.

    Raises:
        FaceError: there are fewer people, or nobody looks like the picture.
    """
    is_own = choice.place == "avatar" and choice.number is None and photo is None
    if is_own and likeness is not None:
        apart = [likeness.distance(person) for person in people]
        if min(apart) <= SAME_AS_AVATAR:
            return int(np.argmin(apart))
    return _chosen(people, choice, width_px, photo)


def _chosen(
    people: Sequence[Person],
    choice: Choice,
    width_px: int,
    photo: NDArray[np.float32] | None,
) -> int:
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
    return int(least["largest" if choice.place == "avatar" else choice.place].argmin())


def _most_alike(people: Sequence[Person], photo: NDArray[np.float32]) -> int:
    apart = np.array([float(look_distances(p.exemplars, photo[None]).min()) for p in people])
    order = apart.argsort()
    if apart[order[0]] > SAME_AS_PHOTO:
        raise FaceError(
            f"none of {_count(len(people))} in the footage looks like the face in the picture",
            wanted="the face of one of them, turned to the camera",
            fix="take a picture out of the footage itself, or choose by number",
        )
    if len(order) > 1 and apart[order[1]] - apart[order[0]] < CLEAR_MARGIN / 2:
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
