"""Live over WebRTC: the same sessions as over the WebSocket, with a browser's own media."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame

from difftalker.server import live_wire as wire
from difftalker.server.live import LiveLink

logger = logging.getLogger(__name__)

SOUND_HZ = 16_000
BLOCK = SOUND_HZ // 50
"""Samples of one packet of sound: 20 ms."""
_CLOCK_HZ = 90_000
_LATEST = 25
"""Pictures and packets that wait; older ones are left out."""


class _Track(MediaStreamTrack):
    """Media that a session makes, in its order."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._frames: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, frame: Any) -> None:
        """Append a frame; the oldest goes where too many wait."""
        if self._frames.qsize() >= _LATEST:
            self._frames.get_nowait()
        self._frames.put_nowait(frame)

    async def recv(self) -> Any:
        """The next frame."""
        frame = await self._frames.get()
        if frame is None:
            raise MediaStreamError
        return frame


class Call:
    """One peer that speaks with an avatar."""

    def __init__(self, link: LiveLink, about: dict[str, Any]) -> None:
        self._link, self._about = link, about
        self._peer = RTCPeerConnection()
        self._picture, self._sound = _Track("video"), _Track("audio")
        self._rest, self._sent = np.zeros(0, np.int16), 0
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()
        self._peer.on("track", self._on_track)
        self._peer.on("datachannel", self._on_channel)
        self._peer.on("connectionstatechange", self._on_change)

    async def answer(self, sdp: str) -> str:
        """The answer to a peer's offer.

        Raises:
            ValueError: the offer is none.
        """
        await self._peer.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
        self._peer.addTrack(self._picture)
        self._peer.addTrack(self._sound)
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        self._tasks.append(asyncio.create_task(self._show()))
        return str(self._peer.localDescription.sdp)

    async def run(self, longest_s: float) -> None:
        """Until the peer has gone, or the session has ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), longest_s)

    async def close(self) -> None:
        """Let the peer go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._peer.close()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._tasks.append(asyncio.create_task(self._hear(track)))

    def _on_channel(self, channel: Any) -> None:
        @channel.on("message")  # type: ignore[untyped-decorator]
        async def heed(message: Any) -> None:
            with suppress(ValueError):
                kind = json.loads(message).get("type") if isinstance(message, str) else None
                if kind == "interrupt":
                    await self._link.interrupt()

    def _on_change(self) -> None:
        if self._peer.connectionState in ("failed", "closed", "disconnected"):
            self._over.set()

    async def _hear(self, track: MediaStreamTrack) -> None:
        """Say what comes from the peer."""
        to_mono = AudioResampler(format="s16", layout="mono", rate=SOUND_HZ)
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                for part in to_mono.resample(frame):  # type: ignore[arg-type]
                    await self._link.speak(part.to_ndarray().tobytes())

    async def _show(self) -> None:
        """Pass on what the session makes."""
        async for kind, body in self._link.messages():
            if kind == wire.FRAME:
                self._picture.put(self._video(body))
            elif kind == wire.SOUND:
                self._add_sound(np.frombuffer(body[wire.STAMP.size :], "<i2"))
        self._picture.put(None)
        self._sound.put(None)
        self._over.set()

    def _video(self, body: bytes) -> VideoFrame:
        (time_s,) = wire.STAMP.unpack(body[: wire.STAMP.size])
        shape = self._about["height"], self._about["width"], 3
        image = np.frombuffer(body[wire.STAMP.size :], np.uint8).reshape(shape)
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = round(time_s * _CLOCK_HZ), Fraction(1, _CLOCK_HZ)
        return frame

    def _add_sound(self, samples: Any) -> None:
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= BLOCK:
            block, self._rest = self._rest[:BLOCK], self._rest[BLOCK:]
            frame = AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate = SOUND_HZ
            frame.pts, frame.time_base = self._sent, Fraction(1, SOUND_HZ)
            self._sent += BLOCK
            self._sound.put(frame)
