"""The journal: pieces kept and refused, and one run for each output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.store.journal import Journal, key_of, pack, unpack
from helpers_dub import forkserver


def test_pieces_come_back_and_damaged_ones_do_not(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.mp4", keep=True) as journal:
        journal.put("faces", key_of(1), b"one")
        assert journal.get("faces", key_of(1)) == b"one"
        assert journal.get("track", key_of(1)) is None
        assert journal.get("faces", key_of(2)) is None
        (piece,) = journal.folder.glob("faces-*")
        whole = piece.read_bytes()
        for damaged in (whole[:-1], whole[:7], b"", whole[:-1] + b"x"):
            piece.write_bytes(damaged)
            assert journal.get("faces", key_of(1)) is None


def test_arrays_are_packed_and_keyed_by_content() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array([np.nan, 1], np.float32),
    }
    back = unpack(pack(arrays))
    assert all(np.array_equal(back[k], arrays[k], equal_nan=k == "b") for k in arrays)
    assert back["b"].dtype == np.float32
    a = np.arange(6)
    same = key_of(a, "x", 1)
    assert same == key_of(a.copy(), "x", 1)
    others: list[tuple[object, ...]] = [
        (a.reshape(2, 3), "x", 1),
        (a.astype(np.int32), "x", 1),
        (a + 1, "x", 1),
    ]
    others += [(a, "x1"), (a, "", "x", 1), (a, "x", "1")]
    assert len({same, *(key_of(*other) for other in others)}) == len(others) + 1


def put_and_fail(journal: Journal) -> None:
    journal.put("faces", key_of(1), b"one")
    raise MediaError("the disk is full")


def test_the_folder_goes_after_success_and_stays_after_failure(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.mp4")
    with journal:
        journal.put("faces", key_of(1), b"one")
    assert not any(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), journal:
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir()), "nothing was finished: nothing is kept"
    with pytest.raises(MediaError), journal:
        put_and_fail(journal)
    (journal.folder / ".out.half.mp4").write_bytes(b"half a video of a killed run")
    with Journal(tmp_path / "out.mp4", keep=True) as again:
        assert again.get("faces", key_of(1)) == b"one"
        again.put("faces", key_of(2), b"two")
    with Journal(tmp_path / "out.mp4", keep=True) as again:
        assert again.get("faces", key_of(2)) == b"two"
    left = [path.name for path in journal.folder.iterdir()]
    assert left == [f"faces-{key_of(2)[:40]}"], "only what the last run used is kept"


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.mp4"):
        with pytest.raises(MediaError, match=f"process {os.getpid()} ") as refused:
            Journal(tmp_path / "out.mp4").__enter__()
        assert "\n" not in str(refused.value)
        with Journal(tmp_path / "other.mp4"):
            pass
    with Journal(tmp_path / "out.mp4"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from difftalker.store.journal import Journal
with Journal(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"held\n"
    with pytest.raises(MediaError, match=f"process {run.pid} "):
        Journal(output).__enter__()
    run.kill()
    run.communicate()
    with Journal(output) as journal:
        assert str(os.getpid()) in (journal.folder / "holder").read_text()
    assert not any(tmp_path.iterdir())


def test_files_of_a_lock_alone_hold_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.mp4")
    journal.folder.mkdir()
    (journal.folder / "lock").write_text("1 1 elsewhere.example\n")
    (journal.folder / "holder").write_bytes(b"\xff")
    with journal:
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no forkserver")
def test_of_many_runs_at_once_one_gets_the_output(tmp_path: Path) -> None:
    """Several processes come and go; at no time do two of them hold the same output."""
    context = forkserver()
    start, inside = context.Event(), context.Array("i", 2)
    runs = [
        context.Process(target=take_and_count, args=(tmp_path / "out.mp4", start, inside))
        for _ in range(6)
    ]
    for run in runs:
        run.start()
    start.set()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0] * len(runs)
    assert inside[1] == 1, "two runs held the output at once"


def take_and_count(output: Path, start: Event, inside: Any) -> None:
    """Hold the output a few times; ``inside`` is how many hold it now, and the most that did."""
    start.wait(30)
    for _ in range(20):
        try:
            with Journal(output):
                with inside.get_lock():
                    inside[0] += 1
                    inside[1] = max(inside[1], inside[0])
                time.sleep(0.002)
                with inside.get_lock():
                    inside[0] -= 1
        except MediaError:
            time.sleep(0.002)
