"""Text to speech, compatible with OpenAI's `/v1/audio/speech`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from difftalker.server.bodies import Spoken
from difftalker.server.context import Parts, User, refused
from difftalker.server.voices import speak

router = APIRouter(tags=["speech"])
_AT_ONCE = asyncio.Semaphore(2)


@router.post(
    "/v1/audio/speech",
    response_class=Response,
    responses={200: {"content": {"audio/wav": {}}}, **refused(404, 424, 503)},
)
async def say(asked: Spoken, parts: Parts, user: User) -> Response:
    """Speak a text; the answer is a sound file."""
    async with _AT_ONCE:
        said, kind = await speak(parts.settings, asked)
    return Response(said, media_type=kind)
