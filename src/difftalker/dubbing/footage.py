"""Footage, and where its face is: tracked frame by frame, cropped, and split into spans.

Only small things are kept: points, crops and mask boxes. The pictures stay in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.config import ModelConfig
from difftalker.core.hashing import sha256_of
from difftalker.core.jobs import Progress, no_progress
from difftalker.core.text import printable
from difftalker.errors import FaceError, TrackError
from difftalker.face.crop import CropTrack, Framing, frame_face
from difftalker.face.detect.people import SAME_AS_AVATAR, Choice, Likeness
from difftalker.face.detect.track import FaceTrack, track
from difftalker.face.spans import Span, find_spans, strengths
from difftalker.landmarks.track_fields import MAX_TEXT
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.timeline import Timeline
from difftalker.media.video import Frame, VideoInfo, probe_video, read_frames


@dataclass(frozen=True, kw_only=True)
class TrackedFootage:
    """Footage and where its face is."""

    video: Path
    info: VideoInfo
    track: FaceTrack
    framing: Framing

    def __len__(self) -> int:
        return len(self.track)

    def points_px(self, points_crop: NDArray[np.float32]) -> NDArray[np.float32]:
        """(frames, 68, 2) crop units -> pixels of the frame."""
        return self.framing.crop.to_px(points_crop)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Which frames get a new mouth, and why the others do not."""
        return find_spans(self.track)

    @cached_property
    def strength(self) -> NDArray[np.float32]:
        """(frames,): how much of the new mouth each frame shows; 0 where it keeps its own."""
        return strengths(self.spans, self.track.times_s)

    def as_track(
        self, points_crop: NDArray[np.float32], size_px: int, avatar: str
    ) -> LandmarkTrack:
        """Completed points (frames, 68, 2), crop units, as a track to save or to edit.

        ``avatar`` is the name of the avatar that they were made for, ``size_px`` its crop's side.
        """
        return LandmarkTrack(
            times_s=self.track.times_s,
            points_crop=points_crop,
            found=self.track.usable,
            cut=np.isin(np.arange(len(self)), self.track.cuts),
            centre_px=self.framing.crop.centre_px,
            side_px=self.framing.crop.side_px,
            boxes=self.framing.boxes,
            size_px=size_px,
            frame_px=(self.info.width, self.info.height),
            video=printable(self.video.name)[:MAX_TEXT],
            video_sha256=sha256_of(self.video),
            avatar=avatar,
        )

    def framed(self, config: ModelConfig) -> TrackedFootage:
        """The same with crop and mask boxes as an avatar's networks want them."""
        return replace(self, framing=frame_face(self.track, config.size_px, config.mask))

    def shown(self, timeline: Timeline, config: ModelConfig) -> TrackedFootage:
        """The same for the frames of a timeline, crop and mask steadied over those."""
        return self if timeline.is_footage else self.played(timeline).framed(config)

    def played(self, timeline: Timeline) -> TrackedFootage:
        """The same for the frames of a timeline: each is framed as in the footage."""
        if timeline.is_footage:
            return self
        source, framing = timeline.source, self.framing
        track = replace(
            self.track,
            times_s=timeline.times_s,
            points_px=self.track.points_px[source],
            cuts=timeline.cuts(self.track.cuts),
            why=self.track.why[source],
        )
        crop = CropTrack(
            centre_px=framing.crop.centre_px[source], side_px=framing.crop.side_px[source]
        )
        framing = Framing(
            crop=crop,
            points_crop=framing.points_crop[source],
            found=framing.found[source],
            boxes=framing.boxes[source],
        )
        return replace(self, track=track, framing=framing)


def locate(
    video: Path,
    size_px: int,
    progress: Progress = no_progress,
    face: Choice | None = None,
    *,
    mask: str = "jaw",
    likeness: Likeness | None = None,
) -> TrackedFootage:
    """Find and follow the chosen face; one pass over the footage that keeps points alone.

    ``size_px`` and ``mask`` are those of the avatar (:class:`difftalker.config.ModelConfig`), and
    ``likeness`` says what its person looks like.

    Raises:
        MediaError: the footage cannot be read.
        FaceError: it shows no face, or none of whom ``face`` means.
    """
    info = probe_video(video)
    total = info.frames_estimate or 0

    def counted() -> Iterator[Frame]:
        for done, frame in enumerate(read_frames(video), 1):
            yield frame
            progress("locate", done, max(total, done))

    found = track(counted(), source=video, face=face, likeness=likeness)
    framing = frame_face(found, size_px, mask)
    return TrackedFootage(video=video, info=info, track=found, framing=framing)


def tracked_before(video: Path, track: FaceTrack, size_px: int, mask: str) -> TrackedFootage:
    """Footage whose face was found earlier, framed as :func:`locate` does.

    Raises:
        MediaError: the footage cannot be read.
    """
    framing = frame_face(track, size_px, mask)
    return TrackedFootage(video=video, info=probe_video(video), track=track, framing=framing)


def check_person(footage: TrackedFootage, avatar: str) -> None:
    """Refuse footage whose chosen person does not look like that of an avatar.

    Footage in which no frame is to get a new mouth passes: there is nobody to be taken for another.

    Raises:
        FaceError: the person is somebody else.
    """
    track = footage.track
    if track.unlike <= SAME_AS_AVATAR or not (footage.strength > 0).any():
        return
    raise FaceError(
        f"{footage.video} does not show the person of the avatar {avatar}"
        f" (distance of looks {track.unlike:.2f})",
        wanted=f"footage of that person ({SAME_AS_AVATAR} at most)",
        fix="learn the person with `difftalker train`, or give the face this avatar's mouth all the"
        " same with --any-face",
    )


def check_pair(track: LandmarkTrack, video: Path) -> VideoInfo:
    """What the footage of a track is.

    Raises:
        TrackError: the track belongs to other footage.
        MediaError: the footage cannot be read.
    """
    info = probe_video(video)
    if (info.width, info.height) != track.frame_px or sha256_of(video) != track.video_sha256:
        raise TrackError(
            f"the landmarks belong to other footage than {video}",
            wanted=f"the very file {track.video} that they were made of",
            fix="choose that file, or make the landmarks anew with `difftalker landmarks`",
        )
    return info


def located_by(landmarks: LandmarkTrack, video: Path, size_px: int) -> TrackedFootage:
    """Footage and where its face is, as its track of landmarks says: nothing is searched for.

    Raises:
        TrackError: the track belongs to other footage, or to an avatar of another size.
    """
    if landmarks.size_px != size_px:
        raise TrackError(
            f"the landmarks are for an avatar of {landmarks.size_px} pixels",
            wanted=f"{size_px} pixels",
            fix="make them anew with `difftalker landmarks` and this avatar",
        )
    points_px = np.where(landmarks.found[:, None, None], landmarks.points_px, np.nan)
    return TrackedFootage(
        video=video,
        info=check_pair(landmarks, video),
        track=FaceTrack(
            times_s=landmarks.times_s,
            points_px=points_px.astype(np.float32),
            cuts=np.flatnonzero(landmarks.cut),
        ),
        framing=Framing(
            crop=landmarks.crop,
            points_crop=landmarks.points_crop,
            found=landmarks.found,
            boxes=landmarks.boxes,
        ),
    )
