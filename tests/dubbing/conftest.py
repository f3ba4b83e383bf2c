"""A clip, an untrained avatar, and a count of the frames that are rendered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from difftalker.dubbing.avatar import Avatar


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Footage and speech of ``FRAMES`` frames; not to be written to."""
    from helpers_dub import FRAMES
    from synthetic import pictures, write_footage, write_tone

    folder = tmp_path_factory.mktemp("clip")
    return (
        write_footage(folder / "footage.mp4", pictures(FRAMES)),
        write_tone(folder / "speech.wav", FRAMES / 25),
    )


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    from synthetic import debug_avatar

    return debug_avatar()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each call of the renderer had."""
    from synthetic import count_rendered

    return count_rendered(monkeypatch)
