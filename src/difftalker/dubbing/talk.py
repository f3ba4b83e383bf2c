"""A talk: without any footage the whole face is generated, before a still background.

move      a seed -> upper points that sway and blink                     landmarks.head_motion
complete  upper points + speech -> all 68 points                         landmarks.completer
render    noise + points -> whole faces, chunk by chunk; away from the   synthesis.renderer
          head one picture of the neutral face is kept
write     frames with the sound                                          media.video
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import __version__
from difftalker.config import DEFAULT_CRF, MAX_FPS
from difftalker.core.jobs import Progress, no_progress
from difftalker.core.prefetch import prefetch
from difftalker.dubbing.engine import Engine, Rendering
from difftalker.dubbing.render_loop import CHUNK_FRAMES, film_strip, pictures
from difftalker.errors import UsageError
from difftalker.face.compose.blend import blend_mask
from difftalker.face.landmarks import BROWS, CHIN, JAW
from difftalker.landmarks.track_file import check_points
from difftalker.marks.marking import MARKED, Marker, Marks, Work
from difftalker.media.audio import probe_audio
from difftalker.media.limits import check_frames, current
from difftalker.media.video import VideoWriter
from difftalker.speech.speech import Speech
from difftalker.store.journal import Journal, file_hash, key_of
from difftalker.synthesis.renderer import Floats, Image, Renderer

BESIDE, BELOW = 0.25, 0.2
"""How far a moving head is shown beyond the landmarks, in widths between the ends of the jaw, and
below the chin, in heights from the brows to there. It reaches to the top of the picture."""
FADE = 0.1
"""Over what share of the picture it goes over into the still background."""
TICKS = 512
"""Parts of a frame on the output's clock."""


@dataclass(frozen=True, kw_only=True)
class TalkResult:
    """What a talk was."""

    output: Path
    frames: int
    fps: Fraction
    landmarks_crop: Floats
    """(frames, 68, 2), crop units."""
    seconds: float
    """From sound to finished file, loading of the avatar apart."""
    avatar: str
    """The avatar's name."""
    device: str
    rendering: Rendering

    @property
    def frames_per_second(self) -> float:
        """Speed of the whole, sound and picture encoded."""
        return self.frames / self.seconds


