"""The avatar for LiveKit, published by LiveKit's own runner in a room that is none."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar

pytest.importorskip("livekit.agents", reason="the package livekit-agents is missing")


class Publication:
    async def wait_for_subscription(self) -> None:
        return


class Room:
    """Takes tracks, as a room of a server does."""

    def __init__(self) -> None:
        self.tracks: list[Any] = []
        self.local_participant = self

    def isconnected(self) -> bool:
        return True

    def on(self, *_: Any) -> None:
        return

    off = on

    async def publish_track(self, track: Any, _: Any) -> Publication:
        self.tracks.append(track)
        return Publication()


async def _conversation(
    avatar: Avatar, said: NDArray[np.int16]
) -> tuple[Room, list[Any], list[Any]]:
    from livekit import rtc

    from livekit_avatar import start
    from talker import HZ

    room = Room()
    output, runner = await start(avatar, room)
    pushed: list[Any] = []
    real = runner.av_sync.push

    async def push(frame: Any, *rest: Any) -> None:
        pushed.append(frame)
        await real(frame, *rest)

    runner.av_sync.push = push
    ends = []
    for interrupted in (False, True):
        for block in np.split(said, 50):
            await output.capture_frame(rtc.AudioFrame(block.tobytes(), HZ, 1, len(block)))
        output.flush()
        if interrupted:
            await asyncio.sleep(0.5)
            output.clear_buffer()
        ends.append(await asyncio.wait_for(output.wait_for_playout(), 120))
    await runner._video_gen.close()
    await runner.aclose()
    return room, pushed, ends


def test_what_an_agent_says_is_heard_whole_seen_and_can_be_interrupted(
    avatar: Avatar, said: NDArray[np.int16]
) -> None:
    from livekit import rtc

    room, pushed, (whole, cut) = asyncio.run(_conversation(avatar, said))
    assert {track.kind for track in room.tracks} == {
        rtc.TrackKind.KIND_AUDIO,
        rtc.TrackKind.KIND_VIDEO,
    }
    assert not whole.interrupted
    assert whole.playback_position >= 1.0
    assert cut.interrupted
    assert cut.playback_position < 1.0
    heard = np.concatenate(
        [np.frombuffer(one.data, np.int16) for one in pushed if isinstance(one, rtc.AudioFrame)]
    )
    assert said.tobytes() in heard.tobytes()
    seen = [one for one in pushed if isinstance(one, rtc.VideoFrame)]
    assert len(seen) >= 25
    assert len({bytes(one.data) for one in seen}) > 1
