"""Messages between the server and the process of a live session: a letter, a length, a body."""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO

HEAD = struct.Struct("<cI")
STAMP = struct.Struct("<d")
"""Before pictures and sound: when on the session's clock they begin, seconds."""

OPEN, PCM, CLEAR, END = b"O", b"P", b"C", b"E"
"""To the session: its options as JSON, samples, an interruption, no more samples."""
READY, FRAME, SOUND, CLEARED, FAILED, STATS = b"R", b"F", b"S", b"C", b"X", b"T"
"""From it."""
_MOST_BYTES = 1 << 28


def pack(kind: bytes, body: bytes = b"") -> bytes:
    """One message."""
    return HEAD.pack(kind, len(body)) + body


def read(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next message; None at the end."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    kind, length = HEAD.unpack(head)
    return kind, stream.read(length)


async def receive(stream: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """The next message; None at the end."""
    try:
        kind, length = HEAD.unpack(await stream.readexactly(HEAD.size))
        if length > _MOST_BYTES:
            return None
        return kind, await stream.readexactly(length)
    except asyncio.IncompleteReadError:
        return None
