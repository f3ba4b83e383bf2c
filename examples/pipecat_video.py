"""A video service for Pipecat: put it after text to speech and before the transport's output.

    pip install difftalker pipecat-ai

    Pipeline([transport.input(), ..., tts, DiffTalkerVideoService(avatar), transport.output()])

What the bot says goes out again with a picture for every frame, and in step with it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.live import LiveSession
from difftalker.dubbing.live_stage import Stage
from talker import HZ, Picture, Said, Sound, Talker


class DiffTalkerVideoService(FrameProcessor):  # type: ignore[misc]  # pipecat may be missing
    """Turns what a bot says into a talking face, in the process of the bot."""

    def __init__(self, avatar: Avatar, stage: Stage, **options: Any) -> None:
        """``stage`` is opened once, by ``open_stage``, and may serve any number of services."""
        super().__init__(**options)
        self._session = LiveSession(avatar, stage)
        self._resampler = create_stream_resampler()
        self._talker: Talker | None = None
        self._shown: Any = None
        self._said = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take the bot's sound; pass on everything else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame) and self._talker:
            pcm = await self._resampler.resample(frame.audio, frame.sample_rate, HZ)
            self._talker.push(np.frombuffer(pcm, np.int16).reshape(-1, frame.num_channels)[:, 0])
            return
        if isinstance(frame, StartFrame):
            self._talker = Talker(self._session)
            self._shown = self.create_task(self._show(self._talker))
        elif isinstance(frame, InterruptionFrame) and self._talker:
            self._talker.interrupt()
        elif isinstance(frame, EndFrame | CancelFrame) and self._talker:
            if isinstance(frame, EndFrame):
                self._talker.mark()
                await self._said.wait()
            await self._talker.close()
            await self._shown
        await self.push_frame(frame, direction)

    async def _show(self, talker: Talker) -> None:
        async for item in talker.items():
            if isinstance(item, Said):
                self._said.set()
            elif isinstance(item, Sound) and item.speaks:
                await self.push_frame(TTSAudioRawFrame(item.samples.tobytes(), HZ, 1))
            elif isinstance(item, Picture):
                height, width = item.image.shape[:2]
                picture = OutputImageRawFrame(
                    image=item.image.tobytes(), size=(width, height), format="RGB"
                )
                await self.push_frame(picture)
