"""Face tracks: the faces of a video, one person chosen, covers marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difftalker.core.prefetch import prefetch
from difftalker.errors import FaceError
from difftalker.face.detect.cover import find_covered
from difftalker.face.detect.detector import FaceDetector
from difftalker.face.detect.people import (
    Choice,
    Likeness,
    Person,
    choose,
    find_people,
    read_picture,
)
from difftalker.face.detect.shots import ChangeMeter
from difftalker.face.detect.tracklets import Detection, Tracker, Tracklet
from difftalker.face.landmarks import POINTS
from difftalker.media.video import Frame

SMOOTHING_FRAMES = 0.5
"""Standard deviation of the Gaussian that takes the detector's jitter off, in frames."""

NOTHING, COVERED, OTHER = range(3)
"""Values of ``FaceTrack.why``: the reason why a frame is not driven."""


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """The landmarks of one face over a video."""

    times_s: NDArray[np.float64]
    """(frames,), seconds from the start of the video."""
    points_px: NDArray[np.float32]
    """(frames, 68, 2), pixels of the frame; not a number where no face was found."""
    cuts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Frames that begin a new shot, rising; the first frame of the video is none."""

    why: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    """(frames,): why a frame is not driven: ``NOTHING`` speaks against it, the face is ``COVERED``,
    or ``OTHER`` people are alone in it or too near. By default ``NOTHING`` everywhere."""
    people: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 6)))
    """(people, 6), in the order of ``Choice.number``: the number of frames that show the person,
    the first of them, and the median left, top, right and bottom of the face, pixels."""
    chosen: int = 0
    """The row of ``people`` that this track follows."""
    unlike: float = 0.0
    """Distance of the person's looks from those of the avatar's; 0 where they were not compared."""

    def __post_init__(self) -> None:
        if not len(self.why):
            object.__setattr__(self, "why", np.zeros(len(self), np.int8))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> FaceTrack:
        """Make a track from its fields, stored as arrays."""
        numbers = {"chosen": int(arrays["chosen"]), "unlike": float(arrays["unlike"])}
        return cls(**{**arrays, **numbers})

    @property
    def found(self) -> NDArray[np.bool_]:
        """(frames,): whether a face was found in the frame."""
        found: NDArray[np.bool_] = np.isfinite(self.points_px.min(axis=(1, 2)))
        return found

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(frames,): whether a face was found, uncovered and clear of others."""
        usable: NDArray[np.bool_] = self.found & (self.why == NOTHING)
        return usable

    def __len__(self) -> int:
        return len(self.times_s)

    def spans(self) -> list[slice]:
        """Runs of neighbouring frames with a face, within one shot."""
        edges = np.flatnonzero(np.diff(np.r_[False, self.found, False].astype(np.int8)))
        runs = []
        for start, stop in edges.reshape(-1, 2):
            inside = self.cuts[(self.cuts > start) & (self.cuts < stop)]
            places = [int(start), *map(int, inside), int(stop)]
            runs += [slice(a, b) for a, b in pairwise(places)]
        return runs

    def shots(self) -> list[slice]:
        """The frames from cut to cut; a shot without any face counts to the one before."""
        places = [0, *map(int, self.cuts), len(self)]
        shots: list[slice] = []
        for start, stop in pairwise(places):
            begun = shots and self.found[shots[-1]].any()
            if shots and not (begun and self.found[start:stop].any()):
                start = shots.pop().start
            shots.append(slice(start, stop))
        return shots

    def part(self, frames: slice) -> FaceTrack:
        """The track of some neighbouring frames of one shot."""
        return FaceTrack(
            times_s=self.times_s[frames], points_px=self.points_px[frames], why=self.why[frames]
        )

    def smoothed(self, sigma_frames: float = SMOOTHING_FRAMES) -> FaceTrack:
        """Smooth the points over time, without lag; gaps stay gaps."""
        points = self.points_px.copy()
        for span in self.spans():
            points[span] = smooth(points[span], sigma_frames)
        return replace(self, points_px=points)


