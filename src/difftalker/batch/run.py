"""Batches: a file of jobs, each carried out once, here or by workers of a Ray cluster.

DIR/NAME.mp4         a result; the name is the hash of the job and of its inputs' content
DIR/NAME.report.json what else the job asked for
DIR/results.jsonl    how each job ended, a line each
DIR/.work            what is being made
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difftalker.batch.lines import (
    Line,
    Names,
    Task,
    failure_of,
    of_shard,
    read_lines,
)
from difftalker.batch.options import BatchOptions
from difftalker.batch.places import Folder, PlaceError, is_remote, opened
from difftalker.batch.results import Results
from difftalker.batch.work import WORK, Result, attempted, cleared
from difftalker.core.jobs import Cancel, Event, OnEvent, never, no_event
from difftalker.errors import Cancelled, DiffTalkerError


@dataclass(kw_only=True)
class Summary:
    """What a batch did."""

    jobs: int = 0
    """Lines of this shard, equal ones counted once."""
    done_before: int = 0
    done: int = 0
    elsewhere: int = 0
    """Jobs that another process is at."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the results."""


def run_batch(
    jobs: str | Path,
    folder: str | Path,
    options: BatchOptions | None = None,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> Summary:
    """Carry out the jobs of a file that are not done yet.

    A job that fails is a line of the results, and the rest goes on. ``jobs`` and ``folder``, and
    whatever the jobs read, may be paths of this machine or such as fsspec knows.

    ``on_event`` is called with the stage ``batch`` whenever a job has ended, and with the stages of
    the jobs between.

    Raises:
        PlaceError: the file cannot be read, or the results cannot be written.
        Cancelled: ``cancel`` returned True; the same call goes on from there.
    """
    options = options or BatchOptions()
    lines = of_shard(list(read_lines(_text(str(jobs)))), options.shard)
    place = Folder(str(folder))
    results = Results(place, options.shard)
    summary = Summary(jobs=len(lines))
    todo = _todo(lines, place, results, summary)
    for count, result in enumerate(_results(todo, place, options, on_event, cancel), 1):
        _note(result, results, summary)
        on_event(Event(stage="batch", done=count, total=len(todo), text=result.task.name))
        if cancel():
            raise Cancelled("cancelled", fix="the same batch goes on from here")
    return summary


def _text(jobs: str) -> str:
    """The content of the file of jobs."""
    try:
        if not is_remote(jobs):
            return Path(jobs.removeprefix("file://")).read_text(encoding="utf-8-sig")
        fs, path = opened(jobs)
        return bytes(fs.cat_file(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PlaceError(
            f"{jobs} cannot be read: {reason}", wanted="a job a line, JSON in UTF-8"
        ) from error


def _todo(lines: Sequence[Line], place: Folder, results: Results, summary: Summary) -> list[Task]:
    """Jobs that are not done; what is done, or no job, is noted."""
    memo = place.local and place.local / WORK / "hashes.jsonl"
    if memo:
        memo.parent.mkdir(exist_ok=True)
    names, there, seen = Names(memo), place.names(), set[str]()
    news: list[dict[str, Any]] = []
    todo: list[Task] = []
    for line in lines:
        try:
            task = names.of(line)
        except DiffTalkerError as error:
            why: dict[str, Any] = {
                "line": line.number,
                "name": None,
                "state": "failed",
                "outputs": {},
            }
            why |= {"seconds": 0.0, "attempts": 0, "error": failure_of(error), "job": line.record}
            summary.failed.append(why)
            continue
        if task.name in seen:
            continue
        seen.add(task.name)
        if not task.is_done(there):
            todo.append(task)
            continue
        summary.done_before += 1
        if not results.says_done(task.name):
            news.append(Result(task=task, state="done").record())
    results.add(*summary.failed, *news)
    return todo


def _note(result: Result, results: Results, summary: Summary) -> None:
    if result.state == "elsewhere":
        summary.elsewhere += 1
        return
    results.add(result.record())
    if result.state == "done":
        summary.done += 1
    else:
        summary.failed.append(result.record())


def _results(
    todo: Sequence[Task],
    place: Folder,
    options: BatchOptions,
    on_event: OnEvent,
    cancel: Cancel,
) -> Iterator[Result]:
    """How each job ended, as they end."""
    if not todo:
        return
    if options.ray:
        from difftalker.batch.cluster import on_ray

        yield from on_ray(todo, place, options, cancel)
        return
    from difftalker.core.device import use_threads
    from difftalker.dubbing.loaded import avatars_kept, new_shelf

    use_threads(options.threads)
    with (
        tempfile.TemporaryDirectory(prefix="difftalker-batch-") as scratch,
        avatars_kept(new_shelf(options.avatars)),
    ):
        for task in todo:
            yield attempted(task, place, Path(scratch), options.retries, on_event, cancel)
            cleared(Path(scratch))
