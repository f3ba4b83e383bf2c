"""A dub: footage of the avatar's person with new speech, stage by stage; every stage streams.

track     footage -> where the face is, frame by frame          dubbing.footage
listen    sound   -> speech, decoded and encoded once           speech.speech
complete  upper points + speech -> all 68 points                landmarks.completer
render    masked crops + points -> crops with new lower faces   synthesis.renderer
          matched in light and grain, laid into the frames      dubbing.render_loop
write     frames and times as they were, with the new sound     media.video
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import __version__
from difftalker.config import DEFAULT_CRF
from difftalker.core.allocator import give_back
from difftalker.core.jobs import Progress, no_progress
from difftalker.dubbing.engine import Engine, Rendering
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.render_loop import RenderInputs, RenderLoop
from difftalker.errors import UsageError
from difftalker.face.detect.people import Choice
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import UPPER
from difftalker.face.spans import Span
from difftalker.landmarks.edits import Edit, apply_edits
from difftalker.landmarks.track_file import check_points
from difftalker.marks.marking import MARKED, Marker, Marks, Work
from difftalker.media.audio import probe_audio
from difftalker.media.timeline import Fit, Timeline, fit, play
from difftalker.media.video import Frame, VideoInfo, VideoWriter, probe_video
from difftalker.speech.speech import Speech
from difftalker.store.journal import Journal, file_hash, key_of, pack, unpack


@dataclass(frozen=True, kw_only=True)
class DubResult:
    """What a dubbing was."""

    output: Path
    frames: int
    """Written; as many as the footage has, unless they were fitted to the sound."""
    frames_driven: int
    """Number of written frames that show a new mouth."""
    located: TrackedFootage
    landmarks_crop: NDArray[np.float32]
    """(frames, 68, 2): the completed points, crop units."""
    seconds: float
    """From footage to finished file, loading of the avatar apart."""
    avatar: str
    """The avatar's name."""
    device: str
    rendering: Rendering
    any_face: bool = False
    """Whether the face was allowed to be somebody else's."""

    @property
    def frames_per_second(self) -> float:
        """Speed of the whole dubbing, sound and picture encoded."""
        return self.frames / self.seconds

    @property
    def spans(self) -> tuple[Span, ...]:
        """Which frames got a new mouth, and why the others did not."""
        return self.located.spans


@dataclass(frozen=True, kw_only=True)
class OpenedDub:
    """A dubbing that is tracked and completed, ready to be rendered."""

    video: Path
    footage: TrackedFootage
    """As it is shown."""
    timeline: Timeline
    points_crop: NDArray[np.float32]
    """(frames, 68, 2): the completed points with all edits, crop units."""
    loop: RenderLoop

    def shown(self) -> Iterator[Frame]:
        """The frames of the footage, in the order in which they are shown."""
        return play(self.video, self.timeline)


