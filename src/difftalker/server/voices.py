"""Text to speech: a packaged open voice in a process of its own, or any such service by its URL."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import sys
import wave
from contextlib import suppress

import httpx2

from difftalker.errors import UsageError
from difftalker.server.bodies import Spoken
from difftalker.server.problems import Problem, refusal
from difftalker.server.settings import Settings

HIBARI = "hibari"
_LONGEST_S = 120.0
_MOST_BYTES = 200_000_000
_SAY = """
import sys
from hibari import Hibari
import numpy as np
voice = Hibari(threads=1)
samples = voice(sys.stdin.read(), speed=float(sys.argv[1]), seed=0)
pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
sys.stdout.buffer.write(int(voice.sample_rate).to_bytes(4, "little") + pcm.tobytes())
"""


def check_voice(settings: Settings) -> None:
    """Refuse a voice that cannot be.

    Raises:
        UsageError: its package is missing, or it is no address.
    """
    voice = settings.voice
    if voice == HIBARI and importlib.util.find_spec("hibari") is None:
        raise UsageError(
            "--voice hibari needs the package hibari-tts",
            fix="install it: `pip install 'difftalker[samples]'`",
        )
    if voice not in ("", HIBARI) and not voice.startswith(("http://", "https://")):
        raise UsageError(f"--voice {voice!r:.80}", wanted="hibari, or an address from http on")


async def speak(settings: Settings, asked: Spoken) -> tuple[bytes, str]:
    """Speech for a text, and its media type.

    Raises:
        Problem: there is no voice, or it fails.
    """
    if not settings.voice:
        raise refusal(
            404, "this server has no voice", fix="start it with --voice hibari, or --voice URL"
        )
    if settings.voice != HIBARI:
        return await _forwarded(settings, asked)
    if asked.response_format not in ("wav", "pcm"):
        raise refusal(
            422, f"the format {asked.response_format}", wanted="wav or pcm: hibari makes these"
        )
    rate_hz, pcm = await _by_hibari(asked)
    if asked.response_format == "pcm":
        return pcm, f"audio/L16;rate={rate_hz};channels=1"
    return _as_wav(pcm, rate_hz), "audio/wav"


async def _by_hibari(asked: Spoken) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _SAY, str(asked.speed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            said, _ = await process.communicate(asked.input.encode())
    except TimeoutError:
        raise refusal(503, "the voice took too long", fix="give it less text") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode != 0 or len(said) <= 4:
        raise refusal(422, "the voice cannot say this", wanted="English words")
    return int.from_bytes(said[:4], "little"), said[4:]


def _as_wav(pcm: bytes, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate_hz, 0, "NONE", ""))
        out.writeframes(pcm)
    return file.getvalue()


async def _forwarded(settings: Settings, asked: Spoken) -> tuple[bytes, str]:
    """What the service says; its address ends before /audio/speech."""
    url = f"{settings.voice.rstrip('/').removesuffix('/audio/speech')}/audio/speech"
    key = {"authorization": f"Bearer {settings.voice_key}"} if settings.voice_key else {}
    said = bytearray()
    try:
        async with (
            httpx2.AsyncClient(timeout=_LONGEST_S) as client,
            client.stream("POST", url, json=asked.model_dump(), headers=key) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                said += chunk
                if len(said) > _MOST_BYTES:
                    raise _failed("it sends too much")
            kind = answer.headers.get("content-type", "application/octet-stream")
    except httpx2.HTTPError as error:
        raise _failed(str(error)) from error
    return bytes(said), kind if kind.startswith("audio/") else "application/octet-stream"


def _failed(why: str) -> Problem:
    return refusal(424, f"the service of the voice failed: {why:.200}", fix="tell the owner")
