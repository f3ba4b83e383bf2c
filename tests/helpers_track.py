"""What the tests of landmark tracks share: footage, an avatar and a track made by hand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import config
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.networks import build
from difftalker.errors import TrackError
from difftalker.face.crop import frame_face
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import BROWS, JAW, NOSE
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.video import VideoWriter, probe_video, read_frames
from media.made import gradient, tone, write_sound

FRAMES = 12
FACELESS = 5
FPS = 25


def face() -> NDArray[np.float32]:
    """A face in crop units, (68, 2): symmetrical, its mouth open by 0.04."""
    points = np.zeros((68, 2))
    turn = np.linspace(np.pi, 0, 17)
    points[list(JAW)] = np.stack([0.5 + 0.3 * np.cos(turn), 0.5 + 0.35 * np.sin(turn)], 1)
    points[list(BROWS)] = np.stack([np.linspace(0.28, 0.72, 10), np.full(10, 0.3)], 1)
    points[list(NOSE[:4])] = np.stack([np.full(4, 0.5), np.linspace(0.35, 0.5, 4)], 1)
    points[list(NOSE[4:])] = np.stack([np.linspace(0.44, 0.56, 5), np.full(5, 0.54)], 1)
    for first, middle in ((36, 0.37), (42, 0.63)):
        turn = np.linspace(-np.pi, np.pi, 6, endpoint=False)
        points[first : first + 6] = np.stack([np.cos(turn), 0.4 * np.sin(turn)], 1) * 0.05
        points[first : first + 6] += (middle, 0.37)
    points[48:55] = np.stack([LIPS_X, (0.66, 0.64, 0.63, 0.63, 0.63, 0.64, 0.66)], 1)
    points[55:60] = np.stack([LIPS_X[-2:0:-1], (0.68, 0.69, 0.69, 0.69, 0.68)], 1)
    points[60:65] = np.stack([LIPS_X[1:-1], (0.66, 0.64, 0.64, 0.64, 0.66)], 1)
    points[65:68] = [(0.54, 0.68), (0.5, 0.68), (0.46, 0.68)]
    return points.astype(np.float32)


LIPS_X = (0.4, 0.43, 0.46, 0.5, 0.54, 0.57, 0.6)
FACE = face()


def times(frames: int = FRAMES) -> NDArray[np.float64]:
    return np.arange(frames) / FPS


def still(frames: int = FRAMES) -> NDArray[np.float32]:
    """The face (frames, 68, 2) without any motion."""
    return np.repeat(FACE[None], frames, 0)


def write_footage(path: Path) -> Path:
    """Colours of 96 x 80 pixels: the face is where a hand-made track says."""
    with VideoWriter(
        path, width=96, height=80, fps=FPS, time_base=Fraction(1, FPS), lossless=True
    ) as writer:
        for i in range(FRAMES):
            writer.write(gradient(96, 80, blue=10 * i), i)
    return path


def write_speech(path: Path) -> Path:
    """A tone as long as the footage."""
    return write_sound(path, tone(16_000, FRAMES / FPS), 16_000)


def debug_avatar() -> Avatar:
    """An untrained avatar of the smallest preset, whose landmarks change the frames."""
    torch.manual_seed(0)
    model = config.debug().model
    networks = build(model)
    audio = torch.zeros(1, model.completion.window, model.completion.feature_dim)
    networks.completion.fit([(torch.from_numpy(FACE[None]), audio)])
    for weight in networks.synthesis.parameters():  # the branch begins at zero: no effect
        torch.nn.init.normal_(weight, std=0.2)
    return Avatar("nobody", model, networks)


def track_by_hand(footage: Path) -> TrackedFootage:
    """The footage with its face, which moves to the lower right; one frame shows none."""
    points_px = still() * 60 + np.arange(FRAMES)[:, None, None] * 0.5 + (10, 5)
    points_px[FACELESS] = np.nan
    found = FaceTrack(times_s=times(), points_px=points_px.astype(np.float32))
    info = probe_video(footage)
    return TrackedFootage(video=footage, info=info, track=found, framing=frame_face(found, 64))


def track_of(avatar: Avatar, located: TrackedFootage, speech: Path) -> LandmarkTrack:
    """A track as the command makes it, but for the search for the face."""
    return located.as_track(avatar.complete(located, speech), avatar.config.size_px, avatar.name)


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """Footage and speech in a folder, an avatar, and where the face is in the footage."""

    folder: Path
    footage: Path
    speech: Path
    avatar: Avatar
    located: TrackedFootage

    @classmethod
    def within(cls, folder: Path) -> ByHand:
        footage = write_footage(folder / "footage.mkv")
        return cls(
            folder=folder,
            footage=footage,
            speech=write_speech(folder / "speech.wav"),
            avatar=debug_avatar(),
            located=track_by_hand(footage),
        )

    def track(self) -> LandmarkTrack:
        return track_of(self.avatar, self.located, self.speech)


def same(a: LandmarkTrack, b: LandmarkTrack) -> bool:
    pairs = [(getattr(a, one.name), getattr(b, one.name)) for one in fields(a)]
    return all(
        np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype for x, y in pairs
    )


def refused(path: Path) -> str:
    """Loading ends in our own error, of one line that names the file."""
    with pytest.raises(TrackError) as caught:
        LandmarkTrack.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    assert caught.value.fix
    return text


def pictures(path: Path) -> NDArray[np.uint8]:
    return np.stack([frame.image for frame in read_frames(path)])
