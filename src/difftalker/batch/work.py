"""One job of a batch carried out: inputs fetched, outputs made apart and then published."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from difftalker.batch.lines import AVATARS, Task, failure_of
from difftalker.batch.places import Folder
from difftalker.core.jobs import Cancel, OnEvent, never, no_event
from difftalker.errors import Cancelled, DiffTalkerError, UsageError

WORK = ".work"
"""Within the folder of results: what is being made, by names, and hashes of inputs."""

State = Literal["done", "failed", "elsewhere"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job of a batch ended."""

    task: Task
    state: State
    """``elsewhere``: another process is at it."""
    seconds: float = 0.0
    attempts: int = 1
    error: dict[str, str] | None = None
    """Why it failed: ``kind``, ``message``, ``found``, ``wanted`` and ``fix``."""

    def record(self) -> dict[str, Any]:
        """The result as a line of ``results.jsonl``."""
        outputs = dict(self.task.outputs) if self.state == "done" else {}
        return {
            "line": self.task.line,
            "name": self.task.name,
            "state": self.state,
            "outputs": outputs,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
            "error": self.error,
            "job": self.task.job.to_json(),
        }


def attempted(
    task: Task,
    folder: Folder,
    scratch: Path,
    retries: int,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> Result:
    """Carry a job out, again after a failure; wrong use fails at once.

    Raises:
        Cancelled: ``cancel`` returned True.
    """
    began = time.monotonic()
    for attempt in range(1, retries + 2):
        error: DiffTalkerError
        try:
            done = carried_out(task, folder, scratch, on_event, cancel)
            state: State = "done" if done else "elsewhere"
            seconds = time.monotonic() - began
            return Result(task=task, state=state, seconds=seconds, attempts=attempt)
        except Cancelled:
            raise
        except UsageError as wrong:
            error = wrong
            break
        except DiffTalkerError as failed:
            error = failed
        except Exception as failed:  # whatever it is, the rest goes on
            reason = (str(failed).strip().splitlines() or [""])[0]
            error = DiffTalkerError(f"an unexpected {type(failed).__name__}: {reason}")
    seconds, why = time.monotonic() - began, failure_of(error)
    return Result(task=task, state="failed", seconds=seconds, attempts=attempt, error=why)


def carried_out(
    task: Task,
    folder: Folder,
    scratch: Path,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> bool:
    """Carry a job out and publish what it makes; False where another process is at it.

    What a killed process began in a folder of this machine is gone on with. The lock is the
    system's: it ends with the process that holds it.
    """
    if folder.local is None:
        made_apart(task, folder, scratch / task.name, scratch, on_event, cancel)
        return True
    work = folder.local / WORK
    work.mkdir(exist_ok=True)
    with _held(work / f"{task.name}.lock") as is_ours:
        if is_ours and not task.is_done(folder.names()):
            made_apart(task, folder, work / task.name, scratch, on_event, cancel)
    return is_ours


def made_apart(
    task: Task,
    folder: Folder,
    stage: Path,
    scratch: Path,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> None:
    """Carry a job out with its outputs in ``stage``, and publish them, the main one last."""
    stage.mkdir(parents=True, exist_ok=True)
    task.placed(stage, scratch).run(on_event, cancel)
    for name in task.outputs.values():
        folder.publish(stage / name, name)
    shutil.rmtree(stage, ignore_errors=True)


def cleared(scratch: Path) -> None:
    """Remove what was fetched for a job; avatars stay."""
    for one in scratch.iterdir():
        if one.name != AVATARS:
            shutil.rmtree(one, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a lock for a block; False where another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        lock.release()
