"""Footage is looked at before it is learned from: each finding says what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from difftalker.data import checks
from difftalker.data.checks import findings
from difftalker.data.dataset import ClipData
from difftalker.training import api as recipe
from helpers import face_points, write_dataset

LONG = 550
"""Frames of a clip that is long enough to tell sound and picture apart."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("checks") / "data", ("a", "b"), frames=LONG)


def giving(speech: NDArray[np.float32]) -> Callable[[str, int], NDArray[np.float32]]:
    """A ``ClipData.features`` that knows of one kind and one voice."""

    def features(features: str, voice: int = 0) -> NDArray[np.float32]:
        return speech

    return features


def clips(folder: Path, *, later: int = 0) -> list[ClipData]:
    """The clips, speaking as unsteadily as people do; the sound comes so many frames later."""
    found = [ClipData(path) for path in sorted((folder / "clips").iterdir())]
    for seed, clip in enumerate(found):
        rng = np.random.default_rng(seed)
        loud = gaussian_filter1d(rng.normal(size=LONG), 2)
        loud = (loud - loud.min()) / np.ptp(loud)
        clip.points_crop = np.stack([face_points(0.08 * one) for one in loud])
        heard = np.interp(np.arange(2 * LONG) / 50, clip.times_s + later * 0.04, loud)
        speech = (heard[:, None] * rng.uniform(0.5, 1.5, 80)).astype(np.float32)
        clip.features = giving(speech)  # type: ignore[method-assign, assignment]
    return found


def test_short_footage_is_told_and_nothing_else_of_good_one(folder: Path) -> None:
    (line,) = findings(clips(folder), "mel")
    assert "the face for 44 seconds; wanted two minutes" in line


def test_nothing_is_told_of_long_footage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "WANTED_S", 40.0)
    assert findings(clips(folder), "mel") == []


@pytest.mark.parametrize(("frames", "said"), [(8, "after"), (-8, "before")])
def test_sound_that_is_out_of_sync_is_told(folder: Path, frames: int, said: str) -> None:
    lines = findings(clips(folder, later=frames), "mel")
    assert any(f"the sound comes 0.32 seconds {said} the lips" in line for line in lines)


def test_sound_of_something_else_is_told(folder: Path) -> None:
    found = clips(folder)
    for seed, clip in enumerate(found):
        noise = np.random.default_rng(seed).normal(size=(2 * LONG, 80)).astype(np.float32)
        clip.features = giving(noise)  # type: ignore[method-assign, assignment]
    assert any("does not predict when the mouth opens" in line for line in findings(found, "mel"))


def test_small_and_soft_faces_are_told(folder: Path) -> None:
    found = clips(folder)
    for clip in found:
        clip.side_px = 20.0
        clip.frames = np.stack([cv2.GaussianBlur(f, (0, 0), 6) for f in clip.frames])
    lines = " ".join(findings(found, "mel"))
    assert "20 pixels wide; wanted 32" in lines
    assert "grey levels of detail" in lines


def test_a_second_person_is_told(folder: Path) -> None:
    found = clips(folder)
    other = found[-1]
    # Another face: other proportions, other colours.
    other.points_crop = other.points_crop * (0.8, 1.2) + (0.1, -0.1)
    other.frames = np.asarray(other.frames)[..., ::-1].copy()
    lines = findings([found[0], found[0], other], "mel")
    assert any(f"1 of 3 clips ({other.name}) seem to show somebody else" in line for line in lines)


def test_training_tells_before_it_begins(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {f"training.{stage}.steps": "1" for stage in ("landmarks",)}
    with caplog.at_level(logging.WARNING):
        recipe.train(
            [folder], tmp_path / "me", preset="debug", stages=("landmarks",), settings=settings
        )
    assert "wanted two minutes or more" in caplog.text
