"""The queue: jobs go to worker processes, so many at a time, fair to all users."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from difftalker.errors import DiffTalkerError
from difftalker.server.places import Places
from difftalker.server.plans import SAMPLES, Planner
from difftalker.server.problems import Problem, facts
from difftalker.server.settings import Settings
from difftalker.server.store import JobRow, State, Store

logger = logging.getLogger(__name__)

STAGES = {
    "dub": ("locate", "complete", "render"),
    "talk": ("complete", "render"),
    "landmarks": ("locate", "complete", "preview"),
}
"""Stages of a job, all of as many units: earlier jobs tell how long later ones take."""
FRESH = ("train", "evaluate")
"""Kinds after which a worker is not used again: they change settings of the whole process."""
_LONGEST_LINE = 1 << 24


class Changes:
    """Wakes those who wait for a job to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for a change, so many seconds at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)


class Worker:
    """A worker process, which takes one job after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls) -> Worker:
        """Start one; it loads the libraries meanwhile."""
        command = "import sys; sys.path[:] = sys.argv[1:]; import difftalker.server.worker as w"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", f"{command}; w.main()", *sys.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
        return cls(process)

    @property
    def is_alive(self) -> bool:
        """Whether it can take a job."""
        return self.process.returncode is None

    def kill(self) -> None:
        """End it, and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def send(self, order: dict[str, Any]) -> None:
        """Give it an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        with suppress(ConnectionError):
            await self.process.stdin.drain()

    async def answer(self) -> dict[str, Any] | None:
        """Its next answer; None where it has ended."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            await self.process.wait()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer


