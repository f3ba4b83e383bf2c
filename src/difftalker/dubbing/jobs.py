"""Dubs, talks and landmarks as jobs: plain data that is filled in, kept, sent and run.

What carries them out is imported when they run: who reads thousands of jobs waits for no network.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from difftalker.config import DEFAULT_CRF, DEFAULT_FPS
from difftalker.core.device import pick_device
from difftalker.core.jobs import Cancel, Job, OnEvent, never, no_event, reporting
from difftalker.errors import UsageError
from difftalker.face.detect.people import Choice
from difftalker.landmarks.edits import Edit
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.marks.marking import Marks
from difftalker.media.limits import Limits, limited
from difftalker.media.timeline import Fit
from difftalker.media.video import probe_video

if TYPE_CHECKING:
    from difftalker.dubbing.dub import Dub, DubResult
    from difftalker.dubbing.talk import TalkResult


@dataclass(frozen=True, kw_only=True)
class DubJob(Job):
    """Give footage of the avatar's person new speech."""

    kind: ClassVar[str] = "dub"
    inputs: ClassVar[tuple[str, ...]] = ("video", "audio", "avatar", "face", "landmarks")
    outputs: ClassVar[tuple[str, ...]] = ("output", "landmarks_out", "report")
    suffix: ClassVar[str] = ".mp4"
    video: str
    """Footage of the avatar's person."""
    audio: str
    """The new speech: any file with a sound track."""
    avatar: str
    """A packaged avatar's name, or a folder."""
    output: str
    """The video to write."""
    renderer: str = "auto"
    """``diffusion``, ``light``, or ``auto``: the better one that is fast here."""
    sampler: str | None = None
    """``ddpm``, ``ddim`` or ``dpm++``; None: the avatar's own."""
    steps: int | None = None
    """Steps of denoising; None: the avatar's own."""
    seed: int = 0
    face: str = "avatar"
    """Whom to drive, of several people; see ``face.detect.people.Choice``."""
    any_face: bool = False
    """Whether a face may be driven that is not the avatar's person."""
    landmarks: str | None = None
    """A file of landmarks to render in place of completed ones."""
    edits: tuple[str, ...] = ()
    """Edits of the landmarks, such as ``mouth=1.3@1.0-2.5``."""
    fit: Fit = "trim"
    """What happens where sound and picture differ in length."""
    keep_audio: bool = False
    """Whether the footage keeps its own sound."""
    landmarks_out: str | None = None
    """Where the landmarks are written too."""
    report: str | None = None
    """Where it is written which frames got a new mouth."""
    keep_journal: bool = False
    """Whether finished work stays beside the output."""
    crf: int = DEFAULT_CRF
    lossless: bool = False
    marks: Marks = field(default_factory=Marks)
    """How the video says that it was generated."""
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    """What is refused as too large."""

    def check(self) -> None:
        """Refuse what is known to fail without reading any footage.

        Raises:
            UsageError: options are unknown, or do not go together.
            MediaError: an output cannot be written.
        """
        from difftalker.dubbing import previews

        for text in self.edits:
            Edit.parse(text)
        Choice.parse(self.face)
        previews.check_outputs(
            Path(self.output),
            lossless=self.lossless,
            landmarks=_path(self.landmarks_out),
            report=_path(self.report),
            inputs=(Path(self.video), Path(self.audio), _path(self.landmarks)),
        )
        if self.fit != "trim" and self.landmarks_out:
            raise UsageError(
                f"--landmarks-out together with --fit {self.fit}",
                wanted="--fit trim: a file of landmarks is of the footage as it is",
            )
        if self.landmarks and self.face != "avatar":
            raise UsageError(
                f"--landmarks together with --face {self.face}",
                wanted="--landmarks alone: they belong to one face",
                fix="choose it when they are made, with `difftalker landmarks --face`",
            )

    def prepared(self) -> Dub:
        """The dub that the job means, its avatar loaded.

        Raises:
            AvatarError: there is no such avatar, or it is damaged.
            DiffTalkerError: as :meth:`difftalker.dubbing.avatar.Avatar.dub`.
        """
        from difftalker.dubbing.loaded import load

        track = LandmarkTrack.load(Path(self.landmarks)) if self.landmarks else None
        return load(self.avatar, device=pick_device(self.device)).dub(
            self.video,
            self.audio,
            renderer=self.renderer,
            sampler=self.sampler,
            steps=self.steps,
            seed=self.seed,
            face=self.face,
            any_face=self.any_face,
            landmarks=track,
            edits=[Edit.parse(text) for text in self.edits],
        )

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> DubResult:
        """Carry it out; see :func:`difftalker.jobs.run`."""
        from difftalker.dubbing import previews

        self.check()
        self.marks.warn(self.output)
        with limited(self.limits):
            dub = self.prepared()
            result = dub.save(
                self.output,
                crf=self.crf,
                lossless=self.lossless,
                fit=self.fit,
                keep_audio=self.keep_audio,
                keep_journal=self.keep_journal,
                marks=self.marks,
                progress=reporting(on_event, cancel),
            )
        if self.landmarks_out:
            points, engine = result.landmarks_crop, dub.engine
            result.located.as_track(points, engine.config.size_px, engine.name).save(
                Path(self.landmarks_out)
            )
        if self.report:
            previews.save_report(result, Path(self.report))
        return result


