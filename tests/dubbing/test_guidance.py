"""Dubbing by other guidance and with another mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.networks import build
from difftalker.errors import UsageError
from difftalker.face.crop import frame_face
from difftalker.face.landmarks import MOUTH
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import read_frames
from helpers import face_points
from helpers_networks import DEBUG
from synthetic import located, pictures, still_track, write_footage, write_tone


def guided_by(guidance: str) -> Avatar:
    """An avatar that uses audio, in which everything matters."""
    synthesis = dataclasses.replace(DEBUG.synthesis, guidance=guidance)
    model = dataclasses.replace(DEBUG, synthesis=synthesis)
    torch.manual_seed(0)
    networks = build(model)
    with torch.no_grad():
        for parameter in networks.synthesis.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return Avatar("listener", model, networks)


@pytest.fixture(scope="module")
def listener() -> Avatar:
    """An avatar without landmarks."""
    return guided_by("audio")


def images_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([frame.image for frame in read_frames(path)])


def test_without_landmarks_speech_makes_the_mouth(listener: Avatar, tmp_path: Path) -> None:
    track = still_track(20)
    video = write_footage(tmp_path / "a.mkv", pictures(20), lossless=True)
    where, made = located(video, track), []
    for pitch in (220.0, 1760.0):
        sound = write_tone(tmp_path / f"{pitch}.wav", 1, pitch)
        output = tmp_path / f"{pitch}.mkv"
        listener.dub(video, sound, located=where).save(output, lossless=True, marks=UNMARKED)
        made.append(images_of(output))
    assert not np.array_equal(made[0], made[1])
    # A journal from before the kill gives the same video.
    job = listener.dub(video, tmp_path / "220.0.wav", located=where)
    job.save(tmp_path / "b.mkv", lossless=True, keep_journal=True)
    job.save(tmp_path / "b.mkv", lossless=True, marks=UNMARKED)
    assert np.array_equal(images_of(tmp_path / "b.mkv"), made[0])


def test_without_landmarks_there_are_none_to_render(listener: Avatar, tmp_path: Path) -> None:
    points = np.stack([face_points()] * 3)
    with pytest.raises(UsageError, match="listener, which renders from speech alone"):
        listener.dub(tmp_path / "a.mp4", tmp_path / "a.wav", landmarks=points)
    with pytest.raises(UsageError, match="no speech for an avatar that renders from speech alone"):
        listener.renderer().render(
            np.zeros((3, 64, 64, 3), np.uint8),
            np.tile(np.array([32, 64, 16, 48], np.int32), (3, 1)),
            points,
        )


def test_beside_landmarks_speech_makes_the_mouth_too(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mkv", pictures(20), lossless=True)
    both, where = guided_by("both"), located(video, still_track(20))
    points, made = np.stack([face_points()] * 20), []
    for name, pitch, shift in (("x", 220.0, 0.0), ("y", 1760.0, 0.0), ("z", 220.0, 0.05)):
        sound = write_tone(tmp_path / f"{pitch}.wav", 1, pitch)
        moved = points.copy()
        moved[:, list(MOUTH), 1] += shift
        job = both.dub(video, sound, located=where, landmarks=moved)
        job.save(tmp_path / f"{name}.mkv", lossless=True, marks=UNMARKED)
        made.append(images_of(tmp_path / f"{name}.mkv"))
    for other in made[1:]:
        assert not np.array_equal(other, made[0])


def test_a_mouth_mask_leaves_the_jaw_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dataclasses.replace(DEBUG, mask="mouth")
    avatar = Avatar("mouth", model, build(model))
    video = write_footage(tmp_path / "a.mkv", pictures(10), lossless=True)
    sound = write_tone(tmp_path / "a.wav", 1)
    # The face may be located without the avatar's mask.
    where = located(video, still_track(10))
    result = avatar.dub(video, sound, located=where).save(
        tmp_path / "b.mkv", lossless=True, marks=UNMARKED
    )
    boxes = frame_face(where.track, 64, "mouth").boxes
    assert np.array_equal(result.located.framing.boxes, boxes)
    changed = (images_of(tmp_path / "b.mkv") != images_of(video)).any(-1)
    crop = where.framing.crop
    edges = boxes.astype(np.float32) / np.float32(64)
    low, high = (crop.to_px(edges[:, [corner]])[:, 0] for corner in ([2, 0], [3, 1]))
    assert changed.any()
    for frame, (x0, y0), (x1, y1) in zip(changed, low, high, strict=True):
        rows, columns = np.nonzero(frame)
        assert (y0 - 0.5 <= rows).all()
        assert (rows + 0.5 <= y1).all()
        assert (x0 - 0.5 <= columns).all()
        assert (columns + 0.5 <= x1).all()
