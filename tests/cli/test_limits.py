"""Limits by the command: tighter ones refuse, looser ones accept; the number is told as given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers_cli import Command, write_video, write_wav
from media.made import streamed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-pixels", "19199"),
        ("--max-frames", "4"),
        ("--max-duration", "0.125"),
        ("--max-decoded", "0.000287"),
    ],
)
def test_tighter_limits_refuse(
    run: Command, option: str, value: str, noise: Path, speech: Path, debug_avatar: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    words = ("landmarks", noise, speech, "--avatar", debug_avatar, "-o", tmp_path / "o.npz")
    run(*words, option, value).failed(1, option, value, "raise the limit")
    looser = {"--max-pixels": "19200", "--max-frames": "5", "--max-decoded": "0.000288"}
    if option in looser:
        run(*words, option, looser[option]).failed(1, "no face was found")
    assert list(tmp_path.iterdir()) == []


def test_looser_limits_accept(
    run: Command, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    """Two pictures five hours apart, and one of 38 million pixels."""
    words = (speech, "--avatar", debug_avatar, "-o", tmp_path / "o.npz")
    long = streamed(tmp_path / "long.webm", [0, 5 * 3_600_000])
    run("landmarks", long, *words).failed(1, "--max-duration", "14400")
    run("landmarks", long, *words, "--max-duration", "18001").failed(1, "no face was found")
    large = write_video(tmp_path / "large.mkv", [np.zeros((4640, 8192, 3), np.uint8)])
    run("landmarks", large, *words).failed(1, "--max-pixels", "36000000")
    run("landmarks", large, *words, "--max-pixels", "38010880").failed(1, "no face was found")


def test_limits_hold_for_sound(run: Command, debug_avatar: Path, tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "sound.wav", np.zeros(16_000))
    words = ("talk", sound, "--avatar", debug_avatar, "--output", tmp_path / "o.mp4")
    run(*words, "--max-duration", "0.25").failed(1, "--max-duration", "0.25 s")
    assert not (tmp_path / "o.mp4").exists()
