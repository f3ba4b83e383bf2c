"""Footage, tracks and an avatar made on the spot, so that dubbing is tested without a detector."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import wave
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import config
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.networks import build
from difftalker.face.crop import frame_face
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import BROWS, EYES, JAW, MOUTH, NOSE
from difftalker.media.video import Image, VideoWriter, probe_video
from difftalker.synthesis.renderer import DiffusionRenderer

SIDE_PX = 96
RATE_HZ = 16_000


def face_points(
    centre: tuple[float, float] = (48, 50), width_px: float = 40, turn: float = 0
) -> NDArray[np.float32]:
    """A face (68, 2), pixels: an ellipse for a jaw, the rest on rows; ``turn`` shifts the nose."""
    points = np.zeros((68, 2))
    angle = np.linspace(0, np.pi, len(JAW))
    points[list(JAW)] = np.stack([-np.cos(angle) / 2, 0.75 * np.sin(angle)], 1)
    points[list(BROWS)] = np.stack([np.linspace(-0.4, 0.4, 10), np.full(10, -0.2)], 1)
    points[list(NOSE)] = np.stack(
        [
            np.r_[np.zeros(4), np.linspace(-0.1, 0.1, 5)],
            np.r_[np.linspace(-0.1, 0.2, 4), [0.25] * 5],
        ],
        1,
    )
    points[list(EYES)] = np.stack([np.linspace(-0.3, 0.3, 12), np.full(12, -0.05)], 1)
    points[list(MOUTH)] = np.stack([np.linspace(-0.15, 0.15, 20), np.full(20, 0.45)], 1)
    points[list(NOSE), 0] += turn * 0.5
    placed: NDArray[np.float32] = (points * width_px + centre).astype(np.float32)
    return placed


def still_track(frames: int, fps: float = 25) -> FaceTrack:
    """A face that sways by a pixel or two."""
    sway = 2 * np.sin(np.arange(frames) / 7)
    points = np.stack([face_points((48 + float(x), 50)) for x in sway])
    return FaceTrack(times_s=np.arange(frames) / fps, points_px=points)


def without(track: FaceTrack, gaps: Sequence[slice]) -> FaceTrack:
    """The track with frames in which no face was found."""
    points = track.points_px.copy()
    for gap in gaps:
        points[gap] = np.nan
    return FaceTrack(times_s=track.times_s, points_px=points, cuts=track.cuts)


def pictures(frames: int, seed: int = 0) -> list[Image]:
    """A smooth texture that moves slowly."""
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (140, 400, 3), np.uint8), (0, 0), 3)
    wide = np.asarray((wide - wide.min()) * (255 / float(np.ptp(wide))), np.uint8)
    return [np.ascontiguousarray(wide[:SIDE_PX, i : i + SIDE_PX]) for i in np.arange(frames) % 300]


def write_footage(
    path: Path,
    images: Sequence[Image],
    *,
    audio: Path | None = None,
    lossless: bool = False,
    step_ms: int = 40,
) -> Path:
    """The pictures at 25 frames a second, or one every ``step_ms``."""
    height, width = images[0].shape[:2]
    with VideoWriter(
        path,
        width=width,
        height=height,
        fps=Fraction(1000, step_ms),
        time_base=Fraction(1, 1000),
        audio=audio,
        lossless=lossless,
    ) as writer:
        for i, image in enumerate(images):
            writer.write(image, step_ms * i)
    return path


def write_tone(path: Path, seconds: float, pitch_hz: float = 440) -> Path:
    """A sound file."""
    samples = 8000 * np.sin(2 * np.pi * pitch_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def write_half_tone(path: Path, seconds: float, pitch_hz: float) -> Path:
    """A tone in the first half, then silence."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = 8000 * np.sin(2 * np.pi * pitch_hz * times) * (times < times[-1] / 2)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def swaying(frames: int, step_px: float, faceless: int | None = None) -> list[Image]:
    """A photograph of a face (NASA's, public domain) that moves sideways, 256 x 256."""
    from skimage import data

    photo = data.astronaut()  # type: ignore[no-untyped-call]
    images = []
    for i in range(frames):
        moved = np.array([[1, 0, step_px * i - 96], [0, 1, 0]], np.float64)
        images.append(np.asarray(cv2.warpAffine(photo, moved, (256, 256)), np.uint8))
        if i == faceless:
            images[-1] = np.full((256, 256, 3), 90, np.uint8)
    return images


def debug_avatar(guidance: str = "landmarks") -> Avatar:
    """Untrained networks of the smallest size, the same every time."""
    torch.manual_seed(0)
    model = config.debug().model
    model = replace(model, synthesis=replace(model.synthesis, guidance=guidance))
    return Avatar("nobody", model, build(model))


def located(video: Path, track: FaceTrack) -> TrackedFootage:
    """Footage with a track made by hand."""
    return TrackedFootage(
        video=video, info=probe_video(video), track=track, framing=frame_face(track, 64)
    )


def dub_to_end(
    video: Path, audio: Path, output: Path, frames: int, killed_at: tuple[int, float] | None = None
) -> None:
    """A whole dubbing for a process of its own.

    ``killed_at`` kills the process so many seconds after so many reports of progress.
    """
    torch.set_num_threads(1)
    reports = itertools.count()

    def progress(stage: str, done: int, total: int) -> None:
        if killed_at is not None and next(reports) == killed_at[0]:
            threading.Timer(killed_at[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

    job = debug_avatar().dub(video, audio, located=located(video, still_track(frames)))
    job.save(output, progress=progress)


def count_rendered(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """How many frames each call of the renderer had, single whole faces apart.

    After ``stop_after`` calls the next one is stopped by Ctrl-C.
    """
    calls: list[int] = []
    render = DiffusionRenderer.render

    def counted(
        self: DiffusionRenderer,
        crops: NDArray[np.uint8],
        boxes: NDArray[np.int32],
        *rest: Any,
        **named: Any,
    ) -> NDArray[np.uint8]:
        is_whole = len(crops) == 1 and np.ptp(boxes) == self.size_px
        if not is_whole:
            if len(calls) == stop_after:
                raise KeyboardInterrupt
            calls.append(len(crops))
        return render(self, crops, boxes, *rest, **named)

    monkeypatch.setattr(DiffusionRenderer, "render", counted)
    return calls
