"""Jobs: made, looked at, followed, cancelled, and their files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import FileResponse

from difftalker.server.bodies import AnyRequest, Id, JobView
from difftalker.server.context import Parts, Server, User, refused
from difftalker.server.places import MIME
from difftalker.server.problems import missing, refusal
from difftalker.server.store import ACTIVE, JobRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
KEEP_ALIVE_S = 10.0
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="A second request with this key is answered with the first one's job.",
    ),
]
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}},
    206: {"description": "The range that was asked for."},
    416: {"description": "There is no such range."},
}


@router.post("", status_code=202, responses={200: {"model": JobView}, **refused(404, 409, 429)})
async def make_a_job(
    request: Annotated[AnyRequest, Body()],
    parts: Parts,
    user: User,
    response: Response,
    key: Key = None,
) -> JobView:
    """Queue a job: a dub, a talk, landmarks, an evaluation or the training of an avatar."""
    view, is_new = new_job(parts, user, request, key)
    response.status_code = 202 if is_new else 200
    response.headers["location"] = f"/v1/jobs/{view.id}"
    return view


def new_job(parts: Server, user: str, request: AnyRequest, key: str | None) -> tuple[JobView, bool]:
    """Queue a job, or find the one that the key has made before, and whether it is new.

    Raises:
        Problem: the request does not hold together, or the queue is full.
    """
    asked = request.model_dump(mode="json")
    if key and (known := parts.store.job_of_key(user, key, asked)):
        job, is_same = known
        if not is_same:
            raise refusal(409, "another request had this Idempotency-Key", fix="use a new one")
        return parts.view(job), False
    parts.planner.check(user, request)
    if parts.store.count_active(user) >= parts.settings.queued:
        raise refusal(
            429,
            f"{parts.settings.queued} of your jobs wait already",
            fix="wait for one of them, or cancel it",
        )
    job = parts.store.add_job(user, request.kind, asked, key or "")
    parts.runner.changes.tell()
    return parts.view(job), True


@router.get("", response_model=list[JobView], responses=refused())
async def list_jobs(
    parts: Parts,
    user: User,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        int | None, Query(ge=1, le=1 << 62, description="The number of the last job seen.")
    ] = None,
) -> Response:
    """The user's jobs, the newest first."""
    versions = parts.store.versions(user, limit=limit, before=before)
    text = ",".join(parts.text(*one) for one in versions)
    return Response(f"[{text}]", media_type="application/json")


@router.get("/{job}", responses=refused(404))
async def see_a_job(job: Id, parts: Parts, user: User) -> JobView:
    """A job as it is now."""
    return parts.view(parts.job(user, job))


async def _followed(job: Id, parts: Parts, user: User) -> JobRow:
    return parts.job(user, job)


@router.get("/{job}/events", response_class=EventSourceResponse, responses=refused(404))
async def follow_a_job(
    found: Annotated[JobRow, Depends(_followed)], parts: Parts, user: User
) -> AsyncIterator[ServerSentEvent]:
    """The job whenever it changes, as server-sent events, until it has ended."""
    seen = 0
    while True:
        if found.version != seen:
            seen = found.version
            yield ServerSentEvent(
                data=parts.view(found).model_dump(mode="json"), event="job", id=str(seen)
            )
        if found.state not in ACTIVE:
            return
        await parts.runner.changes.wait(KEEP_ALIVE_S)
        now = parts.store.job(user, found.id)
        if now is None:
            return
        found = now


@router.get("/{job}/result", response_class=FileResponse, responses={**FILE, **refused(404, 409)})
async def get_the_result(job: Id, parts: Parts, user: User) -> FileResponse:
    """What the job was for: the first of its files; ranges are heeded."""
    found = parts.job(user, job)
    if found.state != "succeeded":
        raise refusal(409, f"the job is {found.state}", wanted="one that has succeeded")
    files = parts.places.files(found.kind, found.id)
    if not files:
        raise missing("file", "result")
    return _file(files, next(iter(files)))


@router.get(
    "/{job}/files/{name:path}", response_class=FileResponse, responses={**FILE, **refused(404)}
)
async def get_a_file_of_a_job(job: Id, name: str, parts: Parts, user: User) -> FileResponse:
    """One of the job's `files`; ranges are heeded."""
    found = parts.job(user, job)
    return _file(parts.places.files(found.kind, found.id), name)


@router.delete("/{job}", status_code=204, responses=refused(404))
async def cancel_or_delete_a_job(job: Id, parts: Parts, user: User) -> Response:
    """Cancel a job that waits or runs; delete one that has ended, with its files."""
    found = parts.job(user, job)
    if found.state in ACTIVE:
        parts.runner.cancel(found)
    else:
        parts.store.drop_job(found.id)
        parts.places.clear_job(found.id)
    return Response(status_code=204)


def _file(files: dict[str, Any], name: str) -> FileResponse:
    path = files.get(name)
    if path is None:
        raise missing("file", name)
    headers = {}
    if path.suffix == ".html":  # a report: no scripts, and no part of this site
        headers["content-security-policy"] = (
            "sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
        )
    return FileResponse(path, media_type=MIME[path.suffix], headers=headers)
