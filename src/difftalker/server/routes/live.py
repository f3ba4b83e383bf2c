"""Live over a WebSocket: samples in, pictures and sound out."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from difftalker.errors import DiffTalkerError, UsageError
from difftalker.server import live_wire as wire
from difftalker.server.context import Parts, User
from difftalker.server.live import LiveLink, LiveOptions
from difftalker.server.problems import Problem, facts

router = APIRouter(tags=["live"])
PICTURE, SOUND = b"\x01", b"\x02"
"""First byte of a binary message; eight bytes of the time follow, then JPEG or samples."""
_KINDS = {wire.FRAME: PICTURE, wire.SOUND: SOUND}
_LONGEST_PCM = 1 << 20


@router.websocket("/v1/live")
async def live(socket: WebSocket, parts: Parts, user: User) -> None:
    """Speak with an avatar; docs/guide/serve.md has the messages."""
    await socket.accept()
    try:
        options = LiveOptions.model_validate(dict(socket.query_params))
        async with parts.live.session(user, options) as link:
            parts.meters.live.set(parts.live.open)
            await socket.send_json({"type": "ready", **await link.ready()})
            async with asyncio.timeout(parts.live.longest_s):
                await _converse(socket, link)
        await socket.close()
    except ValidationError as error:
        await _fail(socket, UsageError(_first(error), fix="see /v1/openapi.json"))
    except (Problem, DiffTalkerError) as error:
        await _fail(socket, error.error if isinstance(error, Problem) else error)
    except TimeoutError:
        await _fail(socket, UsageError("the time of a live session is over", fix="open another"))
    except (WebSocketDisconnect, RuntimeError):
        return
    finally:
        parts.meters.live.set(parts.live.open)


async def _converse(socket: WebSocket, link: LiveLink) -> None:
    """Pass messages on in both directions until the session ends or the client goes."""
    tasks = [asyncio.create_task(_listen(socket, link)), asyncio.create_task(_tell(socket, link))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(socket: WebSocket, link: LiveLink) -> None:
    async for kind, body in link.messages():
        if kind in _KINDS:
            await socket.send_bytes(_KINDS[kind] + body)
        elif kind == wire.CLEARED:
            (time_s,) = wire.STAMP.unpack(body)
            await socket.send_json({"type": "interrupted", "time_s": time_s})
        elif kind == wire.STATS:
            await socket.send_json({"type": "ended", "stats": json.loads(body)})
        else:
            await socket.send_json({"type": "error", "error": json.loads(body)})


async def _listen(socket: WebSocket, link: LiveLink) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if pcm := message.get("bytes"):
            if len(pcm) > _LONGEST_PCM:
                raise UsageError(f"{len(pcm)} bytes of samples at once", wanted="less than a MiB")
            await link.speak(pcm)
        elif text := message.get("text"):
            await _heed(_read(text), link)


async def _heed(message: Any, link: LiveLink) -> None:
    kind = message.get("type") if isinstance(message, dict) else None
    if kind == "interrupt":
        await link.interrupt()
    elif kind == "end":
        await link.end()
    else:
        raise UsageError(f"a message of the type {kind!r:.80}", wanted="interrupt or end")


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UsageError("a text message that is no JSON", wanted='{"type": ...}') from None


async def _fail(socket: WebSocket, error: DiffTalkerError) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_json({"type": "error", "error": facts(error)})
        await socket.close(1008)


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
