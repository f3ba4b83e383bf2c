"""Footage with a known truth, built of clips of people: gaps, cuts, crossings, covers.

Used by ``measure_faces.py`` on recorded speakers, and by the tests on the packaged sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.detect.track import track
from difftalker.face.landmarks import BROWS, EYES, MOUTH, NOSE, NOSE_BASE
from difftalker.media.video import Frame, Image, VideoWriter, read_frames

Cover = Literal["hand", "microphone", "cloth"]
COVERS: tuple[Cover, ...] = ("hand", "microphone", "cloth")
FPS = 25
UPPER = (*BROWS, *EYES, *NOSE)

_CANVAS = (360, 640)
_AWAY = np.nan


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A person, alone in the picture."""

    images: list[Image]
    points_px: NDArray[np.float32]
    """(frames, 68, 2)"""

    @classmethod
    def read(cls, path: Path, *, frames: int = 75) -> Clip:
        """The first frames of a file."""
        images = [frame.image for frame, _ in zip(read_frames(path), range(frames), strict=False)]
        return cls.of(images)

    @classmethod
    def of(cls, images: list[Image]) -> Clip:
        """Pictures, with the points that are found in them."""
        return cls(images=images, points_px=track(_frames(images)).points_px)

    def __getitem__(self, frame: int) -> tuple[Image, NDArray[np.float32]]:
        """Frame by frame, forth and back for ever."""
        last = len(self.images) - 1
        place = frame % (2 * last) if last else 0
        place = min(place, 2 * last - place)
        return self.images[place], self.points_px[place]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Footage and what ought to be found in it."""

    name: str
    images: list[Image]
    centre_px: NDArray[np.float64]
    """(frames, 2): brows, eyes and nose of the person to be driven; nan where not to be driven."""
    loose: NDArray[np.bool_]
    """(frames,): whether a frame may as well be left alone, or driven."""
    reasons: NDArray[np.object_]
    """(frames,): the reason that the report has to give."""
    cuts: tuple[int, ...] | None = ()
    """Frames that begin a shot; None where it is a matter of taste."""
    face: str = "largest"
    people: int = 1

    def write(self, path: Path) -> Path:
        """As a video."""
        height, width = self.images[0].shape[:2]
        with VideoWriter(
            path, width=width, height=height, fps=FPS, time_base=Fraction(1, FPS), crf=12
        ) as writer:
            for number, image in enumerate(self.images):
                writer.write(image, number)
        return path


def _scene(
    name: str,
    images: Sequence[Image],
    centre_px: Sequence[NDArray[np.floating] | None],
    reasons: Sequence[str],
    *,
    loose: Sequence[int] = (),
    cuts: Sequence[int] | None = (),
    face: str = "largest",
    people: int = 1,
) -> Scene:
    """A scene out of lists, one entry a frame."""
    nowhere = np.full(2, _AWAY)
    return Scene(
        name=name,
        images=list(images),
        centre_px=np.array([nowhere if c is None else c for c in centre_px], np.float64),
        loose=np.isin(np.arange(len(images)), loose),
        reasons=np.array(reasons, object),
        cuts=None if cuts is None else tuple(cuts),
        face=face,
        people=people,
    )


def centre(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre of brows, eyes and nose, (..., 68, 2) -> (..., 2)."""
    return np.asarray(points_px[..., UPPER, :].mean(-2), np.float32)


