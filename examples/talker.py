"""A live session in a thread of its own, for asyncio: speech in, sound and pictures out."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.live import LiveFrame, LiveSession
from difftalker.dubbing.live_clock import LiveClock

HZ = 16_000
Samples = NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What is heard next, 16 kHz mono; nothing but silence where ``speaks`` is false."""

    samples: Samples
    speaks: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is seen next: (H, W, 3) RGB, for so many periods of the session's rate."""

    image: NDArray[np.uint8]
    periods: int


class Said:
    """Everything that was pushed before :meth:`Talker.mark` has been heard."""


class Talker:
    """Drives a session in real time until it is closed."""

    def __init__(self, session: LiveSession) -> None:
        self.session = session
        self._in: queue.SimpleQueue[Samples | Said | None] = queue.SimpleQueue()
        self._out: asyncio.Queue[Sound | Picture | Said | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._marks: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def push(self, samples: Samples) -> None:
        """Say samples, 16 kHz mono, after all that was pushed before."""
        self._in.put(samples)

    def mark(self) -> None:
        """Ask for a :class:`Said` once what was pushed before has been heard."""
        self._in.put(Said())

    def interrupt(self) -> None:
        """Say nothing more."""
        self._in.put(None)

    async def close(self) -> None:
        """End the session."""
        self._closing.set()
        await asyncio.to_thread(self._thread.join)

    async def items(self) -> AsyncIterator[Sound | Picture | Said]:
        """What the session makes, in its order, until it is closed."""
        while (item := await self._out.get()) is not None:
            yield item

    def _run(self) -> None:
        clock = LiveClock(self.session, hear=self._hear, play=self._play, show=self._show)
        try:
            clock.run(lambda: not self._closing.is_set())
        finally:
            self._give(None)

    def _hear(self) -> NDArray[np.float32]:
        heard = [np.zeros(0, np.float32)]
        while not self._in.empty():
            asked = self._in.get()
            if asked is None:
                heard = heard[:1]
                self.session.clear()
                self._marks.clear()
            elif isinstance(asked, Said):
                self.session.push(np.concatenate(heard))
                heard = heard[:1]
                self._marks.append(self.session.last_heard_s)
            else:
                heard.append(asked.astype(np.float32) / np.float32(32768))
        return np.concatenate(heard)

    def _play(self, samples: NDArray[np.float32]) -> None:
        time_s = self.session.time_s
        while self._marks and self._marks[0] <= time_s:
            self._marks.pop(0)
            self._give(Said())
        pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        self._give(Sound(samples=pcm, speaks=time_s < self.session.last_heard_s))

    def _show(self, frame: LiveFrame, periods: int) -> None:
        self._give(Picture(image=frame.image, periods=periods))

    def _give(self, item: Sound | Picture | Said | None) -> None:
        self._loop.call_soon_threadsafe(self._out.put_nowait, item)
