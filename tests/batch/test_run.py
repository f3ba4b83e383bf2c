"""Batches on this machine: each job once, whatever happens to the others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from difftalker.batch.lines import Line, of_shard, parse_shard, read_lines
from difftalker.batch.options import BatchOptions
from difftalker.batch.places import PlaceError
from difftalker.batch.run import run_batch
from difftalker.batch.work import WORK
from difftalker.core.jobs import Event
from difftalker.dubbing.jobs import TalkJob
from difftalker.errors import Cancelled, UsageError

Talk = Callable[..., dict[str, Any]]
Jobs = Callable[..., Path]


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*") if path.name != "results.jsonl")


def test_each_job_is_done_once_and_a_failed_one_is_a_line(
    talk: Talk, jobs: Jobs, tmp_path: Path
) -> None:
    lines = [talk(1), talk(audio="missing.wav"), "", talk(fps=0), talk(1), talk(2), "{no"]
    path, events = jobs(*lines), list[Event]()
    first = run_batch(path, tmp_path / "out", on_event=events.append)
    assert (first.jobs, first.done, first.done_before, len(first.failed)) == (5, 2, 0, 3)
    found = results_of(tmp_path / "out")
    assert [(one["line"], one["state"]) for one in found] == [
        (2, "failed"),
        (7, "failed"),
        (1, "done"),
        (4, "failed"),
        (6, "done"),
    ]
    assert found[0]["error"]["found"] == "no such file: missing.wav"
    assert found[1]["error"]["found"] == "line 7 is '{no'"
    assert found[3]["error"]["kind"] == "UsageError"
    assert "1 to 120" in found[3]["error"]["wanted"]
    made = [one["outputs"]["output"] for one in found if one["state"] == "done"]
    assert files_of(tmp_path / "out") == sorted(made)
    assert [e.done for e in events if e.stage == "batch"] == [1, 2, 3]

    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}
    second = run_batch(path, tmp_path / "out")
    assert (second.done, second.done_before, len(second.failed)) == (0, 2, 3)
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}


def test_a_result_is_what_the_job_alone_makes(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    line = talk(3)
    run_batch(jobs(line), tmp_path / "out")
    TalkJob.from_json({**line, "output": str(tmp_path / "alone.mp4")}).run()
    [name] = files_of(tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    assert not list((tmp_path / "out" / WORK).glob("*/"))


def test_names_follow_the_content_and_not_the_place(
    talk: Talk, jobs: Jobs, tmp_path: Path, folder: Path
) -> None:
    moved = shutil.copy(folder / "speech.wav", tmp_path / "same.wav")
    path = jobs(talk(), talk(audio=str(moved)), talk(output="elsewhere/x.mp4", keep_journal=True))
    summary = run_batch(path, tmp_path / "out")
    assert (summary.jobs, summary.done) == (3, 1)
    other = Path(moved)
    other.write_bytes(other.read_bytes()[:-2000])
    assert run_batch(path, tmp_path / "out").done == 1
    assert run_batch(jobs(talk(output="x.mkv", lossless=True)), tmp_path / "out").done == 1
    assert {Path(name).suffix for name in files_of(tmp_path / "out")} == {".mp4", ".mkv"}


def test_shards_share_the_jobs(talk: Talk, jobs: Jobs) -> None:
    lines = list(read_lines(jobs(*[talk(n) for n in range(10)], talk(4)).read_text()))
    shards = [of_shard(lines, parse_shard(f"{i}/3")) for i in range(3)]
    assert sorted(one.number for shard in shards for one in shard) == list(range(1, 11))
    assert {len(shard) for shard in shards} == {3, 4}
    for wrong in ("3/3", "1", "-1/3", "a/b", "0/0"):
        with pytest.raises(UsageError, match="--shard"):
            parse_shard(wrong)


def test_a_failure_is_tried_again_but_not_wrong_use(
    talk: Talk, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = TalkJob.run, []

    def flaky(self: TalkJob, *words: Any) -> Any:
        tries.append(self.seed)
        if len(tries) < 3:
            raise OSError("the disk is away")
        return run(self, *words)

    monkeypatch.setattr(TalkJob, "run", flaky)
    path = jobs(talk(1), talk(2, renderer="none"))
    summary = run_batch(path, tmp_path / "out", BatchOptions(retries=2))
    assert (summary.done, tries) == (1, [1, 1, 1, 2])
    assert [one["attempts"] for one in results_of(tmp_path / "out")] == [3, 1]
    tries.clear()
    summary = run_batch(jobs(talk(5)), tmp_path / "out", BatchOptions(retries=1))
    assert "the disk is away" in summary.failed[0]["error"]["message"]


def test_a_byte_order_mark_is_no_part_of_a_job(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    path = jobs(talk(1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert run_batch(path, tmp_path / "out").done == 1
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(PlaceError, match="UTF-8"):
        run_batch(path, tmp_path / "out")


def test_what_another_process_is_at_is_left_to_it(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    path = jobs(talk(1))
    run_batch(path, tmp_path / "out")
    [name] = files_of(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with FileLock(tmp_path / "out" / WORK / f"{Path(name).stem}.lock"):
        summary = run_batch(path, tmp_path / "out")
    assert (summary.elsewhere, summary.done, summary.failed) == (1, 0, [])
    assert run_batch(path, tmp_path / "out").done == 1


def test_a_batch_that_was_cancelled_goes_on(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    path, seen = jobs(talk(1), talk(2)), list[Event]()
    with pytest.raises(Cancelled):
        run_batch(
            path,
            tmp_path / "out",
            on_event=seen.append,
            cancel=lambda: any(one.stage == "batch" for one in seen),
        )
    summary = run_batch(path, tmp_path / "out")
    assert (summary.done_before, summary.done) == (1, 1)


def test_a_result_line_cut_off_by_a_kill_harms_nothing(
    talk: Talk, jobs: Jobs, tmp_path: Path
) -> None:
    path = jobs(talk(1))
    run_batch(path, tmp_path / "out")
    results = tmp_path / "out" / "results.jsonl"
    os.truncate(results, results.stat().st_size // 2)
    summary = run_batch(path, tmp_path / "out")
    assert (summary.done_before, summary.failed) == (1, [])
    assert json.loads(results.read_text().splitlines()[-1])["state"] == "done"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="cannot be read"):
        run_batch(tmp_path / "none.jsonl", tmp_path / "out")


def test_kind_may_stand_for_job(talk: Talk) -> None:
    line = talk()
    request = {"kind" if key == "job" else key: value for key, value in line.items()}
    one, other = (Line(number=1, record=record).job for record in (line, request))
    assert one == other
    with pytest.raises(UsageError, match="unknown key 'kind'"):
        _ = Line(number=1, record={**line, "kind": "dub"}).job
