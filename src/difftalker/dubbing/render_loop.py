"""Painting a video, chunk by chunk: crops in, frames with new faces out, finished chunks kept.

cut     frame -> crop
match   crop in the footage's light -> the same in the avatar's      face.light
paint   crop with the lower face painted out -> new lower face       the avatar, or the journal
lay     back into the footage's light, into the frame, with grain    face.blend
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.config import ModelConfig, SamplingConfig
from difftalker.core.allocator import give_back
from difftalker.core.prefetch import prefetch
from difftalker.face.compose.blend import RING_PX, Blender
from difftalker.face.compose.light import Light, LightMap, Skin
from difftalker.face.crop import Framing, boxes_hull, cut
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import UPPER
from difftalker.media.video import Frame
from difftalker.speech.windows import SpokenWindows
from difftalker.store.journal import Journal, key_of

CHUNK_FRAMES = 16
"""Frames painted at once: enough to fill two cores, few enough for little memory."""

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Chunk = list[tuple[int, Frame]]
"""Frames with their numbers."""


class Artist(Protocol):
    """What painting asks of an avatar (:class:`difftalker.dubbing.avatar.Avatar`)."""

    @property
    def config(self) -> ModelConfig:
        """Configuration of its networks."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that makes its pictures."""

    def paint(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        sampling: SamplingConfig,
        seed: int = 0,
        *,
        windows: Floats | None = None,
    ) -> Image:
        """New lower faces under landmarks, speech, or both, as the avatar's guidance has it."""

    def imagine(self, points_crop: Floats, sampling: SamplingConfig, seed: int = 0) -> Image:
        """A whole face in the light that the avatar knows."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A video as painting sees it."""

    track: FaceTrack
    framing: Framing
    points_crop: Floats
    """(frames, 68, 2): completed landmarks."""
    strength: Floats
    """(frames,): how much of the new face each shows; 0 where it keeps its own."""
    windows: SpokenWindows | None
    """Speech, for avatars that hear it."""

    def __len__(self) -> int:
        return len(self.strength)


