"""The command line within this process, an untrained avatar, and small files for it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from helpers_cli import Command, Ran


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process."""
    from difftalker.cli import main
    from helpers_cli import Ran

    def carry_out(*words: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return carry_out


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def debug_avatar(folder: Path) -> Path:
    """An untrained avatar of the smallest preset."""
    from helpers_networks import write_untrained

    return write_untrained(folder / "avatar")


@pytest.fixture(scope="session")
def live_avatar(folder: Path) -> Path:
    """The same with the networks of live sessions."""
    from helpers_networks import write_untrained

    return write_untrained(folder / "live-avatar", ("light", "live"))


@pytest.fixture(scope="session")
def speech(folder: Path) -> Path:
    """A second of something like a voice."""
    import numpy as np

    from helpers_cli import write_wav

    time_s = np.arange(16000) / 16000
    tone = np.sign(np.sin(2 * np.pi * 120 * time_s)) * (1 + np.sin(2 * np.pi * 4 * time_s)) / 2
    return write_wav(folder / "speech.wav", 0.3 * tone)


@pytest.fixture(scope="session")
def noise(folder: Path, speech: Path) -> Path:
    """A video that shows no face."""
    from helpers_cli import noise_images, write_video

    return write_video(folder / "noise.mp4", noise_images(5, 160, 120), speech)


@pytest.fixture(scope="session")
def face(folder: Path, speech: Path) -> Path:
    """A few frames that show a face."""
    from difftalker.errors import MediaError
    from difftalker.media.video import read_frames
    from difftalker.packaged import samples
    from helpers_cli import FACE_FRAMES, SHARED_CLIP, write_video

    try:
        source = samples.footage()
    except MediaError:
        source = SHARED_CLIP
    if not source.is_file():
        pytest.skip("no footage of a face here: the packaged sample is not made yet")
    images = [f.image for f in itertools.islice(read_frames(source), FACE_FRAMES)]
    return write_video(folder / "face.mp4", images, speech)
