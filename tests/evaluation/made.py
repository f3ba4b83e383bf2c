"""Clips to evaluate, for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.media.video import VideoWriter
from synthetic import swaying, write_half_tone

FRAMES = 12
FACELESS = 5


def write_video(path: Path, images: Sequence[NDArray[np.uint8]], audio: Path) -> Path:
    height, width = images[0].shape[:2]
    with VideoWriter(
        path, width=width, height=height, fps=25, time_base=Fraction(1, 25), audio=audio
    ) as writer:
        for i, image in enumerate(images):
            writer.write(image, i)
    return path


def write_clips(folder: Path) -> list[Path]:
    """Two clips of a face, one with a frame without it, and a file that is no video."""
    low, high = (write_half_tone(folder / f"{hz}.wav", FRAMES / 25, hz) for hz in (200, 900))
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video at all")
    return [
        write_video(folder / "first.mp4", swaying(FRAMES, 1.5), low),
        broken,
        write_video(folder / "second.mp4", swaying(FRAMES, -1.0, FACELESS), high),
    ]
