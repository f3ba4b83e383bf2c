"""Run files of unusual kinds, and say of each whether the outcome is right.

    python scripts/check_cases.py FOLDER [--avatar grid-s1] [--only NAME]

FOLDER holds the files that ``ROWS`` names and a speech.wav; a file that is missing is wrong too.
Files are read by the library or given to the real command. Exits 1 where one is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difftalker import cli
from difftalker.errors import DiffTalkerError
from difftalker.media.audio import read_audio
from difftalker.media.video import VideoWriter, probe_video, read_frames

FRAME_S = 0.04


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the files are, and where to write."""

    folder: Path
    scratch: Path
    avatar: str

    def command(self, name: str, video: str, *options: str, suffix: str) -> tuple[int, str]:
        """Run a command on a file and the speech; its exit code and what it printed."""
        message = io.StringIO()
        inputs = (str(self.folder / video), str(self.folder / "speech.wav"))
        output = str(self.scratch / f"out{suffix}")
        words = [name, *inputs, "--avatar", self.avatar, "--output", output, *options]
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(words)
        return code, message.getvalue().strip()


def limits_hold(bench: Bench, name: str) -> str:
    """Footage without a length is refused under limits that are tighter than it is."""
    for option, value in (("--max-frames", "10"), ("--max-duration", "1.5")):
        code, message = bench.command("landmarks", name, option, value, suffix=".npz")
        if code != 1 or option not in message or value not in message:
            return f"{option} {value}: exit code {code}, {message[-200:]!r}"
    return ""


def evenly_timed(bench: Bench, name: str) -> str:
    """All 50 frames, 40 ms apart, and two seconds of sound, as read and as written."""
    path, output = bench.folder / name, bench.scratch / "copy.mp4"
    with VideoWriter.like(probe_video(path), output, audio=path) as writer:
        for frame in read_frames(path):
            writer.write(frame.image, frame.pts)
    for one in (path, output):
        times_s = [frame.time_s for frame in read_frames(one)]
        if len(times_s) != 50 or not np.allclose(np.diff(times_s), FRAME_S, atol=1e-4):
            return f"{len(times_s)} frames, steps {np.unique(np.diff(times_s).round(4)).tolist()}"
        sound_s = len(read_audio(one)) / 16_000
        if abs(sound_s - 2) > 0.1:
            return f"{sound_s:.2f} s of sound"
    return ""


def gap_costs_nothing(bench: Bench, name: str) -> str:
    """An hour between two frames takes no longer than the same frames in ts_wrap.ts."""
    bench.command("landmarks", "ts_wrap.ts", suffix=".npz")  # loads all that is loaded once
    took_s = []
    for one in ("ts_wrap.ts", name):
        began = time.monotonic()
        code, message = bench.command("landmarks", one, suffix=".npz")
        took_s.append(time.monotonic() - began)
        if code:
            return message[-200:]
    return f"{took_s[1]:.1f} s, {took_s[0]:.1f} s without" if took_s[1] > 1.5 * took_s[0] else ""


def sound_of_two_seconds(bench: Bench, name: str) -> str:
    """Two seconds of sound that is no silence, whatever its parts and channels."""
    path = bench.folder / name
    if path.suffix == ".gz":
        path = bench.scratch / path.stem
        path.write_bytes(gzip.decompress((bench.folder / name).read_bytes()))
    sound = read_audio(path)
    is_right = abs(len(sound) / 16_000 - 2) < 0.05 and np.abs(sound).max() > 0.01
    return "" if is_right else f"{len(sound) / 16_000:.2f} s, up to {np.abs(sound).max():.3f}"


def one_frame(bench: Bench, name: str) -> str:
    """A still is a video of one frame."""
    frames = len(list(read_frames(bench.folder / name)))
    return "" if frames == 1 else f"{frames} frames"


def decodable_track(bench: Bench, name: str) -> str:
    """The first track that can be decoded, and a line that says so."""
    code, message = bench.command("landmarks", name, suffix=".npz")
    frames = len(list(read_frames(bench.folder / name)))
    is_right = code == 0 and frames == 25 and "cannot be decoded" in message
    return "" if is_right else f"exit code {code}, {frames} frames, {message[-200:]!r}"


def reported(bench: Bench, name: str) -> tuple[str, dict[str, Any]]:
    """What went wrong with a dubbing, and its report."""
    report = bench.scratch / "report.json"
    code, message = bench.command("dub", name, "--report", str(report), suffix=".mp4")
    return (message[-200:] or "failed", {}) if code else ("", json.loads(report.read_text()))


def passes_through(bench: Bench, name: str) -> str:
    """A head that is rolled too far is not driven, and the report says why."""
    wrong, report = reported(bench, name)
    reasons = {span["reason"] for span in report.get("spans", ())}
    return wrong or ("" if reasons == {"rolled"} else f"reasons {sorted(reasons)}")


def takes_own_person(bench: Bench, name: str) -> str:
    """Of two people the avatar's own is driven, who is on the right."""
    wrong, report = reported(bench, name)
    if wrong:
        return wrong
    people, chosen = report["people"], report["face"] - 1
    rightmost = max(range(len(people)), key=lambda n: people[n]["box_px"][0])
    return "" if len(people) == 2 and chosen == rightmost else f"{people}, face {chosen + 1}"


ROWS: tuple[tuple[str, Callable[[Bench, str], str]], ...] = (
    ("nodur.webm", limits_hold),
    ("ts_reset.ts", evenly_timed),
    ("ts_wrap.ts", evenly_timed),
    ("flv_jump.flv", gap_costs_nothing),
    ("chain.opus", sound_of_two_seconds),
    ("ch32.wav.gz", sound_of_two_seconds),
    ("STILL.JPG", one_frame),
    ("unknown_video.mov", decodable_track),
    ("upside_down.mp4", passes_through),
    ("two_people.mp4", takes_own_person),
)


def checked(bench: Bench, name: str, check: Callable[[Bench, str], str]) -> str:
    """What is wrong with a file's outcome, if anything."""
    try:
        return check(bench, name)
    except (DiffTalkerError, OSError) as error:
        return str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each file; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--avatar", default="grid-s1")
    parser.add_argument("--only", default="", help="only files with this in their name")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if options.only in row[0]]
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(folder=options.folder, scratch=Path(scratch), avatar=options.avatar)
        for name, check in rows:
            what = checked(bench, name, check)
            wrong += bool(what)
            print(f"{name:<20} {'wrong: ' + what if what else 'right'}", flush=True)
    return int(bool(wrong) or not rows)


if __name__ == "__main__":
    sys.exit(main())
