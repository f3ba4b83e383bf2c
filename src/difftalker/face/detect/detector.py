"""MediaPipe's FaceLandmarker over the frames of a video, whichever way up they are."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from difftalker.face.landmarks import from_mediapipe, roll_deg
from difftalker.media.video import Frame
from difftalker.store import assets

logger = logging.getLogger(__name__)

MAX_FACES = 6
"""Most faces that are tracked in one frame."""
SCAN_S = 0.4
"""Interval at which the whole picture is searched while one face is tracked, seconds."""
ALONE_S = 1.0
"""Time without a second face after which one face counts as alone, seconds."""
DETECTED, PRESENT = 0.8, 0.95
"""Confidences of a sure face. MediaPipe's own, 0.5 each, find upright faces in faces that are
upside down. All of 272 pictures of 34 clips of the GRID corpus have a sure face; of the same turned
by 180 degrees 2 have one."""
TURNS = (0, 2, 1, 3)
"""Right angles by which a picture is turned anticlockwise, in the order in which they are tried."""
UPRIGHT_DEG = 60.0
"""Largest roll of a face that shows which way up a picture is."""
SURE_SEARCHES = 3
"""So many searches in a row with a sure face settle which way up the pictures are."""


@contextmanager
def _landmarker(faces: int, *, tracks: bool = False, sure: bool = False) -> Iterator[Any]:
    """Give a function that detects up to ``faces`` faces of a frame, (68, 2) pixels each.

    One that ``tracks`` follows its face and smooths it over time. Others detect faces in every
    frame anew, as MediaPipe does with several in its video mode as well. ``sure`` ones give only
    what is a face for sure.
    """
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    mode = vision.RunningMode.VIDEO if tracks else vision.RunningMode.IMAGE
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(assets.path("face_landmarker"))),
        running_mode=mode,
        num_faces=faces,
        min_face_detection_confidence=DETECTED if sure else 0.5,
        min_face_presence_confidence=PRESENT if sure else 0.5,
    )
    last_ms = -1

    def find(frame: Frame) -> list[NDArray[np.float32]]:
        nonlocal last_ms
        # MediaPipe wants rising whole milliseconds.
        last_ms = max(last_ms + 1, round(frame.time_s * 1000))
        data = np.ascontiguousarray(frame.image)
        with _native_silence():
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=data)
            if tracks:
                result = landmarker.detect_for_video(image, last_ms)
            else:
                result = landmarker.detect(image)
        return _points_px(result, frame.image)

    with _native_silence():
        landmarker = vision.FaceLandmarker.create_from_options(options)
    with landmarker:
        yield find


class _Silence:
    """The process's standard error, turned away while any thread is within."""

    def __init__(self) -> None:
        self._lock, self._within, self._kept = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                os.dup2(self._kept, 2)
                os.close(self._kept)


_SILENCE = _Silence()


def _native_silence() -> AbstractContextManager[None]:
    """MediaPipe's own notes go nowhere, unless details are asked for.

    Its loggers heed no environment variable (``GLOG_minloglevel``, ``TF_CPP_MIN_LOG_LEVEL`` and
    ``GOOGLE_STDERRTHRESHOLD`` change nothing in 1.2), so the descriptor they write to is turned
    away while its code runs. Failures come back as exceptions all the same.
    """
    return nullcontext() if logger.isEnabledFor(logging.DEBUG) else _SILENCE


class FaceDetector:
    """Detects the faces of each frame; use it as a context manager.

    While there is one face, it is tracked, and every ``SCAN_S`` the whole picture is searched for
    others, at the same time. Once there are more, all are detected in every frame, until one has
    been alone for ``ALONE_S``. Where only the picture turned by right angles has a sure upright
    face, faces are detected in that, and their points turned back.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._beside = self._open.enter_context(ThreadPoolExecutor(1, "search"))
        self._many = self._open.enter_context(_landmarker(MAX_FACES))
        self._sure = self._open.enter_context(_landmarker(1, sure=True))
        self._one: Any = None
        self._one_open = ExitStack()
        self._searched_s = self._several_s = self._turn_checked_s = -np.inf
        self._quarters = self._sure_searches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._one_open.close()
        self._open.close()

    def detect(self, frame: Frame, *, changed: bool = False) -> list[NDArray[np.float32]]:
        """Detect the points (68, 2), pixels, of each face in the next frame.

        ``changed`` says that much of the picture changed, so that it is searched anew.
        """
        self._check_turn(frame, changed)
        turned = _turned(frame, self._quarters)
        faces = self._upright(turned, changed)
        if not faces:
            self._sure_searches = 0
        return [_turned_back(points, self._quarters, turned) for points in faces]

    def _check_turn(self, frame: Frame, changed: bool) -> None:
        """Decide how the picture is turned before faces are detected in it.

        A sure upright face in the one used so far decides for it, even if another has one as well.
        """
        if changed:
            self._sure_searches = 0
        is_due = changed or frame.time_s - self._turn_checked_s >= SCAN_S
        if not is_due or self._sure_searches >= SURE_SEARCHES:
            return
        self._turn_checked_s = frame.time_s
        used = self._quarters
        ways = (used, *(each for each in TURNS if each != used))
        sure = next((each for each in ways if self._is_upright(_turned(frame, each))), None)
        self._sure_searches = 0 if sure is None else self._sure_searches + 1
        if sure not in (used, None):
            self._quarters, self._sure_searches = sure, 1
            self._stop_following()

    def _is_upright(self, frame: Frame) -> bool:
        return any(abs(roll_deg(points)) < UPRIGHT_DEG for points in self._sure(frame))

    def _upright(self, frame: Frame, changed: bool) -> list[NDArray[np.float32]]:
        """Detect the faces of the next frame, which is the right way up."""
        if frame.time_s - self._several_s < ALONE_S:
            return self._search(frame)
        is_due = changed or frame.time_s - self._searched_s >= SCAN_S
        searched = self._beside.submit(self._search, frame) if is_due else None
        one = self._follow(frame)
        if searched and len(several := searched.result()) > 1:
            self._stop_following()
            return several
        return one

    def _follow(self, frame: Frame) -> list[NDArray[np.float32]]:
        if self._one is None:
            self._one = self._one_open.enter_context(_landmarker(1, tracks=True))
        return list(self._one(frame))

    def _stop_following(self) -> None:
        self._one_open.close()
        self._one = None

    def detect_all(self, frame: Frame) -> list[NDArray[np.float32]]:
        """Detect the points (68, 2), pixels, of each face in a single picture."""
        return list(self._many(frame))

    def _search(self, frame: Frame) -> list[NDArray[np.float32]]:
        found = self.detect_all(frame)
        self._searched_s = frame.time_s
        if len(found) > 1:
            self._several_s = frame.time_s
        return found


def _turned(frame: Frame, quarters: int) -> Frame:
    """The frame turned anticlockwise by so many right angles."""
    return replace(frame, image=np.rot90(frame.image, quarters)) if quarters else frame


def _turned_back(points: NDArray[np.float32], quarters: int, turned: Frame) -> NDArray[np.float32]:
    """Points (68, 2), pixels of a turned frame, in pixels of the frame as it was."""
    height, width = turned.image.shape[:2]
    for _ in range(quarters):
        points = np.stack([height - points[:, 1], points[:, 0]], axis=1)
        height, width = width, height
    return points


def _points_px(result: Any, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    height, width = image.shape[:2]
    meshes = [np.array([(p.x, p.y) for p in face], np.float32) for face in result.face_landmarks]
    return [(from_mediapipe(mesh) * (width, height)).astype(np.float32) for mesh in meshes]
