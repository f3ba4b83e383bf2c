"""The video service for Pipecat, in a pipeline of Pipecat's own test."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.live_stage import Stage

pytest.importorskip("pipecat", reason="the package pipecat-ai is missing")


async def _piped(avatar: Avatar, stage: Stage, said: NDArray[np.int16]) -> Any:
    from pipecat.frames.frames import TTSAudioRawFrame, TTSTextFrame
    from pipecat.tests.utils import run_test

    from pipecat_video import DiffTalkerVideoService
    from talker import HZ

    frames = [TTSAudioRawFrame(block.tobytes(), HZ, 1) for block in np.split(said, 50)]
    text = TTSTextFrame("noise", aggregated_by="word")
    service = DiffTalkerVideoService(avatar, stage)
    down, _ = await run_test(service, frames_to_send=[*frames, text], start_timeout=60)
    return down


def test_what_a_bot_says_comes_out_whole_with_pictures(
    avatar: Avatar, stage: Stage, said: NDArray[np.int16]
) -> None:
    from pipecat.frames.frames import OutputImageRawFrame, TTSAudioRawFrame, TTSTextFrame

    down = asyncio.run(_piped(avatar, stage, said))
    heard = b"".join(one.audio for one in down if isinstance(one, TTSAudioRawFrame))
    assert said.tobytes() in heard
    seen = [one for one in down if isinstance(one, OutputImageRawFrame)]
    assert len(seen) >= 5
    assert {one.size for one in seen} == {tuple(stage.size)}
    assert len({one.image for one in seen}) > 1
    assert any(isinstance(one, TTSTextFrame) for one in down)
