"""What a worker does: whole jobs, or parts of a long dub.

open     footage and speech -> where the face is, its landmarks, and parts to be painted
paint    a part -> its new faces
join     all new faces -> the video: the job as one process does it, but for what is painted already

All of them are pieces of one journal (``store.journal``), so that what is lost on the way is made
again by ``join``, to the same bytes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from difftalker.batch.lines import Task, failure_of
from difftalker.batch.places import Folder
from difftalker.batch.work import cleared, made_apart
from difftalker.core.allocator import steady
from difftalker.core.device import use_threads
from difftalker.dubbing.jobs import DubJob
from difftalker.dubbing.loaded import avatars_kept, new_shelf
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.media.limits import limited
from difftalker.media.video import probe_video
from difftalker.store.journal import Journal

Pieces = dict[str, bytes]
_SCRATCH = "difftalker-worker-"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a piece of work ended."""

    parts: tuple[range, ...] = ()
    """Frames that are to be painted apart; none where the job is done."""
    error: dict[str, str] | None = None
    is_final: bool = False
    """Whether the error would come again: wrong use."""


class Worker:
    """Carries out pieces of work, one at a time; avatars stay loaded."""

    def __init__(self, folder: str, threads: int, avatars: int, part_s: float) -> None:
        self._folder, self._part_s = folder, part_s
        self._scratch, self._lock = _own_scratch()
        self._task = ""
        self._shelf = new_shelf(avatars)
        steady()
        use_threads(threads)

    def ready(self) -> int:
        """The number of this process."""
        return os.getpid()

    def open(self, task: Task) -> tuple[Answer, Pieces]:
        """Carry a job out, or if it is a long dub, do what has to be done before it is painted."""
        return self._answered(lambda: self._open(task))

    def paint(self, task: Task, pieces: Pieces, part: range) -> tuple[Answer, Pieces]:
        """Paint frames of a dub that is open."""
        return self._answered(lambda: (Answer(), self._paint(task, pieces, part)))

    def join(self, task: Task, pieces: Iterable[Pieces]) -> tuple[Answer, Pieces]:
        """Make the video of what was painted."""
        return self._answered(lambda: self._join(task, pieces))

    def _open(self, task: Task) -> tuple[Answer, Pieces]:
        stage = self._stage(task)
        job = task.placed(stage, self._scratch)
        if isinstance(job, DubJob) and self._is_long(job):
            job.check()
            with limited(job.limits), Journal(Path(job.output), keep=True) as journal:
                opened = job.prepared().opened(journal, job.fit)
                length = round(self._part_s * float(opened.footage.info.fps))
                parts = opened.loop.parts(length)
                if len(parts) > 1:
                    return Answer(parts=tuple(parts)), journal.pieces()
        made_apart(task, Folder(self._folder), stage, self._scratch)
        return Answer(), {}

    def _paint(self, task: Task, pieces: Pieces, part: range) -> Pieces:
        stage = self._stage(task)
        job = task.placed(stage, self._scratch)
        assert isinstance(job, DubJob)
        with limited(job.limits), Journal(Path(job.output), keep=True) as journal:
            journal.take(pieces)
            opened = job.prepared().opened(journal, job.fit)
            for _ in opened.loop.paint(opened.shown(), part):
                pass
            return {k: v for k, v in journal.pieces().items() if k not in pieces}

    def _join(self, task: Task, pieces: Iterable[Pieces]) -> tuple[Answer, Pieces]:
        stage = self._stage(task)
        with Journal(stage / task.outputs["output"], keep=True) as journal:
            for some in pieces:
                journal.take(some)
        made_apart(task, Folder(self._folder), stage, self._scratch)
        return Answer(), {}

    def _is_long(self, job: DubJob) -> bool:
        length_s = probe_video(job.video).duration_s
        return length_s is not None and length_s >= 2 * self._part_s

    def _stage(self, task: Task) -> Path:
        """An empty folder for what is made; fetched inputs of another job before go."""
        if task.name != self._task:
            cleared(self._scratch)
        self._task, stage = task.name, self._scratch / task.name
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        return stage

    def _answered(self, work: Callable[[], tuple[Answer, Pieces]]) -> tuple[Answer, Pieces]:
        """What work gives, or how it failed; errors of others may not fit through a network."""
        try:
            with avatars_kept(self._shelf):
                return work()
        except DiffTalkerError as error:
            return Answer(error=failure_of(error), is_final=isinstance(error, UsageError)), {}
        except Exception as error:  # whatever it is, the rest goes on
            reason = (str(error).strip().splitlines() or [""])[0]
            failed = DiffTalkerError(f"an unexpected {type(error).__name__}: {reason}")
            return Answer(error=failure_of(failed)), {}


def _own_scratch() -> tuple[Path, FileLock]:
    """A folder of this process, and a lock that says so; those of dead processes are removed."""
    within = Path(tempfile.gettempdir())
    name = f"{_SCRATCH}{secrets.token_hex(8)}"
    own = FileLock(within / f"{name}.lock")
    own.acquire()
    for folder in within.glob(f"{_SCRATCH}*/"):
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        with suppress(Timeout, OSError), lock.acquire(blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
    (within / name).mkdir()
    return within / name, own
