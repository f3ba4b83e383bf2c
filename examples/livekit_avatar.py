"""An avatar for LiveKit agents, in the agent's own process.

    pip install difftalker livekit-agents

    output, avatar = await start(difftalker.load("grid-s1"), room)
    agent_session.output.audio = output    # what the agent says goes to the avatar

The room gets the avatar's sound and pictures as two tracks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    QueueAudioOutput,
    VideoGenerator,
)

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.live import LiveSession
from difftalker.dubbing.live_stage import open_stage
from talker import HZ, Picture, Said, Sound, Talker


class DiffTalkerVideo(VideoGenerator):  # type: ignore[misc]  # livekit may be missing
    """Pictures and sound for what an agent says."""

    def __init__(self, session: LiveSession) -> None:
        self._talker = Talker(session)
        self._resampler: rtc.AudioResampler | None = None

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Say a block of sound, of any rate."""
        if isinstance(frame, AudioSegmentEnd):
            for rest in self._resampler.flush() if self._resampler else []:
                self._push(rest)
            self._talker.mark()
            return
        if frame.sample_rate == HZ:
            self._push(frame)
            return
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(frame.sample_rate, HZ)
        for part in self._resampler.push(frame):
            self._push(part)

    def _push(self, frame: rtc.AudioFrame) -> None:
        samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
        self._talker.push(samples[:, 0].copy())

    def clear_buffer(self) -> None:
        """Say nothing more: somebody interrupts."""
        self._talker.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Pictures all the time, and sound while something is said."""
        async for item in self._talker.items():
            if isinstance(item, Said):
                yield AudioSegmentEnd()
            elif isinstance(item, Sound) and item.speaks:
                yield rtc.AudioFrame(item.samples.tobytes(), HZ, 1, len(item.samples))
            elif isinstance(item, Picture):
                height, width = item.image.shape[:2]
                kind = rtc.VideoBufferType.RGB24
                for _ in range(item.periods):
                    yield rtc.VideoFrame(width, height, kind, item.image.tobytes())

    async def close(self) -> None:
        """End the session."""
        await self._talker.close()


async def start(
    avatar: Avatar, room: rtc.Room, footage: str | None = None
) -> tuple[QueueAudioOutput, AvatarRunner]:
    """What an agent's sound goes to, and the runner that publishes the avatar in a room."""
    stage = open_stage(avatar, footage)
    output = QueueAudioOutput(sample_rate=HZ)
    width, height = stage.size
    options = AvatarOptions(
        video_width=width,
        video_height=height,
        video_fps=stage.fps,
        audio_sample_rate=HZ,
        audio_channels=1,
    )
    video = DiffTalkerVideo(LiveSession(avatar, stage))
    runner = AvatarRunner(room, audio_recv=output, video_gen=video, options=options)
    await runner.start()
    return output, runner
