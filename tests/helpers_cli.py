"""What the tests of the command line share: a command's result, small videos and sounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difftalker.media.video import VideoWriter

ROOT = Path(__file__).parents[1]
SHARED_CLIP = ROOT.parent / "shared" / "data" / "grid" / "s1" / "bbal6n.mpg"
FACE_FRAMES = 6
ODD_NAMES = (os.fsdecode(b"a\xff"), "a\nb", "a\x1b$Bb", "a\x1b[31mb")
"""Bytes that are no UTF-8, a newline, an ISO 2022 escape, and one that colours a terminal."""
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The one object on standard output."""
        [line] = self.out.splitlines()
        record: dict[str, Any] = json.loads(line)
        return record

    def failed(self, code: int, *texts: str) -> None:
        """Exit code, and one line on standard error that says these things."""
        assert self.code == code, self.err
        # A progress bar that was wiped away may stand before the line.
        [line] = [text.rpartition("\r")[2] for text in self.err.rstrip("\n").split("\n")]
        assert line.startswith("difftalker: "), self.err
        assert [text for text in texts if text not in line] == [], line


Command = Callable[..., Ran]


def noise_images(count: int, width: int, height: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write_video(path: Path, images: list[Image], audio: Path | None = None) -> Path:
    height, width = images[0].shape[:2]
    writer = VideoWriter(
        path, width=width, height=height, fps=25, time_base=Fraction(1, 25), audio=audio
    )
    with writer:
        for i, image in enumerate(images):
            writer.write(image, i)
    return path


def write_wav(path: Path, samples_: NDArray[np.floating]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples_ * 32767).astype("<i2").tobytes())
    return path


def process(
    *words: str | Path, code: str = "", encoding_of_streams: str = "utf-8", **options: Any
) -> Ran:
    """The command line, or some code, in a process of its own."""
    start = ["-c", code] if code else ["-m", "difftalker"]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *start, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONIOENCODING": encoding_of_streams,
        },
        **options,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
