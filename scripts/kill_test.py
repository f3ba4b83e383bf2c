"""Kill dubbings at random moments, resume them, and compare with one that was left alone.

    python scripts/kill_test.py [--kills 50] [--seconds 30] [--limit-s 3600]

The packaged footage (or --footage) is played forth and back to --seconds. Each trial starts
`difftalker dub` in a process of its own, sends it SIGKILL at a moment drawn evenly from the time
that a whole run takes, runs the same command again to its end, and compares the bytes. Exits 1
where they differ, or where anything but the output is left at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from difftalker import samples
from difftalker.cli import main as command_line
from difftalker.journal import file_hash
from measure_memory import stretch

PRELOADED = ["difftalker.cli", "difftalker.pipeline", "difftalker.machine", "mediapipe"]


def dub(words: Sequence[str]) -> None:
    """The command, in a child process."""
    sys.argv = ["difftalker", "dub", *words]
    command_line()


def begin(context: ForkServerContext, words: Sequence[str]) -> ForkServerProcess:
    """Start the command; the libraries are loaded already, so kills meet its work."""
    run = context.Process(target=dub, args=(words,))
    run.start()
    return run


def finish(context: ForkServerContext, words: Sequence[str]) -> float:
    """Run the command to its end; the seconds it took."""
    began = time.monotonic()
    run = begin(context, words)
    run.join()
    if run.exitcode != 0:
        sys.exit(f"the dubbing failed with exit code {run.exitcode}")
    return time.monotonic() - began


def trial(
    context: ForkServerContext, words: Sequence[str], output: Path, after_s: float
) -> tuple[bool, str]:
    """Kill a run and resume it; whether it was still at work, and the hash of the output."""
    output.unlink(missing_ok=True)
    run = begin(context, words)
    run.join(after_s)
    was_running = run.is_alive()
    run.kill()
    run.join()
    if was_running and output.exists() and output.with_name(f".{output.name}.dubbing").exists():
        print("  killed between the end of the video and the end of the run")
    finish(context, words)
    return was_running, file_hash(output)


def main() -> None:
    """Print one line a trial and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0, help="of footage")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="stop after so long")
    parser.add_argument("--footage", type=Path, default=None)
    parser.add_argument("--avatar", default=samples.AVATAR)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as scratch:
        video, folder = Path(scratch, "footage.mp4"), Path(scratch, "out")
        folder.mkdir()
        stretch(options.footage or samples.footage(), options.seconds, video)
        output = folder / "out.mp4"
        words = [str(video), str(samples.speech()), "--avatar", options.avatar, "-o", str(output)]
        whole_s = finish(context, words)
        wanted, killed, wrong, trials = file_hash(output), 0, 0, 0
        while trials < options.kills and time.monotonic() - began < options.limit_s:
            after_s = chance.uniform(0, whole_s)
            was_running, found = trial(context, words, output, after_s)
            clean = [path.name for path in folder.iterdir()] == [output.name]
            trials, killed = trials + 1, killed + was_running
            wrong += found != wanted or not clean
            same = "same bytes" if found == wanted else "OTHER BYTES"
            print(f"{trials}: after {after_s:.1f} of {whole_s:.1f} s: {same}", flush=True)
    print(f"{killed} runs killed in {trials} trials, {wrong} of them did not come out the same")
    sys.exit(bool(wrong) or not killed)


if __name__ == "__main__":
    main()
