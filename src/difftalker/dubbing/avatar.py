"""An avatar: one person, ready to speak. Its verbs prepare what ``dub`` and ``talk`` carry out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.config import DEFAULT_FPS
from difftalker.core.jobs import Progress, no_progress
from difftalker.dubbing.dub import Dub, complete
from difftalker.dubbing.engine import Engine
from difftalker.dubbing.footage import TrackedFootage, located_by
from difftalker.dubbing.live import LiveSession
from difftalker.dubbing.live_stage import Stage, open_stage
from difftalker.dubbing.load_checked import load_networks
from difftalker.dubbing.talk import Talk
from difftalker.errors import UsageError
from difftalker.face.detect.people import Choice
from difftalker.landmarks.edits import Edit
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.marks.marking import MARKED, Marks
from difftalker.store import avatars


class Avatar(Engine):
    """One person, ready to speak."""

    def landmarks(
        self,
        video: str | Path,
        audio: str | Path,
        *,
        face: str | int | Path = "avatar",
        any_face: bool = False,
        progress: Progress = no_progress,
    ) -> LandmarkTrack:
        """The completed landmarks of ``video`` with the sound of ``audio``, as ``dub`` uses them.

        Raises:
            MediaError: footage or sound cannot be read.
            FaceError: the footage shows no face, or none of whom ``face`` means.
        """
        footage = self.locate(video, Choice.parse(face), any_face, progress)
        points = self.complete(footage, audio, progress)
        return footage.as_track(points, self.config.size_px, self.name)

    def complete(
        self, footage: TrackedFootage, audio: str | Path, progress: Progress = no_progress
    ) -> NDArray[np.float32]:
        """The points (frames, 68, 2), crop units: upper ones as found, lower ones from the speech.

        Raises:
            MediaError: the sound cannot be read, or has no length.
        """
        return complete(self, footage, self.speech(audio), progress)

    def dub(
        self,
        video: str | Path,
        audio: str | Path,
        *,
        renderer: str = "auto",
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        face: str | int | Path = "avatar",
        any_face: bool = False,
        located: TrackedFootage | None = None,
        landmarks: NDArray[np.float32] | LandmarkTrack | None = None,
        edits: Sequence[Edit] = (),
    ) -> Dub:
        """Prepare a dub of ``video`` with the sound of ``audio``; ``save`` carries it out.

        ``renderer`` is one of ``config.RENDERERS``, or ``auto`` (:meth:`Engine.rendering`).
        ``face`` says whom, of several people (``face.detect.people.Choice``); it has to be the
        avatar's person, unless ``any_face`` is given. ``located`` and
        ``landmarks`` (frames, 68, 2; crop units) belong to the footage's frames and replace what
        is tracked and completed; a track of landmarks does both. ``edits`` change the landmarks
        one after the other, at times of the output.

        Raises:
            UsageError: there is no such renderer, sampler or face, they do not go together, or
                landmarks are given to an avatar that renders without any.
            TrackError: the track belongs to other footage, or to an avatar of another size.
        """
        whom = Choice.parse(face)
        chosen = self.rendering(renderer, sampler=sampler, steps=steps)
        located = located.framed(self.config) if located else None
        if (landmarks is not None or edits) and not self.config.synthesis.uses_landmarks:
            raise UsageError(
                f"landmarks for the avatar {self.name}, which renders from speech alone",
                wanted="an avatar that landmarks condition",
            )
        if isinstance(landmarks, LandmarkTrack):
            located = located_by(landmarks, Path(video), self.config.size_px)
            landmarks = landmarks.points_crop
        return Dub(
            *(self, Path(video), Path(audio), chosen, seed, whom, located, landmarks, edits),
            any_face=any_face,
        )

    def talk(
        self,
        audio: str | Path,
        *,
        fps: float = DEFAULT_FPS,
        renderer: str = "auto",
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Talk:
        """Prepare a video without footage, of the whole face; ``save`` makes it.

        Raises:
            UsageError: an option is out of range, or the avatar renders without landmarks.
        """
        chosen = self.rendering(renderer, sampler=sampler, steps=steps, whole_faces=True)
        return Talk(self, Path(audio), chosen, seed, fps)

    def live(
        self,
        source: str | Path | Stage | None = None,
        *,
        face: str | int | Path = "avatar",
        any_face: bool = False,
        marks: Marks = MARKED,
    ) -> LiveSession:
        """A session that speaks while speech is pushed to it, by the light renderer.

        ``source`` is footage, played forth and back, a stage that was opened before
        (``live_stage.open_stage``; sessions can share one), or None for the avatar's own head.
        ``marks`` say how its pictures state that they are generated.

        Raises:
            MediaError: the footage cannot be read.
            FaceError: it does not show the person for a second.
            AvatarError: the avatar has no light renderer, or no completion for live sessions.
        """
        if not isinstance(source, Stage):
            source = open_stage(self, source, face=face, any_face=any_face)
        return LiveSession(self, source, marks)


def load(name_or_folder: str | Path, *, device: str = "cpu") -> Avatar:
    """An avatar by its packaged name or its folder, ready to speak.

    Raises:
        AvatarError: the folder or a file is missing, truncated or altered.
    """
    files = avatars.read(name_or_folder)
    networks, calibration = load_networks(files), files.calibration
    return Avatar(files.name, files.config, networks, device, files.facts, calibration)
