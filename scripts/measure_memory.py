"""Peak memory of dubbing short and long footage.

    python scripts/measure_memory.py [--seconds 6 60] [--footage FILE]

Footage (by default the packaged one) is played forth and back to each length and dubbed by
`difftalker dub` in a process of its own, whose largest resident size is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import samples
from difftalker.media.video import VideoWriter, probe_video, read_frames


def forth_and_back(footage: Path) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a short video, without an end."""
    pictures = [frame.image for frame in read_frames(footage)]
    while True:
        yield from pictures
        yield from reversed(pictures[1:-1])


def stretch(footage: Path, seconds: float, output: Path) -> None:
    """Write ``seconds`` of the footage to ``output``."""
    info = probe_video(footage)
    step = round(1 / (info.fps * info.time_base))
    with VideoWriter(
        output, width=info.width, height=info.height, fps=info.fps, time_base=info.time_base
    ) as writer:
        pictures = forth_and_back(footage)
        for i in range(round(Fraction(seconds).limit_denominator() * info.fps)):
            writer.write(next(pictures), i * step)


def peak_mb(video: Path, speech: Path, avatar: str, output: Path) -> tuple[float, float]:
    """Dub in a child process; its peak memory in 10^6 bytes, and its frames a second."""
    command = [sys.executable, "-m", "difftalker", "dub", str(video), str(speech)]
    command += ["--avatar", avatar, "--output", str(output), "--json"]
    # A process between, so that the peak is that of this one dubbing.
    watched = (
        "import json, resource, subprocess, sys;"
        "out = subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE).stdout;"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(json.dumps([peak, json.loads(out)['frames_per_second']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, *command],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak, speed = json.loads(done.stdout)
    unit = 1 if sys.platform == "darwin" else 1024
    return peak * unit / 1e6, speed


def main() -> None:
    """Print one line for each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, nargs="+", default=[6.0, 60.0])
    parser.add_argument("--footage", type=Path, default=None)
    parser.add_argument("--avatar", default=samples.AVATAR)
    options = parser.parse_args()
    footage = options.footage or samples.footage()
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in options.seconds:
            video = Path(scratch) / f"{seconds:g}s.mp4"
            stretch(footage, seconds, video)
            peak, speed = peak_mb(
                video, samples.speech(), options.avatar, video.with_suffix(".mkv")
            )
            print(f"{seconds:g} s of footage: {peak:.0f} MB at most, {speed:.1f} frames a second")


if __name__ == "__main__":
    main()