def gaps(clip: Clip, frames: int = 150, away: int = 15) -> Scene:
    """30 % of the frames, in runs, show no face: the person is blurred beyond all features."""
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    for number in range(frames):
        image, points = clip[number]
        gone = number % (away * 10 // 3) >= away * 7 // 3
        images.append(_blurred(image) if gone else image)
        places.append(None if gone else centre(points))
    reasons = ["no face" if place is None else "face" for place in places]
    return _scene(
        "30 % without a face", images, places, reasons, loose=_borders(reasons, 1), cuts=None
    )


def shots(clips: Sequence[tuple[Clip, bool]], name: str, length: int = 30) -> Scene:
    """Hard cuts from clip to clip; with each one whether it shows the person to be driven."""
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    for number, (clip, own) in enumerate(clips):
        for frame in range(length):
            image, points = clip[5 + frame + 7 * number]
            size = (images or [image])[0].shape[1::-1]
            points = points * np.divide(size, image.shape[1::-1]).astype(np.float32)
            images.append(np.asarray(cv2.resize(image, size), np.uint8))
            places.append(centre(points) if own else None)
    reasons = ["other person" if place is None else "face" for place in places]
    cuts = range(length, len(images), length)
    others = len({id(clip) for clip, own in clips if not own})
    # After a cut MediaPipe may need a frame or two to let go of the face before it.
    loose = [cut + k for cut in cuts for k in range(3)]
    return _scene(name, images, places, reasons, loose=loose, cuts=list(cuts), people=1 + others)


def dissolve(first: Clip, second: Clip, length: int = 40, over: int = 12) -> Scene:
    """One shot of a person melts into another of the same person: no cut, and no break."""
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    for frame in range(2 * length):
        share = float(np.clip((frame - length + over / 2) / over, 0, 1))
        (a, points_a), (b, points_b) = first[frame], second[frame]
        images.append(cv2.addWeighted(a, 1 - share, b, share, 0).astype(np.uint8))
        places.append(centre(points_a if share < 0.5 else points_b))
    loose = range(length - over, length + over)
    return _scene("dissolve", images, places, ["face"] * len(images), loose=list(loose))


def crossing(
    own: Clip, other: Clip, *, frames: int = 100, apart_px: int = 0, own_in_front: bool = True
) -> Scene:
    """Two people walk through each other's place, ``apart_px`` above and below, or one hidden."""
    left, right, middle = 150.0, 490.0, _CANVAS[0] / 2
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    loose = []
    for frame in range(frames):
        share = frame / (frames - 1)
        own_at = np.array([left + (right - left) * share, middle + apart_px])
        other_at = np.array([right + (left - right) * share, middle - apart_px])
        layers = [(other, other_at), (own, own_at)]
        images.append(_composite(layers if own_in_front else layers[::-1], frame))
        gap = np.abs(own_at - other_at) / np.ptp(own[frame][1][:, 0])
        meet = bool((gap < 1.7).all())
        hidden = meet and not own_in_front and float(np.linalg.norm(gap)) < 0.6
        loose += [frame] if meet and not hidden else []
        places.append(None if hidden else own_at)
    how = "passing" if apart_px else ("in front" if own_in_front else "behind")
    reasons = ["face" if place is not None else "other person" for place in places]
    return _scene(f"crossing, {how}", images, places, reasons, loose=loose, face="1", people=2)


def together(left: Clip, right: Clip, frames: int = 50) -> Scene:
    """Two people side by side; the one on the right is to be driven."""
    at = [np.array([share * _CANVAS[1], _CANVAS[0] / 2]) for share in (0.27, 0.73)]
    images = [_composite([(left, at[0]), (right, at[1])], frame) for frame in range(frames)]
    reasons = ["face"] * frames
    return _scene("side by side", images, [at[1]] * frames, reasons, face="rightmost", people=2)


def away_and_back(own: Clip, other: Clip, frames: int = 160) -> Scene:
    """The person leaves, somebody else comes and goes, the person is back."""
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    reasons = []
    for frame in range(frames):
        share = frame / frames
        walk = float(np.interp(share, [0, 0.2, 0.3, 0.7, 0.8, 1], [0.5, 0.5, -0.3, -0.3, 0.5, 0.5]))
        come = float(
            np.interp(share, [0, 0.35, 0.45, 0.55, 0.65, 1], [1.3, 1.3, 0.6, 0.6, 1.3, 1.3])
        )
        at = [np.array([x * _CANVAS[1], _CANVAS[0] / 2]) for x in (walk, come)]
        images.append(_composite([(other, at[1]), (own, at[0])], frame))
        here, there = (0.1 < x < 0.9 for x in (walk, come))
        places.append(at[0] if here else None)
        reasons.append("face" if here else "other person" if there else "no face")
    loose = _borders(reasons, 12)
    return _scene("away and back", images, places, reasons, loose=loose, people=2)


def covered(clip: Clip, cover: Cover, frames: int = 100) -> Scene:
    """Something comes before the mouth, stays for a while, and goes."""
    images: list[Image] = []
    places: list[NDArray[np.floating] | None] = []
    loose = []
    for frame in range(frames):
        image, points = clip[frame]
        share = frame / frames
        inside = float(np.interp(share, [0, 0.3, 0.38, 0.62, 0.7, 1], [0, 0, 1, 1, 0, 0]))
        images.append(_with_cover(image, points, cover, inside))
        places.append(None if inside == 1 else centre(points))
        loose += [frame] if 0 < inside < 1 else []
    reasons = ["covered" if place is None else "face" for place in places]
    # Frames beside a cover are taken to be covered too.
    loose += _borders(reasons, 12)
    return _scene(f"covered by {cover}", images, places, reasons, loose=loose)


def _borders(reasons: Sequence[str], reach: int) -> list[int]:
    """Frames within reach of a change of reason."""
    changes = [k for k in range(1, len(reasons)) if reasons[k] != reasons[k - 1]]
    return [k + d for k in changes for d in range(-reach, reach) if 0 <= k + d < len(reasons)]


def _frames(images: Sequence[Image]) -> Iterator[Frame]:
    for number, image in enumerate(images):
        yield Frame(image, number, number / FPS)


def _blurred(image: Image) -> Image:
    small = cv2.resize(image, (6, 5), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8
    )


def _composite(layers: Sequence[tuple[Clip, NDArray[np.floating]]], frame: int) -> Image:
    """Heads and shoulders, cut out, at their places on a grey wall; the last one is in front."""
    height, width = _CANVAS
    wall = np.full((height, width, 3), 90.0) + np.linspace(-30, 30, width)[None, :, None]
    for clip, at in layers:
        image, points = clip[frame]
        shift = at - centre(points)
        to_wall = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
        size = (width, height)
        alpha = cv2.warpAffine(_head(image, points), to_wall, size)[..., None]
        wall += alpha * (cv2.warpAffine(image, to_wall, size) - wall)
    return np.asarray(np.clip(wall, 0, 255), np.uint8)


def _head(image: Image, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """A soft ellipse around head and neck, (H, W)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    (cx, cy), scale = centre(points), _scale(points)
    reach = np.hypot((x - cx) / (1.75 * scale), (y - cy - 0.3 * scale) / (2.4 * scale))
    return np.asarray(np.clip(1.25 - reach, 0, 0.25) * 4, np.float32)


def _scale(points: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(points[list(BROWS)].mean(0) - points[NOSE_BASE]))


def _with_cover(image: Image, points: NDArray[np.float32], cover: Cover, inside: float) -> Image:
    """The picture with a cover that has come up from below by a share."""
    if inside == 0:
        return image
    scale, (cx, cy) = _scale(points), points[list(MOUTH)].mean(0)
    cy += (1 - inside) * 3.2 * scale
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = (x - cx) / scale, (y - cy) / scale
    noise = np.random.default_rng(0).normal(0, 12, image.shape[:2])
    grain = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2))[..., None]
    alpha, texture = {"hand": _hand, "microphone": _microphone, "cloth": _cloth}[cover](
        x, y, _skin(image, points)
    )
    mixed = image + alpha[..., None] * (texture + grain - image)
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def _skin(image: Image, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The colour of the bridge of the nose."""
    x, y = points[NOSE[1]].astype(int)
    return np.asarray(np.median(image[y - 4 : y + 4, x - 3 : x + 3].reshape(-1, 3), axis=0))


def _hand(
    x: NDArray[np.float32], y: NDArray[np.float32], skin: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Four fingers of the person's own skin, one below the other."""
    alpha, shade = np.zeros_like(x), np.zeros_like(x)
    for finger in range(4):
        along = np.maximum(0, np.abs(x - 0.1 * finger) - 1.1)
        reach = np.hypot(along, y + 0.75 - 0.5 * finger) / 0.3
        alpha = np.maximum(alpha, np.clip((1 - reach) * 4, 0, 1))
        shade = np.where(reach < 1, np.sqrt(np.clip(1 - reach**2, 0, 1)), shade)
    return alpha, skin * (0.72 + 0.33 * shade[..., None])


def _microphone(
    x: NDArray[np.float32], y: NDArray[np.float32], skin: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A dark ball before the mouth, on a stem."""
    reach = np.hypot(x - 0.1, y - 0.2) / 0.75
    stem = np.clip((0.22 - np.abs(x - 0.1)) * 20, 0, 1) * (y > 0)
    alpha = np.maximum(np.clip((1 - reach) * 6, 0, 1), stem)
    return alpha, 35 + 25 * np.clip(1 - reach, 0, 1)[..., None] + 0 * skin


def _cloth(
    x: NDArray[np.float32], y: NDArray[np.float32], skin: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A chequered scarf from the nose down."""
    alpha = np.clip((y + 0.9) * 15, 0, 1) * np.clip((1.7 - np.abs(x)) * 15, 0, 1)
    texture = np.stack([90 + 20 * np.sin(8 * x), 110 + 20 * np.sin(6 * y), 150 + 0 * x], -1)
    return alpha, texture