class Runner:
    """Runs what is queued."""

    def __init__(self, settings: Settings, store: Store, places: Places, planner: Planner) -> None:
        self._settings, self._store = settings, store
        self._places, self._planner = places, planner
        self._at_work: dict[str, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.changes = Changes()
        self.ended: list[tuple[str, State, float]] = []
        """(kind, state, seconds) of jobs that ended and were not counted yet."""

    async def start(self) -> None:
        """Go on with what the last server left, and with the queue."""
        for job in self._store.requeue():
            logger.warning("the job %s goes on", job.id)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.jobs)]

    async def stop(self) -> None:
        """Let the jobs that run wait for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Whether all of the queue's tasks are at work."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def cancel(self, job: JobRow) -> None:
        """End a job that waits or runs; nothing of it is left."""
        if not self._store.end_job(job.id, "cancelled"):
            return
        worker = self._at_work.get(job.id)
        if worker is None:
            self._places.clear_job(job.id)
        else:
            worker.kill()
        self._count(job, "cancelled")

    async def _work(self) -> None:
        worker = await Worker.start()
        try:
            while True:
                job = self._store.next_job()
                if job is None:
                    await self.changes.wait(1.0)
                    continue
                if not worker.is_alive:
                    worker = await Worker.start()
                await self._run(job, worker)
                if job.kind in FRESH:
                    worker.kill()
                    await worker.process.wait()
        finally:
            worker.kill()

    async def _run(self, job: JobRow, worker: Worker) -> None:
        self.changes.tell()
        try:
            order = self._planner.order(job)
        except (Problem, DiffTalkerError, OSError) as error:
            self._end(job, "failed", error=facts(_told(error)))
            return
        self._at_work[job.id] = worker
        try:
            async with asyncio.timeout(3600 * self._settings.job_hours):
                await worker.send(order)
                answer = await self._followed(job, worker)
        except TimeoutError:
            worker.kill()
            answer = {"error": facts(self._too_long())}
        finally:
            del self._at_work[job.id]
        await self._conclude(job, worker, answer)

    async def _followed(self, job: JobRow, worker: Worker) -> dict[str, Any] | None:
        """The last answer to an order; None where the worker has ended."""
        pace = Pace(self._store, job)
        while answer := await worker.answer():
            if "event" in answer:
                event = answer["event"]
                event |= self._named(job.user, {"text": event["text"]})
                self._store.set_progress(job.id, pace.progress(event))
                self.changes.tell()
            elif "ready" not in answer:
                pace.keep()
                return answer
        return None

    async def _conclude(self, job: JobRow, worker: Worker, answer: dict[str, Any] | None) -> None:
        if self._store.found_job(job.id).state == "cancelled":
            if answer is not None:
                worker.kill()
            await worker.process.wait()
            self._places.clear_job(job.id)
        elif answer is None:
            code = worker.process.returncode
            error = DiffTalkerError(
                f"the process of the job ended by itself ({code})",
                fix="it may have been short of memory: try again, or with smaller footage",
            )
            self._end(job, "failed", error=facts(error))
        elif "error" in answer:
            self._end(job, "failed", error=self._named(job.user, answer["error"]))
        else:
            self._succeed(job, answer["result"])

    def _named(self, user: str, texts: dict[str, str]) -> dict[str, str]:
        """Texts with the names that clients know in place of the server's paths."""
        if not any(os.sep in text for text in texts.values()):
            return texts
        uploads = self._store.uploads(user)
        names = {str(self._places.uploads / one.file): one.name for one in uploads}
        names |= {one.file: one.name for one in uploads}
        names |= {str(path): path.name for path in (sample() for sample in SAMPLES.values())}
        names[f"{self._places.folder}{os.sep}"] = ""
        for path, name in names.items():
            texts = {key: text.replace(path, name) for key, text in texts.items()}
        return texts

    def _succeed(self, job: JobRow, result: dict[str, Any]) -> None:
        if job.kind == "train" and result["trained"]:
            self._store.add_avatar(job.id, job.user, job.id)
            result["avatar"] = job.id
        self._end(job, "succeeded", result=result)

    def _end(
        self,
        job: JobRow,
        state: State,
        *,
        error: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        if self._store.end_job(job.id, state, error=error, result=result):
            self._count(job, state)

    def _count(self, job: JobRow, state: State) -> None:
        self.ended.append((job.kind, state, time.time() - (job.started or job.made)))
        self.changes.tell()

    def _too_long(self) -> DiffTalkerError:
        return DiffTalkerError(
            f"the job took longer than {self._settings.job_hours:g} hours",
            fix="give it less, or ask the owner of the server for more time",
        )


class Pace:
    """Estimates how long a job still takes, from what it did and from earlier jobs."""

    def __init__(self, store: Store, job: JobRow) -> None:
        self._store, self._kind = store, job.kind
        self._stage, self._began, self._first, self._done = "", 0.0, 0, 0

    def progress(self, event: dict[str, Any]) -> dict[str, Any]:
        """How far the job is, with an estimate where there is one."""
        now = time.monotonic()
        if event["stage"] != self._stage:
            self.keep()
            self._stage, self._began, self._first = event["stage"], now, event["done"]
        self._done = event["done"]
        return {**event, "remaining_s": self._remaining(event, now)}

    def keep(self) -> None:
        """Remember the pace of the stage that ends."""
        units = self._done - self._first
        if self._stage and units > 0:
            unit_s = (time.monotonic() - self._began) / units
            self._store.set_pace(self._kind, self._stage, unit_s)

    def _remaining(self, event: dict[str, Any], now: float) -> float | None:
        units, total = event["done"] - self._first, event["total"]
        unit_s = (now - self._began) / units if units > 0 else None
        unit_s = unit_s or self._store.pace(self._kind, event["stage"])
        if unit_s is None:
            return None
        stages = STAGES.get(self._kind, ())
        later = stages[stages.index(self._stage) + 1 :] if self._stage in stages else ()
        paces = [self._store.pace(self._kind, stage) or 0.0 for stage in later]
        left_s: float = unit_s * (total - event["done"]) + total * sum(paces)
        return round(left_s, 1)


def _told(error: Exception) -> DiffTalkerError:
    if isinstance(error, Problem):
        return error.error
    if isinstance(error, DiffTalkerError):
        return error
    return DiffTalkerError("the server's disk cannot be written", fix="tell its owner")
