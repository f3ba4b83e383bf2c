"""A server from its start to its end, and its tokens."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import suppress

import uvicorn

from difftalker.errors import DiffTalkerError, UsageError
from difftalker.server.app import create_app
from difftalker.server.guard import check_reach
from difftalker.server.places import Places
from difftalker.server.settings import Settings
from difftalker.server.store import Store

logger = logging.getLogger(__name__)
_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


def new_token(settings: Settings, user: str) -> str:
    """A token for a user; it is shown this once, only its hash is kept.

    Raises:
        UsageError: the name has other than letters, digits and _ . @ -
    """
    if not _USER.fullmatch(user):
        raise UsageError(f"the user {user!r:.80}", wanted="letters, digits and _ . @ -")
    store = Store(Places(settings.folder).state)
    try:
        return store.new_token(user)
    finally:
        store.close()


def revoke_tokens(settings: Settings, user: str) -> int:
    """Make a user's tokens worthless; how many there were.

    Raises:
        UsageError: there were none.
    """
    store = Store(Places(settings.folder).state)
    try:
        count = store.drop_tokens(user)
    finally:
        store.close()
    if not count:
        raise UsageError(f"the user {user!r:.80} has no token", wanted="a user of this folder")
    return count


def run_server(settings: Settings) -> None:
    """Serve until the process is told to stop.

    Raises:
        DiffTalkerError: the port is taken, or the folder cannot be used.
        UsageError: other machines could reach it without a token.
    """
    store = Store(Places(settings.folder).state)
    try:
        check_reach(settings, store)
    finally:
        store.close()
    listener = _listener(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logger.warning("the studio is at http://%s:%d/ (Ctrl-C ends it)", shown, port)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=1 << 21,
            timeout_graceful_shutdown=3,
        )
    )
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        raise DiffTalkerError(
            f"cannot listen on {settings.host} port {settings.port}: {error}",
            fix="choose another --port, or --host",
        ) from error
    listener.set_inheritable(False)
    # asyncio does this for its own sockets alone; without it an answer waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
