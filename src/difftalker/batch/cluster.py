"""A batch on Ray: workers that stay, one a device, and the pieces of work that they are given.

Which worker does what is known here alone, and a worker has one piece at a time: nothing is locked,
and what a worker that dies was at is given to another. Only finished results reach the folder.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from difftalker.batch.lines import Task, failure_of
from difftalker.batch.options import BatchOptions
from difftalker.batch.places import Folder
from difftalker.batch.work import Result
from difftalker.batch.worker import Answer, Worker
from difftalker.core.jobs import Cancel
from difftalker.errors import Cancelled, DiffTalkerError

CONNECT_S = 10.0
"""How long a cluster may take to answer, seconds."""


class RayError(DiffTalkerError):
    """A Ray cluster that cannot be used."""


@dataclass(kw_only=True)
class OpenJob:
    """A job that is under way."""

    task: Task
    began: float = field(default_factory=time.monotonic)
    attempts: int = 1
    opened: Any = None
    """Where its track and landmarks are."""
    to_paint: int = 0
    """Parts that are not painted yet."""
    painted: list[Any] = field(default_factory=list)
    """Where its new faces are."""
    is_over: bool = False


@dataclass(kw_only=True)
class Piece:
    """Something for a worker to do."""

    job: OpenJob
    kind: Literal["open", "paint", "join"]
    part: range = range(0)
    deaths: int = 0


def on_ray(
    todo: Sequence[Task], place: Folder, options: BatchOptions, cancel: Cancel
) -> Iterator[Result]:
    """Carry jobs out on a Ray cluster; how each ended, as they end.

    Raises:
        RayError: there is no such cluster, or Ray is not installed.
        Cancelled: ``cancel`` returned True.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise RayError("Ray is not installed", fix="pip install 'difftalker[ray]'") from error
    with _connected(ray, options.ray):
        pool = _Pool(ray, place.text, options)
        try:
            yield from _Queue(pool, todo, options).results(cancel)
        finally:
            pool.close()


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to a cluster; Ray looks for its token itself, in RAY_AUTH_TOKEN for one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray has many
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RayError(
            f"the Ray cluster {address} cannot be reached: {reason}",
            wanted="local, auto, or the address of a cluster",
            fix="check it, and the token in RAY_AUTH_TOKEN where the cluster asks for one",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """See whether something listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    if address == "auto":  # where Ray looks for it, too
        noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray/ray_current_cluster"
        address = os.environ.get("RAY_ADDRESS", "")
        address = address or (noted.read_text().strip() if noted.is_file() else "")
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


class _Pool:
    """The workers of a batch."""

    def __init__(self, ray: Any, folder: str, options: BatchOptions) -> None:
        self.ray, threads = ray, options.threads or 1
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": threads}
        kind: Any = ray.remote(Worker).options(max_restarts=0, **needs)
        self._new: Callable[[], Any] = lambda: kind.remote(
            folder, threads, options.avatars, options.part_s
        )
        count = options.workers or gpus or int(there.get("CPU", 1)) // threads or 1
        hired = [self._new() for _ in range(count)]
        self.starting = {worker.ready.remote(): worker for worker in hired}
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, Piece, Any]] = {}
        self._starts = options.deaths

    def give(self, piece: Piece) -> None:
        """Let an idle worker do a piece."""
        worker, task = self.idle.pop(), piece.job.task
        if piece.kind == "open":
            words: tuple[Any, ...] = (task,)
        elif piece.kind == "paint":
            words = (task, piece.job.opened, piece.part)
        else:  # in a list: the worker takes one at a time, so that not all are held at once
            words = (task, _Fetched([piece.job.opened, *piece.job.painted]))
        answer, made = getattr(worker, piece.kind).options(num_returns=2).remote(*words)
        self.busy[answer] = worker, piece, made

    def ended(self, wait_s: float) -> list[tuple[Piece, Answer | None, Any]]:
        """Pieces that ended, their answers, and where what was made is.

        There is no answer of a worker that died, or whose inputs are lost.

        Raises:
            RayError: no worker starts.
        """
        refs = [*self.starting, *self.busy]
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=wait_s)
        return [one for ref in ready if (one := self._end(ref))]

    def _end(self, ref: Any) -> tuple[Piece, Answer | None, Any] | None:
        starting = self.starting.pop(ref, None)
        worker, piece, made = self.busy.pop(ref, (starting, None, None))
        answer = None
        try:
            answer = self.ray.get(ref)
            self.idle.append(worker)
        except self.ray.exceptions.RayError as error:
            self._starts -= starting is not None
            if not self._starts:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise RayError(
                    f"no worker starts: {reason}", wanted="DiffTalker on every node of the cluster"
                ) from error
            with suppress(Exception):  # it may live, and be out of reach
                self.ray.kill(worker)
            fresh = self._new()
            self.starting[fresh.ready.remote()] = fresh
        return (piece, answer, made) if piece else None

    def close(self) -> None:
        """Send all workers home."""
        for worker in [*self.idle, *self.starting.values(), *(w for w, _, _ in self.busy.values())]:
            with suppress(Exception):
                self.ray.kill(worker)


class _Fetched:
    """Objects of the cluster, fetched one after the other."""

    def __init__(self, refs: list[Any]) -> None:
        self._refs = refs

    def __iter__(self) -> Iterator[Any]:
        get = import_module("ray").get
        return (get(ref) for ref in self._refs)


class _Queue:
    """The pieces of work that wait, those of jobs under way first: few jobs are open at a time."""

    def __init__(self, pool: _Pool, todo: Sequence[Task], options: BatchOptions) -> None:
        self._pool, self._options = pool, options
        self._fresh, self._begun = deque(todo), deque[Piece]()

    def results(self, cancel: Cancel) -> Iterator[Result]:
        """How each job ended, as they end."""
        pool = self._pool
        while self._fresh or self._begun or pool.busy:
            while pool.idle and (piece := self._next()):
                pool.give(piece)
            for piece, answer, made in pool.ended(1.0):
                yield from self._taken(piece, answer, made)
            if cancel():
                raise Cancelled("cancelled", fix="the same batch goes on from here")

    def _next(self) -> Piece | None:
        while self._begun:
            piece = self._begun.popleft()
            if not piece.job.is_over:
                return piece
        return Piece(job=OpenJob(task=self._fresh.popleft()), kind="open") if self._fresh else None

    def _taken(self, piece: Piece, answer: Answer | None, made: Any) -> Iterator[Result]:
        job = piece.job
        if job.is_over:
            return
        if answer is None:
            yield from self._died(piece)
        elif answer.error:
            yield from self._failed(piece, answer.error, answer.is_final)
        elif piece.kind == "open" and answer.parts:
            job.opened, job.to_paint = made, len(answer.parts)
            self._begun.extend(Piece(job=job, kind="paint", part=part) for part in answer.parts)
        elif piece.kind == "paint":
            job.painted.append(made)
            job.to_paint -= 1
            if not job.to_paint:
                self._begun.appendleft(Piece(job=job, kind="join"))
        else:
            yield self._over(job, "done")

    def _died(self, piece: Piece) -> Iterator[Result]:
        """Give what a dead worker was at to another; what it had made may be lost with it."""
        piece.deaths += 1
        if piece.deaths < self._options.deaths:
            if piece.kind == "open" or (piece.kind == "paint" and piece.deaths < 2):
                self._begun.appendleft(piece)
            else:  # its inputs may be lost
                self._again(piece.job, piece.deaths)
            return
        died = DiffTalkerError(
            f"{piece.deaths} workers died at it",
            fix="see whether their memory was used up (Ray's logs say so)",
        )
        yield from self._failed(piece, failure_of(died), is_final=True)

    def _failed(self, piece: Piece, error: dict[str, str], is_final: bool) -> Iterator[Result]:
        job = piece.job
        if is_final or job.attempts > self._options.retries:
            yield self._over(job, "failed", error)
            return
        job.attempts += 1
        self._again(job, piece.deaths)

    def _again(self, job: OpenJob, deaths: int) -> None:
        """Begin a job from the start; pieces of it that are under way do not count."""
        job.is_over = True
        anew = OpenJob(task=job.task, began=job.began, attempts=job.attempts)
        self._begun.appendleft(Piece(job=anew, kind="open", deaths=deaths))

    def _over(
        self, job: OpenJob, state: Literal["done", "failed"], error: dict[str, str] | None = None
    ) -> Result:
        job.is_over = True
        seconds = time.monotonic() - job.began
        return Result(
            task=job.task, state=state, seconds=seconds, attempts=job.attempts, error=error
        )
