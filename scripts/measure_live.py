"""Live sessions in real time: frames late, latency, memory; and videos to be evaluated.

    python scripts/measure_live.py time [FOOTAGE] [--speech FILE] [--minutes 10] [--sessions 1]
        [--isa avx2]
    python scripts/measure_live.py videos FOOTAGE... -o DIR [--clips FILE.json:KEY]

``time`` drives sessions side by side for so long, each in a thread with its own clock. ``videos``
lets live sessions speak the clips' own sound over the clips, for
`difftalker evaluate --predictions live=DIR`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench_speed import ISA
from difftalker.packaged import samples


def main() -> None:
    """Measure, or write the videos."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    timed = kinds.add_parser("time")
    timed.add_argument("footage", type=Path, nargs="?", default=samples.footage())
    timed.add_argument("--speech", type=Path, default=samples.speech())
    timed.add_argument("--minutes", type=float, default=10.0)
    timed.add_argument("--sessions", type=int, default=1)
    timed.add_argument("--threads", type=int, default=0)
    timed.add_argument("--isa", choices=sorted(ISA))
    timed.set_defaults(run=measure)
    videos = kinds.add_parser("videos")
    videos.add_argument("footage", type=Path, nargs="+")
    videos.add_argument("--clips", action="append", default=[])
    videos.add_argument("-o", "--output", type=Path, required=True)
    videos.set_defaults(run=write_videos)
    for one in (timed, videos):
        one.add_argument("--avatar", default=samples.AVATAR)
    options = parser.parse_args()
    wanted = ISA.get(getattr(options, "isa", None) or "", {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    options.run(options)


def measure(options: argparse.Namespace) -> None:
    """Print the figures of each session, and of memory."""
    import torch

    from difftalker.core.allocator import steady
    from difftalker.dubbing.avatar import load
    from difftalker.dubbing.live import LiveSession
    from difftalker.dubbing.live_stage import open_stage

    steady()
    torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // options.sessions))
    avatar = load(options.avatar)
    stage = open_stage(avatar, options.footage)
    seconds = 60 * options.minutes
    drivers = [
        Driver(LiveSession(avatar, stage), options.speech, seconds) for _ in range(options.sessions)
    ]
    memory = Memory()
    watch = threading.Thread(target=memory.watch, daemon=True)
    watch.start()
    # The first in this thread: another has threads of its own for the networks.
    threads = [threading.Thread(target=one.run) for one in drivers[1:]]
    for thread in threads:
        thread.start()
    drivers[0].run()
    for thread in threads:
        thread.join()
    for one in drivers:
        facts = one.stats.facts()
        print(f"{facts['frames'] / seconds:.1f} frames a second: {facts}")
        print(f"sound against picture at the end: {one.apart_s * stage.fps:+.2f} frames")
    print(f"memory after a minute {memory.first_mb:.0f} MB, most later {memory.most_mb:.0f} MB")


class Driver:
    """One session in real time, to which speech is pushed again and again."""

    def __init__(self, session: Any, speech: Path, seconds: float) -> None:
        from difftalker.dubbing.live_clock import LiveStats
        from difftalker.dubbing.live_run import SpokenFile

        self._session, self._seconds = session, seconds
        self._new = partial(SpokenFile, str(speech))
        self._source = self._new()
        self._sound = self._shown = 0
        self.stats = LiveStats()

    def run(self) -> None:
        """Drive it to its end."""
        from difftalker.dubbing.live_clock import LiveClock

        self._source.start()
        clock = LiveClock(self._session, hear=self._hear, play=self._play, show=self._show)
        self.stats = clock.run(lambda: self._session.time_s < self._seconds)

    def _hear(self) -> Any:
        if self._source.ended:
            self._source = self._new()
            self._source.start()
        return self._source.hear()

    def _play(self, sound: Any) -> None:
        self._sound += len(sound)

    def _show(self, frame: Any, periods: int) -> None:
        self._shown += periods

    @property
    def apart_s(self) -> float:
        """By how much more sound than picture was given out."""
        return self._sound / 16_000 - self._shown / float(self._session.fps)


class Memory:
    """Resident memory of the process, MB."""

    def __init__(self) -> None:
        self._looks, self.first_mb, self.most_mb = 0, 0.0, 0.0

    def watch(self) -> None:
        """Look once a second, for as long as the process lives."""
        while True:
            self._look()
            time.sleep(1)

    def _look(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        now_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self._looks += 1
        if self._looks <= 60:
            self.first_mb = max(self.first_mb, now_mb)
        else:
            self.most_mb = max(self.most_mb, now_mb)


def write_videos(options: argparse.Namespace) -> None:
    """Write CLIP.mp4 for each clip: a live session over it, with its own sound."""
    from difftalker.data.footage import find_footage
    from difftalker.dubbing.avatar import load
    from difftalker.dubbing.live import LiveSession
    from difftalker.dubbing.live_stage import FootageStage
    from difftalker.face.detect.people import Choice
    from difftalker.marks.marking import UNMARKED
    from difftalker.media.audio import read_audio
    from difftalker.media.video import VideoWriter, probe_video

    options.output.mkdir(parents=True, exist_ok=True)
    avatar = load(options.avatar)
    for clip in find_footage(options.footage, options.clips):
        info = probe_video(clip)
        located = avatar.locate(clip, Choice.parse("avatar"))
        stage = FootageStage(avatar, located, loop_s=60.0)
        session = LiveSession(avatar, stage, UNMARKED)
        session.push(read_audio(clip))
        writer = VideoWriter(
            options.output / f"{clip.stem}.mp4",
            width=info.width,
            height=info.height,
            fps=Fraction(info.fps),
            time_base=1 / Fraction(info.fps),
            audio=clip,
            sample_aspect_ratio=info.sample_aspect_ratio,
        )
        with writer:
            for number in range(len(stage)):
                writer.write(np.ascontiguousarray(session.frame().image), number)
        print(clip.stem, len(stage))


if __name__ == "__main__":
    main()
