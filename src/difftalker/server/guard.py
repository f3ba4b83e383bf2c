"""Who may call: hosts, origins and tokens are checked before anything else is looked at."""

from __future__ import annotations

import ipaddress
import json
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from difftalker.errors import UsageError
from difftalker.server.problems import Problem, facts, refusal
from difftalker.server.settings import Settings
from difftalker.server.store import Store

COOKIE = "difftalker"
"""Holds the token of a browser, which can set no header for a video or an event stream."""
LOCAL_USER = "local"
"""Whose everything is while there are no tokens."""
OPEN = ("/healthz", "/readyz", "/v1/session")
"""What needs no token."""
_OWN_HOSTS = ("localhost",)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
        b" style-src 'self' 'unsafe-inline'; connect-src 'self' blob:; frame-ancestors 'none';"
        b" base-uri 'none'; form-action 'none'",
    ),
]


class Guard:
    """ASGI middleware; puts the user's name into ``scope["user"]``."""

    def __init__(self, app: ASGIApp, settings: Settings, store: Store) -> None:
        self._app, self._store = app, store
        self._hosts = {*_OWN_HOSTS, settings.host.lower(), *(one.lower() for one in settings.hosts)}
        self._origins = {one.rstrip("/").lower() for one in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Problem as problem:
            await _refuse(scope, receive, send, problem)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [pair for pair in HEADERS if pair[0] not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, answer)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(host):
            raise refusal(
                421,
                f"the host {host!r:.80}",
                wanted="a name of this server",
                fix="start it with --allow-host NAME",
            )
        self._check_origin(headers.get("origin"), host)
        token = _token(headers)
        # What a page loads in its own right, such as its scripts, is nobody's.
        path = scope["path"]
        is_open = path in OPEN or not (path == "/v1" or path.startswith(("/v1/", "/metrics")))
        scope["user"] = self.user(token)
        if scope["user"] is None and not is_open and scope.get("method") != "OPTIONS":
            raise refusal(
                401,
                "no token, or one that is not known",
                wanted="the header Authorization: Bearer TOKEN",
                fix="the owner of the server makes one with `difftalker serve --new-token NAME`",
            )

    def user(self, token: str) -> str | None:
        """Whose token it is; without any tokens everything is the local user's."""
        if not self._store.has_tokens():
            return LOCAL_USER
        return self._store.user_of(token) if token else None

    def _knows(self, host: str) -> bool:
        """Whether a host is a name of ours; a number can be no other site's name."""
        try:
            name = urlsplit(f"//{host}").hostname if _is_plain(host) else None
        except ValueError:
            return False
        return name is not None and (name in self._hosts or _is_address(name))

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None:
            return
        origin = origin.lower()
        if origin in self._origins or origin.partition("://")[2] == host.lower():
            return
        raise refusal(
            403,
            f"a page of {origin!r:.80}",
            wanted="a page of this server",
            fix="start it with --allow-origin URL",
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_plain(host: str) -> bool:
    return all(c.isalnum() or c in ".-:[]" for c in host)


def _token(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + problem.status, "reason": "refused"})
        return
    body = json.dumps({"error": facts(problem.error)}).encode()
    headers = [(b"content-type", b"application/json"), *HEADERS]
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def check_reach(settings: Settings, store: Store) -> None:
    """Refuse to listen beyond this machine where nobody needs a token.

    Raises:
        UsageError: there is no token yet.
    """
    if settings.is_loopback or store.has_tokens():
        return
    raise UsageError(
        f"--host {settings.host} is reached from other machines, and there is no token",
        wanted="a token for every user",
        fix="make one with `difftalker serve --new-token NAME`, and start again",
    )
