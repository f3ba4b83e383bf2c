"""The looks that an avatar keeps of its person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difftalker.data import likeness
from difftalker.data.dataset import load_dataset
from difftalker.data.likeness import MOST_LOOKS, look_in, looks_of
from difftalker.face.detect.looks import LOOK_SIZE
from difftalker.store.calibration import Calibration


def test_looks_are_few_and_of_the_clips(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = load_dataset(dataset, validation_clips=1).train
    looks = np.array(looks_of(clips))
    assert looks.shape == (min(MOST_LOOKS, len(looks)), LOOK_SIZE)
    assert looks_of(clips) == Calibration(looks=looks_of(clips)).looks
    own = np.stack([look_in(clip, int(f)) for clip in clips for f in np.flatnonzero(clip.found)])
    apart = np.linalg.norm(own[None] - looks[:, None], axis=-1)
    assert apart.min(1).max() < 1e-2  # each is the look of a frame, rounded
    monkeypatch.setattr(likeness, "MOST_FRAMES", 3)
    assert 1 <= len(looks_of(clips)) <= 3
