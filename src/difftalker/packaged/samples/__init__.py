"""Footage and speech that come with DiffTalker, for a first look; the files lie beside this one.

Neither is a recording: the footage is sampled from the avatar's own networks, in the likeness of
the person they were trained on, and the speech comes from a synthesiser. README.md says how.
"""

from __future__ import annotations

from pathlib import Path

from difftalker.errors import MediaError

AVATAR = "grid-s1"
"""The packaged avatar that the footage belongs to."""

_FOLDER = Path(__file__).parent


def footage() -> Path:
    """A few seconds of the avatar's upper face.

    Raises:
        MediaError: the file is not there.
    """
    return _present(_FOLDER / f"{AVATAR}-footage.mp4")


def speech() -> Path:
    """A sentence or two by a speech synthesiser.

    Raises:
        MediaError: the file is not there.
    """
    return _present(_FOLDER / "speech.wav")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise MediaError(
            f"the packaged sample {path.name} is missing", fix="install DiffTalker anew"
        )
    return path
