"""Marks: whether a video was generated, by whom, and whether it was altered since."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from difftalker.server.bodies import Body, Id
from difftalker.server.context import Parts, User, refused
from difftalker.server.problems import refusal
from difftalker.server.verifying import verify

router = APIRouter(tags=["marks"])
_AT_ONCE = asyncio.Semaphore(1)


class Asked(Body):
    """A video whose marks are to be read."""

    file: Id
    """An upload, or a job that has made a video."""


@router.post("/v1/verify", responses=refused(404, 409, 503))
async def read_marks(asked: Asked, parts: Parts, user: User) -> dict[str, Any]:
    """What `difftalker verify --json` says of an upload, or of the video that a job made."""
    job = parts.store.job(user, asked.file)
    if job is None:
        path, name = parts.planner.file(user, asked.file), "the file"
    else:
        made = parts.places.files(job.kind, job.id).get("video.mp4")
        if job.state != "succeeded" or made is None:
            raise refusal(409, f"the job {job.id} has no video", wanted="a dub or a talk")
        path, name = made, "the video"
    async with _AT_ONCE:
        return await verify(path, name, parts.settings.limits)
