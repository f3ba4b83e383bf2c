"""``difftalker batch``."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock

from difftalker.batch.work import WORK
from helpers_cli import Command


def test_a_batch_is_done_once_and_says_what_failed(
    run: Command, tmp_path: Path, live_avatar: Path, speech: Path
) -> None:
    talk = {"job": "talk", "audio": str(speech), "avatar": str(live_avatar), "fps": 5}
    lines = [talk, {**talk, "audio": "missing.wav"}]
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = run("batch", jobs, "--output", out, "--json")
    assert first.code == 1
    assert (first.record["jobs"], first.record["done"]) == (2, 1)
    assert first.record["failed"][0]["line"] == 2
    second = run("batch", jobs, "-o", out, "--shard", "0/2")
    assert second.code == 0
    assert "0 of 1 jobs done now, 1 before, 0 failed" in second.out
    run("batch", jobs, "-o", out, "--shard", "1/2").failed(1, "line 2: no such file: missing.wav")
    [made] = out.glob("*.mp4")
    made.unlink()
    with FileLock(out / WORK / f"{made.stem}.lock"):
        third = run("batch", jobs, "-o", out, "--shard", "0/2")
    assert "0 of 1 jobs done now, 0 before, 0 failed; another process is at 1" in third.out


def test_wrong_use_of_a_batch_is_one_line(run: Command, tmp_path: Path) -> None:
    run("batch", tmp_path / "none.jsonl", "-o", tmp_path).failed(1, "cannot be read")
    run("batch", tmp_path / "none.jsonl", "-o", tmp_path, "--shard", "3/3").failed(2, "i/n")
    run("batch", tmp_path / "none.jsonl").failed(2, "--output")
