"""The server itself: whether it is well, and a browser's token."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import difftalker
from difftalker.config import STAGES
from difftalker.server.bodies import Body
from difftalker.server.context import Parts, User, refused
from difftalker.server.guard import COOKIE
from difftalker.server.problems import refusal
from difftalker.server.settings import GB
from difftalker.server.webhooks import written

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """Whether all is well."""

    status: Literal["ok", "not ready"]
    why: list[str] = []


class Login(Body):
    """What a browser begins with."""

    token: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w-]+$")]


class About(BaseModel):
    """What the server is and offers."""

    version: str
    user: str
    voice: bool
    """Whether there is text to speech."""
    webrtc: bool
    upload_gb: float
    stages: list[str]
    """Stages of training, in their order."""


class Secret(BaseModel):
    """What webhooks are signed with."""

    secret: str


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health}})
async def readyz(parts: Parts) -> Response:
    """Whether jobs can be taken: the state, the disk and the queue are looked at."""
    why = []
    try:
        parts.store.check()
    except sqlite3.Error as error:
        why.append(f"the state cannot be read: {error}")
    if parts.places.free_bytes() < parts.settings.free_gb * GB:
        why.append("the disk is nearly full")
    if not parts.runner.is_alive:
        why.append("the queue does not run")
    health = Health(status="not ready" if why else "ok", why=why)
    return JSONResponse(health.model_dump(), status_code=503 if why else 200)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(parts: Parts) -> Response:
    """Figures for Prometheus."""
    text = parts.meters.text(parts.store, parts.runner, parts.places.free_bytes())
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1", responses=refused())
async def about(parts: Parts, user: User) -> About:
    """What the server is, who calls, and what it offers."""
    return About(
        version=difftalker.__version__,
        user=user,
        voice=bool(parts.settings.voice),
        webrtc=parts.live.has_webrtc,
        upload_gb=parts.settings.upload_gb,
        stages=list(STAGES),
    )


@router.get("/v1/webhooks/secret", responses=refused())
async def webhook_secret(parts: Parts, user: User) -> Secret:
    """The secret that the user's webhooks are signed with (standardwebhooks.com)."""
    return Secret(secret=written(parts.store.secret_of(user)))


@router.post("/v1/session", status_code=204, responses=refused())
async def log_in(login: Login, parts: Parts) -> Response:
    """Keep a token in a cookie, for browsers."""
    if parts.store.user_of(login.token) is None:
        raise refusal(401, "a token that is not known", wanted="one of this server")
    response = Response(status_code=204)
    response.set_cookie(COOKIE, login.token, httponly=True, samesite="strict", max_age=30 * 86400)
    return response


@router.delete("/v1/session", status_code=204, responses=refused())
async def log_out() -> Response:
    """Forget the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