class Talk:
    """A talk to be carried out."""

    def __init__(
        self, engine: Engine, audio: Path, rendering: Rendering, seed: int, fps: float
    ) -> None:
        """``fps`` is the rate of the video's frames, 1 to ``config.MAX_FPS`` a second.

        Raises:
            UsageError: it is out of range, or the avatar renders without landmarks.
        """
        if not 1 <= fps <= MAX_FPS:
            raise UsageError(f"{fps} frames a second", wanted=f"1 to {MAX_FPS}")
        if not engine.config.synthesis.uses_landmarks:
            raise UsageError(
                f"the avatar {engine.name} renders from speech alone: nothing would move its head",
                wanted="an avatar whose guidance is landmarks",
            )
        self.engine, self.audio, self.rendering, self.seed = engine, audio, rendering, seed
        self.fps = Fraction(fps).limit_denominator(1001)

    def save(
        self,
        output: str | Path,
        *,
        crf: int = DEFAULT_CRF,
        lossless: bool = False,
        keep_journal: bool = False,
        marks: Marks = MARKED,
        progress: Progress = no_progress,
    ) -> TalkResult:
        """Write the video: as long as the sound, as large as the avatar's crop.

        ``marks`` say how the video states that it was generated. Finished
        work is kept beside the output and taken up again as in ``Dub.save``.

        Raises:
            MediaError: the sound cannot be read, or the output not be written; an earlier output
                stays as it was.
            TrackError: the avatar's model of movement leaves all bounds.
        """
        began, output, size = time.monotonic(), Path(output), self.engine.config.size_px
        journal, marker = Journal(output, keep=keep_journal), self._marker(marks)
        writer = VideoWriter(
            output,
            width=size,
            height=size,
            fps=self.fps,
            time_base=1 / Fraction(self.fps.numerator * TICKS),
            audio=self.audio,
            crf=crf,
            lossless=lossless,
            comment=marker.comment,
            tags=marker.tags(output),
            finish=marker.finish,
            scratch_folder=journal.folder,
        )
        with journal:
            speech = self.engine.speech(self.audio)
            numbers = self._numbers(speech)
            points = self._points(numbers, speech, progress)
            rendered = self._rendered(points, numbers, speech, journal)
            with writer, closing(prefetch(rendered)) as chunks:
                images = (one for chunk in chunks for one in chunk)
                for done, (number, image) in enumerate(zip(numbers, images, strict=True), 1):
                    marked = marker.mark(image, float(number / self.fps))
                    writer.write(marked, int(number) * self.fps.denominator * TICKS)
                    progress("render", done, len(points))
        return TalkResult(
            output=output,
            frames=len(points),
            fps=self.fps,
            landmarks_crop=points,
            seconds=time.monotonic() - began,
            avatar=self.engine.name,
            device=self.engine.device,
            rendering=self.rendering,
        )

    def _marker(self, marks: Marks) -> Marker:
        """What marks the video."""
        probe_audio(self.audio)  # says better than a hash what is wrong with it
        chosen = (repr(self.rendering), self.seed, str(self.fps))
        work = Work(
            comment=made_by(self.engine.name),
            job=key_of(
                "talk", __version__, file_hash(self.audio), self.engine.fingerprint, *chosen
            ),
            avatar=self.engine.name,
            speech=self.audio,
        )
        size_px = self.engine.config.size_px
        return Marker(marks, work, size_px, size_px)

    def _numbers(self, speech: Speech) -> NDArray[np.int64]:
        """The frames that are shown, (frames,), by number: in gaps of the sound the last one stays.

        The last of all is still shown when the sound ends.
        """
        frames = max(1, math.ceil(speech.duration_s * self.fps - 2e-3))
        check_frames(self.audio, frames, self.engine.config.size_px**2, current())
        numbers = np.arange(frames)
        return numbers[~speech.gaps().contain(self._times_s(numbers))]

    def _points(self, numbers: NDArray[np.int64], speech: Speech, progress: Progress) -> Floats:
        """Landmarks of the frames that are shown, (frames, 68, 2)."""
        upper = self.engine.networks.motion.sample(len(numbers), float(self.fps), self.seed)
        points = self.engine.completer.complete(
            upper, self._times_s(numbers), speech, progress=progress
        )
        check_points(points)
        return points

    def _times_s(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        return numbers / float(self.fps)

    def _rendered(
        self, points: Floats, numbers: NDArray[np.int64], speech: Speech, journal: Journal
    ) -> Iterator[Image]:
        """Pictures (n, S, S, 3) of neighbouring frames, the background the same in all."""
        renderer = self.engine.renderer(self.rendering, self.seed)
        times_s = self._times_s(numbers)
        windows = self.engine.windows(speech, times_s)
        still = renderer.whole_face(self.engine.completer.neutral(points.mean(0)))
        shown = head_weight(points, len(still))[..., None]
        for start in range(0, len(points), CHUNK_FRAMES):
            part = points[start : start + CHUNK_FRAMES]
            heard = windows.take(times_s[start : start + CHUNK_FRAMES]) if windows else None
            key = key_of(renderer.key, part, heard)
            kept = journal.get("faces", key)
            if kept is None:
                made = _whole_faces(renderer, part, heard)
                journal.put("faces", key, film_strip(made))
            else:
                made = pictures(kept).reshape(-1, *still.shape)
            change = made - still.astype(np.float32)
            yield np.rint(still + shown * change).astype(np.uint8)


def _whole_faces(renderer: Renderer, points: Floats, windows: Floats | None) -> Image:
    """Whole faces, (n, S, S, 3): nothing is known but landmarks and speech."""
    size = renderer.size_px
    everywhere = np.tile(np.array([0, size, 0, size], np.int32), (len(points), 1))
    nothing = np.zeros((len(points), size, size, 3), np.uint8)
    return renderer.render(nothing, everywhere, points, windows)


def made_by(name: str) -> str:
    """What the file's comment says of its making."""
    return f"AI-generated: every picture of this video was made by DiffTalker, avatar {name}."


def head_weight(points_crop: Floats, size_px: int) -> Floats:
    """Where the head is, wherever it goes in these frames (frames, 68, 2); (S, S), 0 to 1.

    Beyond it one picture is shown in all frames: each is made anew, background and all, and what
    stands still would swim by half a step of brightness, shoulders by a pixel.
    """
    low, mean, high = np.quantile(points_crop, (0.02, 0.5, 0.98), axis=0)
    width = mean[JAW[-1], 0] - mean[JAW[0], 0]
    height = mean[CHIN, 1] - mean[list(BROWS), 1].mean()
    bottom = high[CHIN, 1] + BELOW * height
    left, right = low[:, 0].min() - BESIDE * width, high[:, 0].max() + BESIDE * width
    box = np.rint(np.array([-1, bottom, left, right]) * size_px).astype(np.int32)
    return blend_mask(box, size_px, round(FADE * size_px))
