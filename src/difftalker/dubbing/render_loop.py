"""Rendering a video, chunk by chunk: crops in, frames with new faces out, finished chunks kept.

cut     frame -> crop
match   crop in the footage's light -> the same in the avatar's      face.light
render  masked crop -> new lower face                                the renderer, or the journal
lay     back into the footage's light, into the frame, with grain    face.blend
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.core.allocator import give_back
from difftalker.core.prefetch import prefetch
from difftalker.face.compose.blend import RING_PX, Blender
from difftalker.face.compose.light import Light, LightMap, Skin
from difftalker.face.crop import Framing, boxes_hull, cut
from difftalker.face.detect.track import FaceTrack
from difftalker.media.video import Frame
from difftalker.speech.windows import SpokenWindows
from difftalker.store.journal import Journal, key_of
from difftalker.synthesis.renderer import Floats, Image, Renderer

_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
)
"""As small as with the usual choices, in 0.4 of their time."""
CHUNK_FRAMES = 16
"""Frames rendered at once: enough to fill two cores, few enough for little memory."""

Chunk = list[tuple[int, Frame]]
"""Frames with their numbers."""
Pairs = list[tuple[Image, Image]]
"""Crops (S, S, 3), and the same with new faces."""


@dataclass(frozen=True, kw_only=True)
class RenderInputs:
    """A video as the render loop takes it."""

    track: FaceTrack
    framing: Framing
    points_crop: Floats
    """(frames, 68, 2): completed landmarks."""
    strength: Floats
    """(frames,): how much of the new face each shows; 0 where it keeps its own."""
    windows: SpokenWindows | None
    """Speech, for renderers that use it."""
    light_points: Floats | None
    """(68, 2): the neutral face under which the light is compared; none where no frame has a new
    face."""

    def __len__(self) -> int:
        return len(self.strength)


class RenderLoop:
    """Renders one video from start to end; what is in the journal is not rendered again."""

    def __init__(
        self, renderer: Renderer, inputs: RenderInputs, journal: Journal, *, seed: int = 0
    ) -> None:
        """``seed`` is that of the grain."""
        self._renderer, self._inputs, self._journal = renderer, inputs, journal
        self._size_px = renderer.size_px
        self._begins = frozenset(inputs.track.cuts.tolist())
        self._blender = Blender(
            inputs.framing.crop,
            inputs.framing.boxes,
            inputs.points_crop,
            inputs.track.times_s,
            size_px=self._size_px,
            seed=seed,
        )

    def frames(self, shown: Iterator[Frame]) -> Generator[tuple[Frame, Image]]:
        """Each frame with its new picture; frames that are not driven pass untouched."""
        # The networks render the next chunk while this one is laid and encoded.
        with closing(prefetch(self._rendered(shown))) as chunks:
            for chunk, pairs in chunks:
                yield from self._laid(chunk, iter(pairs))

    def paint(self, shown: Iterator[Frame], part: range) -> Iterator[int]:
        """Render the frames of ``part`` (``parts``) into the journal; yields how many are done.

        Whoever then shows the whole video finds them there. ``shown`` are all frames of the video.
        """
        light, first = self._light(), self._settled(part.start)
        for chunk in self._chunks(zip(range(part.stop), shown, strict=False)):
            if chunk[0][0] in part:
                self._pairs(chunk, light)
                give_back()
                yield chunk[-1][0] + 1 - part.start
            elif chunk[0][0] >= first:
                self._maps(chunk, light)

    def parts(self, frames: int) -> list[range]:
        """Parts of the video that can be painted apart, each of so many frames at most.

        They end at cuts, or within long shots where a chunk does.
        """
        total = len(self._inputs)
        shots = itertools.pairwise([*sorted({0, *self._begins}), total])
        step = max(1, frames // CHUNK_FRAMES) * CHUNK_FRAMES
        starts = [start for first, stop in shots for start in range(first, stop, step)]
        parts: list[range] = []
        for start, stop in itertools.pairwise([*starts, total]):
            if parts and stop - parts[-1].start <= frames:
                parts[-1] = range(parts[-1].start, stop)
            else:
                parts.append(range(start, stop))
        return parts

    def _settled(self, frame: int) -> int:
        """From where on the light has to be followed, to be known at a frame."""
        driven = self._inputs.strength > 0
        return max((i for i in self._begins if i <= frame and driven[i]), default=0)

    def _laid(
        self, chunk: Chunk, pairs: Iterator[tuple[Image, Image]]
    ) -> Iterator[tuple[Frame, Image]]:
        """The frames of a chunk with the new faces of its driven ones."""
        for i, frame in chunk:
            strength = float(self._inputs.strength[i])
            if strength <= 0:
                yield frame, frame.image
                continue
            if i in self._begins:
                self._blender.reset()
            crop, face = next(pairs)
            yield frame, self._blender.blend(i, frame.image, crop, face, strength)

    def _rendered(
        self, shown: Iterator[Frame]
    ) -> Iterator[tuple[Chunk, list[tuple[Image, Image]]]]:
        """Chunks of frames, and the driven ones' crops and new faces."""
        light = self._light()
        for chunk in self._chunks(zip(range(len(self._inputs)), shown, strict=False)):
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
        """What follows the footage's light, compared with the avatar's own on a whole face."""
        points = self._inputs.light_points
        if points is None or not self._renderer.uses_landmarks:
            return Light(None)
        key = key_of(self._renderer.key, points)
        kept = self._journal.get("light", key)
        if kept is None:
            face = self._renderer.whole_face(points)
            self._journal.put("light", key, film_strip(face[None]))
        else:
            face = pictures(kept)
        first = int(np.flatnonzero(self._inputs.strength > 0)[0])
        shown = self._inputs.framing.points_crop[first]
        return Light(Skin.of(face, shown, int(self._inputs.framing.boxes[first, 0])))

    def _pairs(self, chunk: Chunk, light: Light) -> Pairs:
        """The driven frames' crops (S, S, 3), and the same with new faces, in the same light."""
        inputs, driven = self._inputs, [i for i, _ in chunk if self._inputs.strength[i] > 0]
        numbers = slice(chunk[0][0], chunk[-1][0] + 1)
        heard = inputs.windows.take(inputs.track.times_s[numbers]) if inputs.windows else None
        if not driven:
            return []
        crops, maps = self._maps(chunk, light)
        matched = np.stack([one.apply(crop) for one, crop in zip(maps, crops, strict=True)])
        if heard is not None:
            heard = heard[np.array(driven) - numbers.start]
        made = self._faces(matched, inputs.framing.boxes[driven], inputs.points_crop[driven], heard)
        faces = [one.undo(face) for one, face in zip(maps, made, strict=True)]
        return list(zip(crops, faces, strict=True))

    def _maps(self, chunk: Chunk, light: Light) -> tuple[list[Image], list[LightMap]]:
        """The driven frames' crops (S, S, 3), and what takes each to the avatar's light."""
        driven = [(i, frame.image) for i, frame in chunk if self._inputs.strength[i] > 0]
        crops = [cut(image, self._inputs.framing.crop, i, self._size_px) for i, image in driven]
        return crops, [
            self._seen(i, crop, light) for (i, _), crop in zip(driven, crops, strict=True)
        ]

    def _seen(self, i: int, crop: Image, light: Light) -> LightMap:
        framing = self._inputs.framing
        skin = Skin.of(crop, framing.points_crop[i], int(framing.boxes[i, 0]))
        return light.update(skin, float(self._inputs.track.times_s[i]), new_shot=i in self._begins)

    def _faces(
        self, crops: Image, boxes: NDArray[np.int32], points: Floats, heard: Floats | None
    ) -> Image:
        """The crops (n, S, S, 3) with new lower faces, as kept or rendered now.

        Away from the mask they are the footage in both cases, so both give the same video.
        """
        hidden = self._renderer.hide(crops, boxes, points)
        key = key_of(self._renderer.key, boxes, points, heard, hidden)
        rows, columns = boxes_hull(boxes, self._size_px, RING_PX)
        out = crops.copy()
        kept = self._journal.get("faces", key)
        if kept is None:
            made = self._renderer.render(hidden, boxes, points, heard)
            out[:, rows, columns] = made[:, rows, columns]
            self._journal.put("faces", key, film_strip(out[:, rows, columns]))
        else:
            out[:, rows, columns] = pictures(kept).reshape(out[:, rows, columns].shape)
        return out


def film_strip(images: Image) -> bytes:
    """Pictures (n, H, W, 3), one below the other, as a PNG file; channels keep their order."""
    strip = images.reshape(-1, *images.shape[2:])
    return cv2.imencode(".png", strip, _PNG)[1].tobytes()


def pictures(film_strip: bytes) -> Image:
    """What ``film_strip`` was given, one below the other: (n H, W, 3)."""
    return np.asarray(cv2.imdecode(np.frombuffer(film_strip, np.uint8), cv2.IMREAD_COLOR), np.uint8)
