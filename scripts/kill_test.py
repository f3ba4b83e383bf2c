"""Kill dubbings at random moments, resume them, and compare with one that was left alone.

    python scripts/kill_test.py [--kills 50] [--seconds 6] [--avatar small] [--limit-s 3600]

The packaged footage (or --footage) is played forth and back to --seconds and dubbed by
`difftalker dub` in a process of its own. Every start of the command is killed with SIGKILL at a
moment drawn evenly from the CPU time that a whole run takes, and begun again, until one comes to
its end before its moment: then its bytes are compared with those of a run left alone, and the next
job begins. So each kill is resumed, most of them by runs that are killed in turn; a busy machine
changes nothing. Exits 1 where bytes differ, or where anything but the output is left at the end of
a job.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from difftalker.cli import main as command_line
from difftalker.packaged import samples
from difftalker.store.journal import file_hash
from measure_memory import chosen_avatar, stretch

TICK_S = 0.02
PRELOADED = ["difftalker.cli", "difftalker.dubbing.avatar", "difftalker.doctor", "mediapipe"]


def dub(words: Sequence[str]) -> None:
    """The command, in a child process."""
    sys.argv = ["difftalker", "dub", *words]
    command_line()


def begin(context: ForkServerContext, words: Sequence[str]) -> ForkServerProcess:
    """Start the command; the libraries are loaded already, so kills meet its work."""
    run = context.Process(target=dub, args=(words,))
    run.start()
    return run


def load(context: ForkServerContext) -> None:
    """Have the libraries loaded, whose time is no part of a job's."""
    run = context.Process(target=int)
    run.start()
    run.join()


def spent_s(process: ForkServerProcess) -> float:
    """The CPU time of a process, all its threads; 0 once it is gone.

    Where there is no /proc it is that of the clock.
    """
    if not Path("/proc/self/stat").exists():
        return time.monotonic()
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finish(context: ForkServerContext, words: Sequence[str]) -> float:
    """Run the command to its end; the CPU time that it took, seconds."""
    run = begin(context, words)
    first = spent = spent_s(run)
    while run.is_alive():
        spent = max(spent, spent_s(run))
        run.join(TICK_S)
    if run.exitcode != 0:
        sys.exit(f"the dubbing failed with exit code {run.exitcode}")
    return spent - first


def lives(context: ForkServerContext, words: Sequence[str], after_s: float) -> bool:
    """Start the command, kill it after so much CPU time; whether it had come to its end before."""
    run = begin(context, words)
    first = spent_s(run)
    while run.is_alive() and spent_s(run) - first < after_s:
        run.join(TICK_S)
    ended = not run.is_alive()
    run.kill()
    run.join()
    if ended and run.exitcode != 0:
        sys.exit(f"the dubbing failed with exit code {run.exitcode}")
    return ended


def main() -> None:
    """Print one line a kill and a job, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=6.0, help="of footage")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="begin no job after so long")
    parser.add_argument("--footage", type=Path, default=None)
    parser.add_argument("--avatar", default=samples.AVATAR, help="or `small`, made on the spot")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    kills, jobs, wrong = 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        video, folder = Path(scratch, "footage.mp4"), Path(scratch, "out")
        folder.mkdir()
        stretch(options.footage or samples.footage(), options.seconds, video)
        output = folder / "out.mp4"
        avatar = chosen_avatar(options.avatar, Path(scratch))
        words = [str(video), str(samples.speech()), "--avatar", avatar, "-o", str(output)]
        load(context)
        whole_s = finish(context, words)
        wanted = file_hash(output)
        while kills < options.kills and time.monotonic() - began < options.limit_s:
            output.unlink()
            while kills < options.kills:
                if lives(context, words, after_s := chance.uniform(0, whole_s)):
                    break
                kills += 1
                print(f"kill {kills}: after {after_s:.1f} of {whole_s:.1f} s", flush=True)
            else:
                finish(context, words)
            same = file_hash(output) == wanted
            clean = [path.name for path in folder.iterdir()] == [output.name]
            jobs, wrong = jobs + 1, wrong + (not same or not clean)
            print(f"job {jobs}: {'same' if same else 'OTHER'} bytes", flush=True)
    print(f"{kills} kills in {jobs} jobs, {wrong} of which did not come out the same")
    sys.exit(bool(wrong) or not kills)


if __name__ == "__main__":
    main()