class Dub:
    """A dubbing to be carried out."""

    def __init__(
        self,
        engine: Engine,
        video: Path,
        audio: Path,
        rendering: Rendering,
        seed: int,
        face: Choice,
        located: TrackedFootage | None,
        landmarks: NDArray[np.float32] | None,
        edits: Sequence[Edit],
        any_face: bool = False,
    ) -> None:
        self.engine, self.video, self.audio = engine, video, audio
        self.rendering, self.seed, self.face = rendering, seed, face
        self.any_face = any_face
        self._located, self._landmarks, self._edits = located, landmarks, edits

    def save(
        self,
        output: str | Path,
        *,
        crf: int = DEFAULT_CRF,
        lossless: bool = False,
        fit: Fit = "trim",
        keep_audio: bool = False,
        keep_journal: bool = False,
        marks: Marks = MARKED,
        progress: Progress = no_progress,
    ) -> DubResult:
        """Write the dubbed video: the footage's frames and times, the new sound.

        ``fit`` says what happens where they differ in length (``media.timeline.Fit``).
        ``keep_audio`` leaves the footage its own sound. ``marks`` say how the video states that it
        was generated; the watermark changes every picture a little. Finished work is kept in a
        hidden folder beside the output (``store.journal``): after a failure or a kill the same call
        goes on from there, to the same bytes but for the random numbers of a signature. After
        success the folder goes, unless ``keep_journal`` leaves it.

        Raises:
            MediaError: input or output cannot be read or written, or another run writes the
                output; an earlier output stays as it was.
            FaceError: the footage shows no face, or none of whom ``face`` meant.
            TrackError: an edit drives points out of all bounds.
        """
        began, info = time.monotonic(), probe_video(self.video)
        info.warn()
        output, journal = Path(output), Journal(Path(output), keep=keep_journal)
        marker = self._marker(marks, (fit, keep_audio), info)
        writer = VideoWriter.like(
            info,
            output,
            audio=self.video if keep_audio else self.audio,
            crf=crf,
            lossless=lossless,
            comment=marker.comment,
            tags=marker.tags(output),
            finish=marker.finish,
            scratch_folder=journal.folder,
        )
        with journal:
            opened = self.opened(journal, fit, progress)
            footage, points = opened.footage, opened.points_crop
            with writer, closing(opened.loop.frames(opened.shown())) as rendered:
                for done, (frame, image) in enumerate(rendered, 1):
                    writer.write(marker.mark(image, frame.time_s), frame.pts)
                    progress("render", done, len(footage))
        return self._result(output, footage, points, time.monotonic() - began)

    def _result(
        self, output: Path, footage: TrackedFootage, points: NDArray[np.float32], seconds: float
    ) -> DubResult:
        return DubResult(
            output=output,
            frames=len(footage),
            landmarks_crop=points,
            located=footage,
            frames_driven=int((footage.strength > 0).sum()),
            seconds=seconds,
            avatar=self.engine.name,
            device=self.engine.device,
            rendering=self.rendering,
            any_face=self.any_face,
        )

    def _marker(self, marks: Marks, played: tuple[object, ...], info: VideoInfo) -> Marker:
        """What marks the video; ``played`` is what else the video follows from."""
        probe_audio(self.audio)  # says better than a hash what is wrong with it
        sources = (file_hash(self.video), file_hash(self.audio))
        chosen = (repr(self.rendering), self.seed, repr(self.face), self._landmarks, self._edits)
        job = key_of("dub", __version__, *sources, self.engine.fingerprint, *chosen, *played)
        work = Work(
            comment=generated_by(self.engine.name, self.any_face),
            job=job,
            avatar=self.engine.name,
            footage=self.video,
            speech=self.audio,
        )
        return Marker(marks, work, info.width, info.height)

    def opened(
        self, journal: Journal, fit: Fit = "trim", progress: Progress = no_progress
    ) -> OpenedDub:
        """Track and complete, or take both from the journal; nothing is rendered yet.

        Raises:
            MediaError: footage or sound cannot be read.
            FaceError: the footage shows no face, or none of whom ``face`` meant.
            TrackError: an edit drives points out of all bounds.
        """
        # Unusable sound is refused before the work, not after.
        speech = self.engine.speech(self.audio)
        footage, timeline, points = self._completed(speech, journal, fit, progress)
        give_back()
        inputs = self._inputs(footage, points, speech)
        renderer = self.engine.renderer(self.rendering, self.seed)
        return OpenedDub(
            video=self.video,
            footage=footage,
            timeline=timeline,
            points_crop=points,
            loop=RenderLoop(renderer, inputs, journal, seed=self.seed),
        )

    def _completed(
        self, speech: Speech, journal: Journal, mode: Fit, progress: Progress
    ) -> tuple[TrackedFootage, Timeline, NDArray[np.float32]]:
        """The footage as it is shown, how it is played, and its points with all edits."""
        footage = self._locate(journal, progress)
        give_back()
        sound_s = 0.0 if mode == "trim" else speech.duration_s
        timeline = fit(footage.track.times_s, footage.info, mode, sound_s, speech.gaps())
        if self._landmarks is None:
            shown = footage.shown(timeline, self.engine.config)
            points = self._points(shown, speech, journal, progress)
        else:  # they lie within the crops of the footage as it is
            shown = footage.played(timeline)
            points = _given(self._landmarks, len(footage))[timeline.source]
        return shown, timeline, self._edited(shown, points)

    def _locate(self, journal: Journal, progress: Progress) -> TrackedFootage:
        """The footage's face, as given, as kept, or found now."""
        if self._located is not None:
            return self._located
        photo = self.face.picture
        whom = repr(self.face) if photo is None else file_hash(photo)
        likeness = self.engine.likeness
        looks = None if likeness is None else likeness.looks
        key = key_of(__version__, file_hash(self.video), whom, looks)
        kept = journal.get("track", key)
        known = FaceTrack.from_arrays(unpack(kept)) if kept else None
        footage = self.engine.locate(self.video, self.face, self.any_face, progress, known=known)
        if known is None:
            journal.put("track", key, pack(vars(footage.track)))
        return footage

    def _points(
        self, footage: TrackedFootage, speech: Speech, journal: Journal, progress: Progress
    ) -> NDArray[np.float32]:
        """The completed points, as kept, or completed now."""
        seen = footage.track.times_s, footage.framing.points_crop
        key = key_of(self.engine.fingerprint, file_hash(self.audio), *seen)
        if kept := journal.get("landmarks", key):
            return unpack(kept)["points_crop"].astype(np.float32)
        points = complete(self.engine, footage, speech, progress)
        journal.put("landmarks", key, pack({"points_crop": points}))
        return points

    def _edited(self, located: TrackedFootage, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """The points with the edits, by the times of the output."""
        track = located.track
        points = apply_edits(points, track.times_s, track.usable, self._edits, track.cuts)
        check_points(points)
        return points

    def _inputs(
        self, footage: TrackedFootage, points: NDArray[np.float32], speech: Speech
    ) -> RenderInputs:
        driven = np.flatnonzero(footage.strength > 0)
        light = None
        if len(driven):  # under upper points, which no edit changes
            light = self.engine.completer.neutral(footage.framing.points_crop[driven[0]])
        return RenderInputs(
            track=footage.track,
            framing=footage.framing,
            points_crop=points,
            strength=footage.strength,
            windows=self.engine.windows(speech, footage.track.times_s),
            light_points=light,
        )


def complete(
    engine: Engine, footage: TrackedFootage, speech: Speech, progress: Progress = no_progress
) -> NDArray[np.float32]:
    """The points (frames, 68, 2), crop units: upper ones as found, lower ones from the speech."""
    track = footage.track
    return engine.completer.complete(
        footage.framing.points_crop[:, list(UPPER)],
        track.times_s,
        speech,
        found=track.usable,
        cuts=track.cuts,
        progress=progress,
    )


def _given(points_crop: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Landmarks that somebody else made for as many frames of footage."""
    if points_crop.shape != (frames, 68, 2):
        raise UsageError(f"landmarks of shape {points_crop.shape}", wanted=f"{(frames, 68, 2)}")
    return points_crop.astype(np.float32)


def generated_by(name: str, any_face: bool = False) -> str:
    """What the file's comment says of its making."""
    whose = ", on a face that may be somebody else's (--any-face)" if any_face else ""
    return f"AI-generated: the mouth in this video was made by DiffTalker, avatar {name}{whose}."
