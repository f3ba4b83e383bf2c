"""Where a live face is shown: footage that is played forth and back, or the avatar's own head."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.config import DEFAULT_FPS
from difftalker.dubbing.engine import Engine
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.talk import head_weight
from difftalker.errors import AvatarError, FaceError, UsageError
from difftalker.face.compose.blend import Blender
from difftalker.face.compose.light import Light, LightMap, Skin
from difftalker.face.crop import CropTrack, cut, frame_rate
from difftalker.face.detect.people import Choice
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.edits import head_of
from difftalker.media.video import read_frames
from difftalker.synthesis.renderer import Floats, Image, LightRenderer, Scene

LOOP_S = 8.0
"""The longest part of footage that is played forth and back, seconds."""
SHORTEST_S = 1.0
"""The shortest."""
TALK_S = 20.0
"""Length of a movement of the head that is played forth and back without footage, seconds."""


class Stage(abc.ABC):
    """Where a live face is shown; made once, for any number of sessions."""

    fps: float
    size: tuple[int, int]
    """Width and height of its pictures, pixels."""
    footage: Path | None = None
    """What its pictures are made of; None where they are generated as a whole."""

    @abc.abstractmethod
    def upper(self, number: int) -> Floats:
        """Upper points (37, 2) of frame ``number``, crop units."""

    @abc.abstractmethod
    def new_show(self) -> Show:
        """What composes the pictures of one session."""


class Show(abc.ABC):
    """Composes the pictures of one session, in order."""

    @abc.abstractmethod
    def picture(self, number: int, points: Floats, window: Floats | None) -> Image:
        """Frame ``number`` with a face under points (68, 2) and the speech (W, C) around it."""


# Footage that is played forth and back


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """One frame of footage, ready for any mouth."""

    image: Image
    crop: Image
    matched: Image
    """The crop in the avatar's light."""
    light: LightMap
    scene: Scene


class FootageStage(Stage):
    """The best part of footage of the avatar's person, played forth and back without a jump."""

    def __init__(self, engine: Engine, footage: TrackedFootage, loop_s: float = LOOP_S) -> None:
        """Take the longest run of frames that show the person's face, ``loop_s`` at most.

        Raises:
            FaceError: there is no run of a second.
            AvatarError: the avatar has no light renderer.
        """
        run = longest_run(footage, loop_s)
        self.fps = round(frame_rate(footage.track.times_s), 3)
        self.size, self.footage = (footage.info.width, footage.info.height), footage.info.path
        self.renderer = light_renderer(engine)
        framing = footage.framing
        self._points = framing.points_crop[run]
        self._frames = [*_prepared(engine, self.renderer, footage, run)]
        forth = np.arange(len(self._frames))
        self._order = np.concatenate([forth, forth[-2:0:-1]])
        self.crop = CropTrack(
            centre_px=framing.crop.centre_px[run][self._order],
            side_px=framing.crop.side_px[run][self._order],
        )
        self.boxes = framing.boxes[run][self._order]
        self.points = self._points[self._order]

    def upper(self, number: int) -> Floats:
        """Upper points (37, 2); see :meth:`Stage.upper`."""
        upper: Floats = self.points[number % len(self._order), list(UPPER)]
        return upper

    def __len__(self) -> int:
        """How many frames of footage it plays, forth and then back."""
        return len(self._frames)

    def prepared(self, number: int) -> tuple[int, _Prepared]:
        """The place of frame ``number`` in the loop, and the footage there."""
        place = number % len(self._order)
        return place, self._frames[int(self._order[place])]

    def new_show(self) -> Show:
        """What composes the pictures of one session."""
        return _FootageShow(self)


class _FootageShow(Show):
    def __init__(self, stage: FootageStage) -> None:
        self._stage = stage
        self._blender = Blender(
            stage.crop,
            stage.boxes,
            stage.points,
            np.arange(len(stage.points)) / stage.fps,
            size_px=stage.renderer.size_px,
            seed=0,
        )

    def picture(self, number: int, points: Floats, window: Floats | None) -> Image:
        """See :meth:`Show.picture`."""
        place, at = self._stage.prepared(number)
        heard = None if window is None else window[None]
        made = self._stage.renderer.generate(at.scene, points[None], heard)[0]
        face = at.matched.copy()
        face[at.scene.rows, at.scene.columns] = made
        return self._blender.blend(place, at.image, at.crop, at.light.undo(face), 1.0)


def longest_run(footage: TrackedFootage, loop_s: float) -> slice:
    """The longest run of frames within a shot that show the face fully, ``loop_s`` at most.

    Raises:
        FaceError: none lasts a second.
    """
    fps = frame_rate(footage.track.times_s)
    whole = (footage.strength >= 1).astype(np.int8)
    whole[footage.track.cuts] = 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], whole, [0]]))).reshape(-1, 2)
    start, stop = max(edges.tolist(), key=lambda edge: edge[1] - edge[0], default=(0, 0))
    if stop - start < SHORTEST_S * fps:
        raise FaceError(
            f"{footage.video} shows the person's face for {(stop - start) / fps:.1f} s in a row",
            wanted=f"{SHORTEST_S:.0f} s or more, to be played forth and back",
            fix="choose other footage",
        )
    return slice(start, min(stop, start + round(loop_s * fps)))


