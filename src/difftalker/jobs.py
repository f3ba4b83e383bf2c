"""All jobs: read one from its record, and run it.

    job = difftalker.DubJob(video="v.mp4", audio="a.wav", avatar="grid-s1", output="out.mp4")
    difftalker.run(job, on_event=print)

A kind of job is added by its class, in ``JOBS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from difftalker.core.jobs import Cancel, Job, OnEvent, never, no_event
from difftalker.dubbing.jobs import DubJob, LandmarksJob, TalkJob
from difftalker.errors import UsageError
from difftalker.evaluation.jobs import EvaluateJob
from difftalker.training.jobs import TrainJob

JOBS: dict[str, type[Job]] = {
    job.kind: job for job in (DubJob, TalkJob, LandmarksJob, TrainJob, EvaluateJob)
}
"""Classes of jobs by their kind."""


def read_job(record: Mapping[str, Any]) -> Job:
    """The job of a record that ``to_json`` gave, of whatever kind.

    Raises:
        UsageError: there is no such kind, or a key or value is unknown, missing or wrong.
    """
    kind = record.get("job")
    if kind not in JOBS:
        raise UsageError(f"job is {kind!r:.80}", wanted=" or ".join(map(repr, JOBS)))
    return JOBS[kind].from_json(record)


def run(job: Job, on_event: OnEvent = no_event, cancel: Cancel = never) -> Any:
    """Carry a job out; returns what its class's ``run`` gives.

    ``on_event`` is called with each :class:`difftalker.core.jobs.Event`. ``cancel`` is asked
    between frames, chunks or steps, in the thread that runs the job.

    Raises:
        Cancelled: ``cancel`` returned True; the same job goes on from there when run again.
        DiffTalkerError: the job failed; says what was found, what was wanted and what to do.
    """
    return job.run(on_event, cancel)
