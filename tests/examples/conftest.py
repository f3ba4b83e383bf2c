"""The packaged avatar, and sound that is easily found again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import difftalker
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.live_stage import Stage, open_stage
from difftalker.packaged import samples


@pytest.fixture(scope="session")
def avatar() -> Avatar:
    return difftalker.load(samples.AVATAR)


@pytest.fixture(scope="session")
def stage(avatar: Avatar) -> Stage:
    return open_stage(avatar, None)


@pytest.fixture
def said() -> NDArray[np.int16]:
    """A second of noise, 16 kHz."""
    return np.random.default_rng(0).integers(-3000, 3000, 16_000).astype(np.int16)
