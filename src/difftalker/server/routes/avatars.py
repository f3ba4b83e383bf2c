"""Avatars: who can be made to speak, and who agreed to it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from difftalker.server.bodies import AvatarCard, AvatarView, Id, JobView, TrainRequest
from difftalker.server.context import Parts, User, refused
from difftalker.server.problems import refusal
from difftalker.server.routes.jobs import Key, new_job

router = APIRouter(prefix="/v1/avatars", tags=["avatars"])


@router.get("", responses=refused())
async def list_avatars(parts: Parts, user: User) -> list[AvatarView]:
    """All avatars that the user may use, with who agreed to each."""
    known = parts.people.all(user)
    return await asyncio.to_thread(lambda: [parts.people.view(one) for one in known])


@router.get("/{avatar}", responses=refused(404))
async def see_an_avatar(avatar: Id, parts: Parts, user: User) -> AvatarCard:
    """An avatar with its card."""
    known = parts.people.find(user, avatar)
    return await asyncio.to_thread(parts.people.card, known)


@router.post("", status_code=202, responses={200: {"model": JobView}, **refused(404, 409, 429)})
async def train_an_avatar(
    request: TrainRequest, parts: Parts, user: User, response: Response, key: Key = None
) -> JobView:
    """Train an avatar: the same as making a job of the kind train."""
    view, is_new = new_job(parts, user, request, key)
    response.status_code = 202 if is_new else 200
    return view


@router.delete("/{avatar}", status_code=204, responses=refused(404, 409))
async def delete_an_avatar(avatar: Id, parts: Parts, user: User) -> Response:
    """Delete an avatar that was trained here."""
    known = parts.people.find(user, avatar)
    if known.origin != "trained":
        raise refusal(
            409,
            f"the avatar {avatar} was not trained here",
            wanted="one of the origin `trained`",
            fix="the owner of the server decides which others it offers",
        )
    parts.store.drop_avatar(avatar)
    parts.places.clear_avatar(avatar)
    return Response(status_code=204)