@dataclass(frozen=True, kw_only=True)
class TalkJob(Job):
    """Let an avatar speak without any footage."""

    kind: ClassVar[str] = "talk"
    inputs: ClassVar[tuple[str, ...]] = ("audio", "avatar")
    outputs: ClassVar[tuple[str, ...]] = ("output",)
    suffix: ClassVar[str] = ".mp4"
    audio: str
    """The speech: any file with a sound track."""
    avatar: str
    """A packaged avatar's name, or a folder."""
    output: str
    """The video to write."""
    fps: float = DEFAULT_FPS
    """Frames a second."""
    renderer: str = "auto"
    """``diffusion``, ``light``, or ``auto``: the better one that is fast here."""
    sampler: str | None = None
    """``ddpm``, ``ddim`` or ``dpm++``; None: the avatar's own."""
    steps: int | None = None
    """Steps of denoising; None: the avatar's own."""
    seed: int = 0
    keep_journal: bool = False
    """Whether finished work stays beside the output."""
    crf: int = DEFAULT_CRF
    lossless: bool = False
    marks: Marks = field(default_factory=Marks)
    """How the video says that it was generated."""
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    """What is refused as too large."""

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> TalkResult:
        """Carry it out; see :func:`difftalker.jobs.run`."""
        from difftalker.dubbing import previews
        from difftalker.dubbing.loaded import load

        previews.check_outputs(
            Path(self.output), lossless=self.lossless, inputs=(Path(self.audio),)
        )
        self.marks.warn(self.output)
        with limited(self.limits):
            avatar = load(self.avatar, device=pick_device(self.device))
            talk = avatar.talk(
                self.audio,
                fps=self.fps,
                renderer=self.renderer,
                sampler=self.sampler,
                steps=self.steps,
                seed=self.seed,
            )
            return talk.save(
                self.output,
                crf=self.crf,
                lossless=self.lossless,
                keep_journal=self.keep_journal,
                marks=self.marks,
                progress=reporting(on_event, cancel),
            )


@dataclass(frozen=True, kw_only=True)
class LandmarksResult:
    """What was written by a job of landmarks."""

    track: LandmarkTrack
    device: str
    seconds: float
    """From footage to finished files, loading of the avatar apart."""


@dataclass(frozen=True, kw_only=True)
class LandmarksJob(Job):
    """Write the landmarks that would drive the face."""

    kind: ClassVar[str] = "landmarks"
    inputs: ClassVar[tuple[str, ...]] = ("video", "audio", "avatar", "face")
    outputs: ClassVar[tuple[str, ...]] = ("output", "preview")
    suffix: ClassVar[str] = ".npz"
    video: str
    """Footage of the avatar's person."""
    audio: str
    """The new speech: any file with a sound track."""
    avatar: str
    """A packaged avatar's name, or a folder."""
    output: str
    """The landmarks to write, .npz or .json."""
    preview: str | None = None
    """A video to write too: the landmarks drawn over the footage."""
    face: str = "avatar"
    """Whom, of several people; see ``face.detect.people.Choice``."""
    any_face: bool = False
    """Whether the face may be one that is not the avatar's person."""
    edits: tuple[str, ...] = ()
    """Edits of the landmarks, such as ``mouth=1.3@1.0-2.5``."""
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    """What is refused as too large."""

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> LandmarksResult:
        """Carry it out; see :func:`difftalker.jobs.run`."""
        from difftalker.dubbing import previews
        from difftalker.dubbing.loaded import load

        edits = [Edit.parse(text) for text in self.edits]
        Choice.parse(self.face)
        video, audio, preview = Path(self.video), Path(self.audio), _path(self.preview)
        previews.check_track_outputs(Path(self.output), preview, inputs=(video, audio))
        progress = reporting(on_event, cancel)
        with limited(self.limits):
            avatar = load(self.avatar, device=pick_device(self.device))
            began = time.monotonic()
            probe_video(video).warn()
            track = avatar.landmarks(
                video, audio, face=self.face, any_face=self.any_face, progress=progress
            ).edited(edits)
            track.save(Path(self.output))
            if preview is not None:
                previews.save_preview(track, video, audio, preview, progress=progress)
        return LandmarksResult(track=track, device=avatar.device, seconds=time.monotonic() - began)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
