"""Live sessions: each in a process of its own, so that none delays another or the server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from difftalker.errors import DiffTalkerError
from difftalker.server import live_wire as wire
from difftalker.server.bodies import Body, Face, Id, Seed
from difftalker.server.people import People
from difftalker.server.plans import Planner
from difftalker.server.problems import Problem, refusal
from difftalker.server.settings import Settings

OPENS_S = 120.0
"""Longest that a session may take until it is ready: footage is prepared meanwhile."""
BEHIND = 50
"""Pictures that wait for a slow client; later ones are left out."""


class LiveOptions(Body):
    """What a live session is opened with."""

    avatar: Id
    video: Annotated[
        Id | None,
        Field(description="An upload, played forth and back; without, the avatar's own head."),
    ] = None
    face: Face = "avatar"
    any_face: bool = False
    seed: Seed = 0


class LiveDesk:
    """Opens live sessions, so many at a time."""

    def __init__(self, settings: Settings, planner: Planner, people: People) -> None:
        self._settings, self._planner, self._people = settings, planner, people
        self.open = 0
        self.has_webrtc = importlib.util.find_spec("aiortc") is not None

    @asynccontextmanager
    async def session(
        self, user: str, options: LiveOptions, *, is_raw: bool = False
    ) -> AsyncIterator[LiveLink]:
        """A session for as long as the block lasts; ``is_raw`` asks for pictures without JPEG.

        Raises:
            Problem: all sessions are taken, or something that it needs is not there.
        """
        order = self._order(user, options, is_raw)
        if self.open >= self._settings.live_sessions:
            raise refusal(
                429,
                f"{self.open} live sessions are open already",
                fix="try again when one has ended",
            )
        self.open += 1
        try:
            link = await LiveLink.start(order)
            try:
                yield link
            finally:
                await link.close()
        finally:
            self.open -= 1

    def _order(self, user: str, options: LiveOptions, is_raw: bool) -> dict[str, Any]:
        settings = self._settings
        return {
            "avatar": str(self._people.find(user, options.avatar).folder),
            "video": options.video and str(self._planner.file(user, options.video)),
            "face": self._planner.face(user, options.face),
            "any_face": options.any_face,
            "seed": options.seed,
            "is_raw": is_raw,
            "threads": settings.threads,
            "device": settings.device,
            "limits": asdict(settings.limits),
        }

    @property
    def longest_s(self) -> float:
        """How long a session may last, seconds."""
        return 60 * self._settings.live_minutes


class LiveLink:
    """The server's side of one session."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._held: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, order: dict[str, Any]) -> LiveLink:
        """Start the process of a session."""
        command = (
            "import sys; sys.path[:] = sys.argv[1:]; import difftalker.server.live_worker as w"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", f"{command}; w.main()", *sys.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            start_new_session=True,
        )
        link = cls(process)
        await link._send(wire.OPEN, json.dumps(order).encode())
        return link

    async def ready(self) -> dict[str, Any]:
        """What the session is like, once it can be spoken to.

        Raises:
            Problem: it cannot be opened.
        """
        try:
            async with asyncio.timeout(OPENS_S):
                message = await self._held.get()
        except TimeoutError:
            raise refusal(503, "the session did not open", fix="try shorter footage") from None
        if message is None:
            raise refusal(503, "the session's process ended by itself", fix="try again")
        kind, body = message
        told: dict[str, Any] = json.loads(body)
        if kind == wire.FAILED:
            error = DiffTalkerError(told["found"], wanted=told["wanted"], fix=told["fix"])
            raise Problem(422, error)
        return told

    async def messages(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """What comes from the session, until it ends."""
        while message := await self._held.get():
            yield message

    async def speak(self, pcm: bytes) -> None:
        """Say samples: 16 bits, low byte first, mono, 16 kHz."""
        await self._send(wire.PCM, pcm)

    async def interrupt(self) -> None:
        """Say nothing more of what is still to be said."""
        await self._send(wire.CLEAR)

    async def end(self) -> None:
        """Nothing more will be said: the session ends after what it has."""
        await self._send(wire.END)

    async def close(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._reader.cancel()

    async def _send(self, kind: bytes, body: bytes = b"") -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(wire.pack(kind, body))
            await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while message := await wire.receive(self._process.stdout):
            if message[0] != wire.FRAME or self._held.qsize() < BEHIND:
                self._held.put_nowait(message)
        self._held.put_nowait(None)
