"""Other programs' videos, brought to the footage's times and size."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from difftalker.errors import MediaError
from difftalker.evaluation.predictions import conform, nearest_frames
from difftalker.media.video import probe_video, read_frames
from synthetic import (
    located,
    pictures,
    still_track,
    write_footage,
)


def test_nearest_frames_by_hand() -> None:
    slow, fast = np.arange(3) / 25, np.arange(7) / 50
    assert nearest_frames(fast, slow).tolist() == [0, 2, 4]
    assert nearest_frames(slow, fast).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert nearest_frames(np.arange(4) / 30, slow).tolist() == [0, 1, 2]


def test_a_fitting_video_is_taken_as_it_is(tmp_path: Path) -> None:
    footage = located(write_footage(tmp_path / "f.mp4", pictures(12)), still_track(12))
    video = write_footage(tmp_path / "v.mp4", pictures(12, seed=1))
    found = conform(video, footage, tmp_path / "s.mkv")
    assert (found.video, found.note, found.has_audio) == (video, "", False)


def test_a_video_that_ends_early_is_held_or_refused(tmp_path: Path) -> None:
    footage = located(write_footage(tmp_path / "f.mp4", pictures(20)), still_track(20))
    short = write_footage(tmp_path / "short.mp4", pictures(17), lossless=False)
    found = conform(short, footage, tmp_path / "s.mkv")
    assert found.note == (
        "17 frames matched by time to 20; ended 0.10 s early, its last picture held for 3 frames"
    )
    images = [frame.image for frame in read_frames(found.video)]
    assert len(images) == 20
    assert all(np.array_equal(image, images[16]) for image in images[17:])
    source = [frame.image for frame in read_frames(short)]
    assert np.array_equal(images[3], source[3])
    info = probe_video(found.video)
    assert info.fps == Fraction(25)
    shorter = write_footage(tmp_path / "shorter.mp4", pictures(6))
    with pytest.raises(MediaError, match=r"ends 0\.54 s before the footage"):
        conform(shorter, footage, tmp_path / "s.mkv")
