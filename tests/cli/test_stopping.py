"""Ctrl-C, once and again: the exit code, the hint at what comes next, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import Ran

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

AT_WORK, STOPPING = "at work", "stopping"
CHILD = f"""
import signal, sys, threading, time
# What is started in the background, as a whole suite may be, inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
import tqdm
from difftalker.cli import common, main

def opened(bars, stage):
    print({AT_WORK!r}, file=sys.stderr, flush=True)
    # Another thread than the main one is waited for.
    time.sleep(60 if threading.current_thread() is threading.main_thread() else 2)
    bars._bar, bars._stage = tqdm.tqdm(disable=True), stage

def left(bars, *_):
    if sys.argv[1] == "2":
        print({STOPPING!r}, file=sys.stderr, flush=True)
        time.sleep(60)

common.Bars._open, common.Bars.__exit__ = opened, left
sys.exit(main(sys.argv[2:]))
"""
"""The command line, which waits where progress is first shown, and before a second Ctrl-C again."""


def stopped(presses: int, *words: str | Path) -> Ran:
    """A command at whose work Ctrl-C was pressed, as a terminal does: for its workers, too."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(presses), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    assert child.stderr is not None
    said: list[str] = []
    for line in (AT_WORK, STOPPING)[:presses]:
        for told in child.stderr:
            said.append(told)
            if told.strip() == line:
                break
        else:
            raise AssertionError("".join(said))
        os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=90)
    return Ran(child.returncode, out, err)


@pytest.fixture
def words(
    command: str, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> list[str | Path]:
    """A command on small files."""
    out = tmp_path / "out"
    of_avatar: list[str | Path] = ["--avatar", debug_avatar, "--output"]
    given: dict[str, list[str | Path]] = {
        "dub": [face, speech, *of_avatar, out.with_suffix(".mp4")],
        "landmarks": [face, speech, *of_avatar, out.with_suffix(".npz")],
        "talk": [speech, *of_avatar, out.with_suffix(".mp4")],
        "prepare": [face, "--output", out, "--features", "mel", "--workers", "1"],
        "train": [face, "--output", out, "--consent", "c", "--preset", "debug", "--start", "none"],
        "evaluate": [debug_avatar, face, "--report", out, "--rows", "own_audio"],
    }
    return [command, *given[command]]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("dub", "goes on"),
        ("talk", "goes on"),
        ("prepare", "goes on"),
        ("train", "goes on"),
        ("landmarks", "starts again"),
        ("evaluate", "starts again"),
    ],
)
def test_ctrl_c_ends_with_130_and_says_what_comes_next(
    hint: str, words: list[str | Path], tmp_path: Path
) -> None:
    ran = stopped(1, *words)
    ran.failed(130, "stopped", hint)
    assert ran.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".mp4", ".npz")] == []


@pytest.mark.parametrize("command", ["dub", "landmarks"])
@pytest.mark.parametrize("presses", [1, 2])
def test_with_json_an_object_is_left_however_often_it_is_pressed(
    words: list[str | Path], presses: int
) -> None:
    ran = stopped(presses, *words, "--json")
    ran.failed(130, "stopped")
    error = ran.record["error"]
    assert (error["exit_code"], error["found"]) == (130, "stopped")
    assert error["fix"] in ran.err
    assert json.loads(ran.out) == ran.record
