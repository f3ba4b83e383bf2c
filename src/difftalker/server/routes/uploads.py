"""Uploads: files that are sent as they are, hashed while they come."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from difftalker.core.hashing import sha256_of
from difftalker.core.text import printable
from difftalker.server.bodies import Id, UploadView, upload_view
from difftalker.server.context import Parts, Server, User, refused
from difftalker.server.places import suffix_of
from difftalker.server.plans import SAMPLES
from difftalker.server.problems import missing, refusal
from difftalker.server.settings import GB
from difftalker.server.store import Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
_BLOCK_BYTES = 1 << 20
_MIME = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm",
    ".mkv": "video/x-matroska", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac",
    ".ogg": "audio/ogg", ".m4a": "audio/mp4", ".png": "image/png", ".jpg": "image/jpeg",
}  # fmt: skip
"""What a browser may show; anything else is only saved."""
_SENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
Name = Annotated[str, Query(min_length=1, max_length=255)]


@router.post(
    "",
    status_code=201,
    openapi_extra=_SENT,
    responses=refused(429, 507),
    max_body_size=1 << 62,
)
async def send_a_file(request: Request, parts: Parts, user: User, name: Name) -> UploadView:
    """Send a file as the body of the request; the answer has the name that jobs know it by."""
    places, room = parts.places, _room(parts, user)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > room:
        raise _too_large(parts, user, room)
    key = secrets.token_hex(12)
    file = f"{key}{suffix_of(name)}"
    part = places.uploads / f".{file}"
    try:
        size, digest = await _received(request, part, room)
        if size < 0:
            raise _too_large(parts, user, room)
        if not size:
            raise refusal(422, "a file of no bytes", wanted="a video, a sound or a picture")
        part.replace(places.uploads / file)
    except ClientDisconnect:
        raise refusal(400, "the upload broke off", fix="send it again") from None
    except OSError as error:
        raise refusal(507, f"the file cannot be kept: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    upload = Upload(
        id=key,
        user=user,
        name=printable(name),
        file=file,
        bytes=size,
        sha256=digest,
        made=time.time(),
    )
    parts.store.add_upload(upload)
    parts.meters.uploaded.inc(size)
    return upload_view(upload)


@router.get("", responses=refused())
async def list_files(parts: Parts, user: User) -> list[UploadView]:
    """All files of the user, the newest first, and the samples that come with DiffTalker."""
    return [*map(upload_view, parts.store.uploads(user)), *map(_sample, SAMPLES)]


@router.get("/{upload}", responses=refused(404))
async def see_a_file(upload: Id, parts: Parts, user: User) -> UploadView:
    """What is known of a file."""
    return _sample(upload) if upload in SAMPLES else upload_view(_found(parts, user, upload))


@router.get(
    "/{upload}/content",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "The range that was asked for."},
        416: {"description": "There is no such range."},
        **refused(404),
    },
)
async def get_a_file(upload: Id, parts: Parts, user: User) -> FileResponse:
    """The file itself, or the range of it that the header Range asks for."""
    path = parts.planner.file(user, upload)
    if not path.is_file():
        raise missing("upload", upload)
    headers = {"content-security-policy": "sandbox"}
    if path.suffix not in _MIME:
        headers["content-disposition"] = "attachment"
    mime = _MIME.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=mime, headers=headers)


@router.delete("/{upload}", status_code=204, responses=refused(404, 409))
async def delete_a_file(upload: Id, parts: Parts, user: User) -> Response:
    """Delete a file; jobs that have ended keep their results."""
    found = _found(parts, user, upload)
    for job in (*parts.store.jobs_in("queued"), *parts.store.jobs_in("running")):
        if job.user == user and upload in json.dumps(job.request):
            raise refusal(409, f"the job {job.id} needs it", fix="wait for it, or cancel it")
    parts.store.drop_upload(upload)
    (parts.places.uploads / found.file).unlink(missing_ok=True)
    return Response(status_code=204)


def _found(parts: Server, user: str, name: str) -> Upload:
    upload = parts.store.upload(user, name)
    if upload is None:
        raise missing("upload", name)
    return upload


def _sample(name: str) -> UploadView:
    path = SAMPLES[name]()
    size = path.stat().st_size
    return UploadView(id=name, name=path.name, bytes=size, sha256=sha256_of(path), sample=True)


def _room(parts: Server, user: str) -> int:
    """How many bytes a file may have now."""
    settings = parts.settings
    return int(
        min(
            settings.upload_gb * GB,
            settings.stored_gb * GB - parts.store.stored_bytes(user),
            parts.places.free_bytes() - settings.free_gb * GB,
        )
    )


def _too_large(parts: Server, user: str, room: int) -> Exception:
    settings = parts.settings
    if room >= settings.upload_gb * GB:
        return refusal(
            413,
            "the file is too large",
            wanted=f"at most {settings.upload_gb:g} GB",
            fix="cut it, or ask the owner of the server",
        )
    if room >= settings.stored_gb * GB - parts.store.stored_bytes(user):
        return refusal(
            413,
            f"your files would take more than {settings.stored_gb:g} GB",
            fix="delete some of them",
        )
    return refusal(507, "the server's disk is nearly full", fix="tell its owner")


async def _received(request: Request, part: Path, room: int) -> tuple[int, str]:
    """Write a body to a file: its size, -1 where that is beyond ``room``, and its hash."""
    total, digest = 0, hashlib.sha256()
    with part.open("wb") as file:
        async for block in _blocks(request.stream()):
            total += len(block)
            if total > room:
                return -1, ""
            await asyncio.to_thread(_keep, file, digest, block)
    return total, digest.hexdigest()


def _keep(file: BinaryIO, digest: Any, block: bytes) -> None:
    file.write(block)
    digest.update(block)


async def _blocks(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: each costs a change of threads."""
    held: list[bytes] = []
    size = 0
    async for chunk in stream:
        held.append(chunk)
        size += len(chunk)
        if size >= _BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
