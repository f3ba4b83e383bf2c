"""Live over WebRTC: an offer in, an answer out; the media go between the peers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from difftalker.server.context import Parts, Server, User, refused
from difftalker.server.live import LiveOptions
from difftalker.server.problems import Problem, refusal

router = APIRouter(tags=["live"])
_CALLS: set[asyncio.Task[None]] = set()


class Offer(LiveOptions):
    """A peer's offer, and what the session is opened with."""

    sdp: Annotated[str, Field(min_length=1, max_length=100_000)]


class Answer(BaseModel):
    """What the peer needs to connect, and what the session is like."""

    sdp: str
    session: dict[str, Any]


@router.post("/v1/live/webrtc", responses=refused(404, 429, 501, 503))
async def call_an_avatar(offer: Offer, parts: Parts, user: User) -> Answer:
    """Answer an offer with one track of sound; pictures and sound come back.

    A message `{"type": "interrupt"}` on a data channel interrupts.
    """
    if not parts.live.has_webrtc:
        raise refusal(
            501,
            "the server has no WebRTC",
            fix="its owner installs it: `pip install 'difftalker[webrtc]'`",
        )
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_serve(offer, parts, user, answered))
    _CALLS.add(task)
    task.add_done_callback(_CALLS.discard)
    return await answered


async def _serve(offer: Offer, parts: Server, user: str, answered: asyncio.Future[Answer]) -> None:
    """One call from its offer to its end."""
    from difftalker.server.webrtc import Call

    options = LiveOptions(**offer.model_dump(exclude={"sdp"}))
    try:
        async with parts.live.session(user, options, is_raw=True) as link:
            about = await link.ready()
            call = Call(link, about)
            try:
                sdp = await call.answer(offer.sdp)
                answered.set_result(Answer(sdp=sdp, session=about))
                await call.run(parts.live.longest_s)
            finally:
                await call.close()
    except Exception as error:
        if answered.done():
            raise
        failed = refusal(422, "the offer cannot be answered", wanted="an offer in SDP")
        answered.set_exception(error if isinstance(error, Problem) else failed)
