"""Peak memory of dubbing short and long footage.

    python scripts/measure_memory.py [--seconds 3 60] [--footage FILE] [--steps 1]
    python scripts/measure_memory.py --seconds 3 60 600 --avatar small

Footage (by default the packaged one) is played forth and back to each length and dubbed by
`difftalker dub` in a process of its own, whose largest resident size is printed. The avatar `small`
is made on the spot, untrained: ten minutes take minutes with it. How many steps are taken changes
the time, and not the memory; --every 5 makes a fifth of the frames of the same length. Exits 1
where the largest is more than a tenth above the smallest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.packaged import samples
from media_matrix import make_avatar

SMALL = "small"


def forth_and_back(footage: Path) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a short video, without an end."""
    pictures = [frame.image for frame in read_frames(footage)]
    while True:
        yield from pictures
        yield from reversed(pictures[1:-1])


def stretch(footage: Path, seconds: float, output: Path, every: int = 1) -> None:
    """Write ``seconds`` of the footage to ``output``; of its pictures each so many-th, as slow."""
    info = probe_video(footage)
    fps = info.fps / every
    step = round(1 / (fps * info.time_base))
    with VideoWriter(
        output, width=info.width, height=info.height, fps=fps, time_base=info.time_base
    ) as writer:
        pictures = islice(forth_and_back(footage), 0, None, every)
        for i in range(round(Fraction(seconds).limit_denominator() * fps)):
            writer.write(next(pictures), i * step)


def chosen_avatar(name: str, scratch: Path) -> str:
    """An avatar's name as it is; `small` is the smallest there is, untrained, made now."""
    if name != SMALL:
        return name
    make_avatar(scratch / SMALL)
    return str(scratch / SMALL)


def peak_mb(video: Path, avatar: str, output: Path, words: list[str]) -> tuple[float, float]:
    """Dub in a child process; its peak memory in 10^6 bytes, and its frames a second."""
    command = [sys.executable, "-m", "difftalker", "dub", str(video), str(samples.speech())]
    command += ["--avatar", avatar, "--output", str(output), "--json", *words]
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
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 60.0])
    parser.add_argument("--footage", type=Path, default=None)
    parser.add_argument("--avatar", default=samples.AVATAR, help="or `small`")
    parser.add_argument("--every", type=int, default=1, help="take each so many-th picture alone")
    parser.add_argument("--steps", type=int, default=None)
    options = parser.parse_args()
    footage, peaks = options.footage or samples.footage(), []
    words = [] if options.steps is None else ["--steps", str(options.steps)]
    with tempfile.TemporaryDirectory() as scratch:
        avatar = chosen_avatar(options.avatar, Path(scratch))
        for seconds in options.seconds:
            video = Path(scratch) / f"{seconds:g}s.mp4"
            stretch(footage, seconds, video, options.every)
            peak, speed = peak_mb(video, avatar, video.with_suffix(".mkv"), words)
            peaks.append(peak)
            print(
                f"{seconds:g} s of footage: {peak:.0f} MB at most, {speed:.1f} frames a second",
                flush=True,
            )
    print(f"the largest is {100 * (max(peaks) / min(peaks) - 1):.1f} % above the smallest")
    sys.exit(max(peaks) > 1.1 * min(peaks))


if __name__ == "__main__":
    main()