def smooth(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Zero-phase Gaussian over the first axis, ends repeated; (frames, ...) -> the same."""
    from scipy.ndimage import gaussian_filter1d

    out: NDArray[np.float32] = gaussian_filter1d(values, sigma, axis=0, mode="nearest")
    return out


def track(
    frames: Iterable[Frame],
    *,
    source: str | Path = "the footage",
    face: Choice | None = None,
    likeness: Likeness | None = None,
) -> FaceTrack:
    """Track one person's face through the frames; only points, times and cuts are kept.

    ``face`` chooses among several people; by default the person of the avatar whose ``likeness`` is
    given, else the largest face.

    Raises:
        FaceError: no frame shows a face, or none that of the person chosen.
    """
    times: list[float] = []
    meter, tracker, width_px = ChangeMeter(), Tracker(), 0
    face = face or Choice()
    with FaceDetector() as detector:
        photo = None if face.picture is None else _look_of(face.picture, detector)
        # The next frame's faces are found while this one's are compared.
        with closing(prefetch(_seen(frames, meter, detector))) as all_seen:
            for frame, changed, found in all_seen:
                faces = [Detection(frame.image, points_px) for points_px in found]
                tracker.update(frame.time_s, faces, cut=changed)
                times.append(frame.time_s)
                width_px = frame.image.shape[1]
    times_s = np.array(times)
    nothing = np.full((len(times), POINTS, 2), np.nan, np.float32)
    people = find_people(tracker.tracklets, times_s, meter.cuts(nothing))
    if not people:
        raise FaceError(
            f"no face was found in {source} ({len(times)} frames)",
            wanted="at least one frame with a face that looks towards the camera",
            fix="choose other footage, or crop it so that the face fills a tenth of the height",
        )
    chosen = choose(people, face, width_px, photo, likeness)
    followed = _track_of(people, chosen, tracker.tracklets, times_s, meter).smoothed()
    unlike = 0.0 if likeness is None else likeness.distance(people[chosen])
    return replace(followed, unlike=unlike)


def _seen(
    frames: Iterable[Frame], meter: ChangeMeter, detector: FaceDetector
) -> Iterator[tuple[Frame, bool, list[NDArray[np.float32]]]]:
    """Each frame, whether much of the picture changed, and the points of each face."""
    for frame in frames:
        changed = meter.update(frame.image)
        yield frame, changed, detector.detect(frame, changed=changed)


def _look_of(picture: Path, detector: FaceDetector) -> NDArray[np.float32]:
    """The look of the largest face in a picture's file."""
    image = read_picture(picture)
    faces = [Detection(image, points) for points in detector.detect_all(Frame(image, 0, 0.0))]
    if not faces:
        raise FaceError(
            f"no face was found in the picture {picture}",
            wanted="a face that is turned to the camera",
            fix="take a picture out of the footage itself",
        )
    return max(faces, key=lambda face: face.width).look


def _track_of(
    people: Sequence[Person],
    chosen: int,
    tracklets: Sequence[Tracklet],
    times_s: NDArray[np.float64],
    meter: ChangeMeter,
) -> FaceTrack:
    """Make one person's track, with the reasons why other frames are not driven."""
    points_px = np.full((len(times_s), POINTS, 2), np.nan, np.float32)
    why = np.full(len(times_s), NOTHING, np.int8)
    own = people[chosen].tracklets
    for tracklet in tracklets:
        is_veil = any(tracklet.veils is each for each in own)
        why[tracklet.frames] = COVERED if is_veil else OTHER
    for tracklet in own:
        points_px[tracklet.frames] = tracklet.points_px
        why[tracklet.frames] = np.where(tracklet.crossed, OTHER, NOTHING)
    cuts = meter.cuts(points_px)
    order = np.argsort(np.concatenate([tracklet.frames for tracklet in own]))
    lower = np.concatenate([np.stack(tracklet.lower) for tracklet in own])[order]
    frames = people[chosen].frames
    shot = np.searchsorted(cuts, frames, side="right")
    why[frames[find_covered(lower, points_px[frames], times_s[frames], shot)]] = COVERED
    return FaceTrack(
        times_s=times_s,
        points_px=points_px,
        cuts=cuts,
        why=why,
        people=np.array([person.summary for person in people]),
        chosen=chosen,
    )
