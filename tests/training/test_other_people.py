"""Lips of other people, on the face that is learned."""

from __future__ import annotations

import shutil
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from difftalker import config as configs
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.face.lips import open_mouth, relative_opening
from difftalker.training.options import TrainOptions
from difftalker.training.other_people import mean_face, moved, spread
from difftalker.training.run import Run
from helpers import write_dataset


@pytest.fixture(scope="module")
def clips(dataset: Path) -> list[ClipData]:
    return load_dataset(dataset, validation_clips=0).train


def stranger(clip: ClipData) -> ClipData:
    """Somebody with a wider face, whose lips open half as far."""
    other = copy(clip)
    points = open_mouth(clip.points_crop, 0.5) * np.array([1.2, 1.0]) + np.array([0.1, 0.0])
    other.points_crop = points.astype(np.float32)
    return other


def test_other_people_get_the_face_and_keep_what_their_lips_do(clips: list[ClipData]) -> None:
    others = [stranger(clip) for clip in clips]
    found = moved(others, clips)
    assert np.allclose(mean_face(found), mean_face(clips), atol=1e-5)
    assert spread(found) == pytest.approx(spread(clips), rel=0.1)
    assert spread(others) < 0.7 * spread(clips)
    for a, b, own in zip(found, others, clips, strict=True):
        assert np.array_equal(a.frames, own.frames)
        assert (
            np.corrcoef(relative_opening(a.points_crop), relative_opening(b.points_crop))[0, 1]
            > 0.99
        )


def test_one_s_own_clips_stay_as_they_are(clips: list[ClipData]) -> None:
    for a, b in zip(moved(clips, clips), clips, strict=True):
        assert np.allclose(a.points_crop, b.points_crop, atol=1e-6)


def test_the_completion_learns_of_them_and_the_head_s_motion_does_not(
    dataset: Path, tmp_path: Path
) -> None:
    for person in ("ann", "bob"):
        write_dataset(tmp_path / "people" / person)
    shutil.copytree(tmp_path / "people" / "bob", tmp_path / "few" / "bob")
    examples = {}
    for name, people in (("alone", None), ("few", tmp_path / "few"), ("all", tmp_path / "people")):
        run = Run(
            configs.debug(), TrainOptions(dataset=dataset, people=people, run=tmp_path / name)
        )
        examples[name] = run.trainer("landmarks").task.examples
        assert run.trainer("live").task.examples == examples[name]
        assert len(run.sources.data.train) == len(load_dataset(dataset, validation_clips=4).train)
    assert examples["alone"] < examples["few"] < examples["all"]
    assert set(run.sources.people) == {"ann", "bob"}