class Painter:
    """Paints one video from start to end; what is in the journal is not painted again."""

    def __init__(
        self, artist: Artist, sampling: SamplingConfig, seed: int, scene: Scene, journal: Journal
    ) -> None:
        self._artist, self._sampling, self._seed = artist, sampling, seed
        self._scene, self._journal, self._size_px = scene, journal, artist.config.size_px
        self._begins = frozenset(scene.track.cuts.tolist())
        self._blender = Blender(
            scene.framing.crop,
            scene.framing.boxes,
            scene.points_crop,
            scene.track.times_s,
            size_px=self._size_px,
            seed=seed,
        )

    def frames(self, shown: Iterator[Frame]) -> Generator[tuple[Frame, Image]]:
        """Each frame with its new picture; frames that are not driven pass untouched."""
        # The networks paint the next chunk while this one is laid and encoded.
        with closing(prefetch(self._painted(shown))) as chunks:
            for chunk, pairs in chunks:
                yield from self._laid(chunk, iter(pairs))

    def _laid(
        self, chunk: Chunk, pairs: Iterator[tuple[Image, Image]]
    ) -> Iterator[tuple[Frame, Image]]:
        """The frames of a chunk with the new faces of its driven ones."""
        for i, frame in chunk:
            strength = float(self._scene.strength[i])
            if strength <= 0:
                yield frame, frame.image
                continue
            if i in self._begins:
                self._blender.reset()
            crop, face = next(pairs)
            yield frame, self._blender.blend(i, frame.image, crop, face, strength)

    def _painted(self, shown: Iterator[Frame]) -> Iterator[tuple[Chunk, list[tuple[Image, Image]]]]:
        """Chunks of frames, and the driven ones' crops and new faces."""
        light = self._light()
        for chunk in self._chunks(zip(range(len(self._scene)), shown, strict=False)):
            yield chunk, self._pairs(chunk, light)
            give_back()

    def _chunks(self, numbered: Iterable[tuple[int, Frame]]) -> Iterator[Chunk]:
        """Neighbouring frames, a few at a time, each time of one shot."""
        chunk: Chunk = []
        for i, frame in numbered:
            if len(chunk) == CHUNK_FRAMES or (chunk and i in self._begins):
                yield chunk
                chunk = []
            chunk.append((i, frame))
        if chunk:
            yield chunk

    def _light(self) -> Light:
        """What follows the footage's light, told the avatar's own by a face that it imagines.

        Under the upper points of the first face, which no edit changes.
        """
        driven = np.flatnonzero(self._scene.strength > 0)
        if not len(driven) or not self._artist.config.synthesis.uses_landmarks:
            return Light(None)
        points = self._scene.framing.points_crop[driven[0]]
        key = key_of(*self._how(), points[list(UPPER)])
        kept = self._journal.get("light", key)
        if kept is None:
            face = self._artist.imagine(points, self._sampling, self._seed)
            self._journal.put("light", key, film_strip(face[None]))
        else:
            face = pictures(kept)
        return Light(Skin.of(face, points, int(self._scene.framing.boxes[driven[0], 0])))

    def _pairs(self, chunk: Chunk, light: Light) -> list[tuple[Image, Image]]:
        """The driven frames' crops (S, S, 3), and the same with new faces, in the same light."""
        scene, driven = self._scene, [i for i, _ in chunk if self._scene.strength[i] > 0]
        numbers = slice(chunk[0][0], chunk[-1][0] + 1)
        heard = scene.windows.take(scene.track.times_s[numbers]) if scene.windows else None
        if not driven:
            return []
        images = {i: frame.image for i, frame in chunk}
        crops = [cut(images[i], scene.framing.crop, i, self._size_px) for i in driven]
        maps = [self._seen(i, crop, light) for i, crop in zip(driven, crops, strict=True)]
        matched = np.stack([one.apply(crop) for one, crop in zip(maps, crops, strict=True)])
        if heard is not None:
            heard = heard[np.array(driven) - numbers.start]
        made = self._faces(matched, scene.framing.boxes[driven], scene.points_crop[driven], heard)
        faces = [one.undo(face) for one, face in zip(maps, made, strict=True)]
        return list(zip(crops, faces, strict=True))

    def _seen(self, i: int, crop: Image, light: Light) -> LightMap:
        framing = self._scene.framing
        skin = Skin.of(crop, framing.points_crop[i], int(framing.boxes[i, 0]))
        return light.update(skin, float(self._scene.track.times_s[i]), new_shot=i in self._begins)

    def _faces(
        self, crops: Image, boxes: NDArray[np.int32], points: Floats, heard: Floats | None
    ) -> Image:
        """The crops (n, S, S, 3) with new lower faces, as kept or painted now.

        Away from the mask they are the footage in both cases, so both give the same video.
        """
        hidden = crops.copy()
        for crop, (top, bottom, left, right) in zip(hidden, boxes, strict=True):
            crop[top:bottom, left:right] = 0
        key = key_of(*self._how(), boxes, points, heard, hidden)
        rows, columns = boxes_hull(boxes, self._size_px, RING_PX)
        out = crops.copy()
        kept = self._journal.get("faces", key)
        if kept is None:
            made = self._artist.paint(
                hidden, boxes, points, self._sampling, self._seed, windows=heard
            )
            out[:, rows, columns] = made[:, rows, columns]
            self._journal.put("faces", key, film_strip(out[:, rows, columns]))
        else:
            out[:, rows, columns] = pictures(kept).reshape(out[:, rows, columns].shape)
        return out

    def _how(self) -> tuple[object, ...]:
        """What pictures depend on besides their frames."""
        return self._artist.fingerprint, repr(self._sampling), self._seed


def film_strip(images: Image) -> bytes:
    """Pictures (n, H, W, 3), one below the other, as a PNG file; channels keep their order."""
    strip = images.reshape(-1, *images.shape[2:])
    return cv2.imencode(".png", strip, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def pictures(film_strip: bytes) -> Image:
    """What ``film_strip`` was given, one below the other: (n H, W, 3)."""
    return np.asarray(cv2.imdecode(np.frombuffer(film_strip, np.uint8), cv2.IMREAD_COLOR), np.uint8)
