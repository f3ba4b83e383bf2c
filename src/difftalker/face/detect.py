"""Finding the face: MediaPipe FaceLandmarker, tracked over a video, gaps marked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difftalker import assets
from difftalker.errors import FaceError
from difftalker.face.landmarks import POINTS, from_mediapipe
from difftalker.face.shots import ChangeMeter
from difftalker.media.video import Frame

logger = logging.getLogger(__name__)

SMOOTHING_FRAMES = 0.5
"""Standard deviation of the Gaussian that takes the detector's jitter off, in frames."""


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """The landmarks of one face over a video."""

    times_s: NDArray[np.float64]
    """(frames,), seconds from the start of the video."""
    points_px: NDArray[np.float32]
    """(frames, 68, 2), pixels of the frame; not a number where no face was found."""
    cuts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Frames that begin a new shot, rising; the first frame of the video is none."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """(frames,): whether a face was found in the frame."""
        found: NDArray[np.bool_] = np.isfinite(self.points_px.min(axis=(1, 2)))
        return found

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
        return FaceTrack(times_s=self.times_s[frames], points_px=self.points_px[frames])

    def smoothed(self, sigma_frames: float = SMOOTHING_FRAMES) -> FaceTrack:
        """The same track without jitter, without lag; gaps stay gaps."""
        points = self.points_px.copy()
        for span in self.spans():
            points[span] = smooth(points[span], sigma_frames)
        return replace(self, points_px=points)


def smooth(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Zero-phase Gaussian over the first axis, ends repeated; (frames, ...) -> the same."""
    from scipy.ndimage import gaussian_filter1d

    out: NDArray[np.float32] = gaussian_filter1d(values, sigma, axis=0, mode="nearest")
    return out


@contextmanager
def _landmarker() -> Iterator[Any]:
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(assets.path("face_landmarker"))),
        running_mode=vision.RunningMode.VIDEO,
        num_faces=1,
    )

    def detect_one(image: NDArray[np.uint8], time_ms: int) -> Any:
        with _native_silence():
            return landmarker.detect_for_video(
                mp.Image(image_format=mp.ImageFormat.SRGB, data=image), time_ms
            )

    with _native_silence():
        landmarker = vision.FaceLandmarker.create_from_options(options)
    with landmarker:
        yield detect_one


@contextmanager
def _native_silence() -> Iterator[None]:
    """MediaPipe's own notes go nowhere, unless details are asked for.

    Its loggers heed no environment variable (``GLOG_minloglevel``, ``TF_CPP_MIN_LOG_LEVEL`` and
    ``GOOGLE_STDERRTHRESHOLD`` change nothing in 1.2), so the descriptor they write to is turned
    away while its code runs. Failures come back as exceptions all the same.
    """
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def detect(frames: Iterable[Frame]) -> Iterator[NDArray[np.float32]]:
    """The points of each frame, (68, 2) in pixels; not a number where there is no face."""
    with _landmarker() as detect_one:
        last_ms = -1
        for frame in frames:
            # MediaPipe wants rising whole milliseconds.
            last_ms = max(last_ms + 1, round(frame.time_s * 1000))
            yield _points_px(detect_one(np.ascontiguousarray(frame.image), last_ms), frame.image)


def _points_px(result: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    if not result.face_landmarks:
        return np.full((POINTS, 2), np.nan, np.float32)
    mesh = np.array([(p.x, p.y) for p in result.face_landmarks[0]], np.float32)
    height, width = image.shape[:2]
    return (from_mediapipe(mesh) * (width, height)).astype(np.float32)


def track(frames: Iterable[Frame], *, source: str | Path = "the footage") -> FaceTrack:
    """Follow the face through the frames; only points, times and cuts are kept.

    Raises:
        FaceError: no frame shows a face.
    """
    times: list[float] = []
    meter = ChangeMeter()

    def timed() -> Iterator[Frame]:
        for frame in frames:
            times.append(frame.time_s)
            meter.see(frame.image)
            yield frame

    points = list(detect(timed()))
    if not any(np.isfinite(p[0, 0]) for p in points):
        raise FaceError(
            f"no face was found in {source} ({len(points)} frames)",
            wanted="at least one frame with a face that looks towards the camera",
            fix="choose other footage, or crop it so that the face fills a tenth of the height",
        )
    points_px = np.stack(points)
    cuts = meter.cuts(points_px)
    return FaceTrack(times_s=np.array(times), points_px=points_px, cuts=cuts).smoothed()