def _prepared(
    engine: Engine, renderer: LightRenderer, footage: TrackedFootage, run: slice
) -> Iterator[_Prepared]:
    framing, size_px = footage.framing, renderer.size_px
    points = framing.points_crop
    light: Light | None = None
    for i, frame in enumerate(read_frames(footage.video)):
        if i >= run.stop:
            return
        if i < run.start:
            continue
        box = framing.boxes[i]
        if light is None:
            face = renderer.whole_face(engine.completer.neutral(points[i]))
            light = Light(Skin.of(face, points[i], int(box[0])))
        crop = cut(frame.image, framing.crop, i, size_px)
        skin = Skin.of(crop, points[i], int(box[0]))
        seen = light.update(skin, float(footage.track.times_s[i]), new_shot=i == run.start)
        matched = seen.apply(crop)
        scene = renderer.scene(matched[None], box[None], points[i][None])
        yield _Prepared(image=frame.image, crop=crop, matched=matched, light=seen, scene=scene)


# A whole face, before a still picture


class TalkStage(Stage):
    """The avatar's own head, that sways and blinks as in its footage."""

    def __init__(self, engine: Engine, fps: float = DEFAULT_FPS, seed: int = 0) -> None:
        """``fps`` is the rate of its frames, ``seed`` how it moves.

        Raises:
            AvatarError: the avatar has no light renderer.
        """
        self.fps, self.renderer = fps, light_renderer(engine)
        size = self.renderer.size_px
        self.size = size, size
        forth = engine.networks.motion.sample(round(TALK_S * fps), fps, seed)
        self._upper = np.concatenate([forth, forth[-2:0:-1]])
        neutral = np.zeros((68, 2), np.float32)
        neutral[list(UPPER)] = forth.mean(0)
        neutral = engine.completer.neutral(neutral)
        self.still = self.renderer.whole_face(neutral)
        faces = np.repeat(neutral[None], len(forth), 0)
        faces[:, list(UPPER)] = forth
        faces[:, list(LOWER)] += head_of(faces) - head_of(neutral[None])
        self.weight = head_weight(faces, size)[..., None]
        box = np.array([[0, size, 0, size]], np.int32)
        nothing = np.zeros((1, size, size, 3), np.uint8)
        self.scene = self.renderer.scene(nothing, box, neutral[None])

    def upper(self, number: int) -> Floats:
        """Upper points (37, 2); see :meth:`Stage.upper`."""
        upper: Floats = self._upper[number % len(self._upper)]
        return upper

    def new_show(self) -> Show:
        """What composes the pictures of one session."""
        return _TalkShow(self)


class _TalkShow(Show):
    def __init__(self, stage: TalkStage) -> None:
        self._stage = stage

    def picture(self, number: int, points: Floats, window: Floats | None) -> Image:
        """See :meth:`Show.picture`."""
        stage, heard = self._stage, None if window is None else window[None]
        made = stage.renderer.generate(stage.scene, points[None], heard)[0]
        still = stage.still.astype(np.float32)
        mixed: NDArray[np.float32] = still + stage.weight * (made - still)
        return np.rint(mixed).astype(np.uint8)


def light_renderer(engine: Engine) -> LightRenderer:
    """The light renderer of an avatar.

    Raises:
        AvatarError: it has none, or renders without landmarks.
    """
    if engine.networks.light is None:
        raise lacking(engine, "light renderer", "light")
    renderer = engine.renderer(engine.rendering("light"))
    if not isinstance(renderer, LightRenderer) or not renderer.uses_landmarks:
        raise AvatarError(
            f"the avatar {engine.name} renders without landmarks",
            wanted="an avatar whose guidance is landmarks",
        )
    return renderer


def open_stage(
    engine: Engine,
    source: str | Path | None,
    *,
    face: str | int | Path = "avatar",
    any_face: bool = False,
    loop_s: float = LOOP_S,
    fps: float = DEFAULT_FPS,
    seed: int = 0,
) -> Stage:
    """The stage of live sessions: footage, or None for the avatar's own head.

    Raises:
        MediaError: the footage cannot be read.
        FaceError: it does not show the person, or not for long enough.
        AvatarError: the avatar has no light renderer.
        UsageError: ``loop_s`` is too short.
    """
    if source is None:
        return TalkStage(engine, fps, seed)
    if loop_s < SHORTEST_S:
        raise UsageError(f"a loop of {loop_s} s", wanted=f"{SHORTEST_S:.0f} s or more")
    located = engine.locate(source, Choice.parse(face), any_face)
    return FootageStage(engine, located, loop_s)


def lacking(engine: Engine, what: str, stage: str) -> AvatarError:
    """What is said of an avatar without the network of a stage."""
    return AvatarError(
        f"the avatar {engine.name} has no {what}",
        fix=f"run `difftalker train --start {engine.name} --stage {stage}`",
    )
