"""A landmark track for all tests of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from difftalker.landmarks.track_file import LandmarkTrack


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> LandmarkTrack:
    """A track as the command makes it, but for the search for the face."""
    from helpers_track import ByHand

    return ByHand.within(tmp_path_factory.mktemp("track")).track()
