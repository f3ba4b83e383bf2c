"""The process of one live session: speech in, pictures and sound out; see ``live_wire``."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np

from difftalker.core.allocator import steady
from difftalker.core.device import pick_device, use_threads
from difftalker.dubbing.avatar import load
from difftalker.dubbing.live import LiveFrame, LiveSession
from difftalker.dubbing.live_clock import LiveClock
from difftalker.dubbing.live_run import TAIL_S
from difftalker.dubbing.live_stage import open_stage
from difftalker.dubbing.talk import made_by
from difftalker.errors import UsageError
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.media.limits import Limits, limited
from difftalker.server import live_wire as wire
from difftalker.server.problems import facts
from difftalker.server.worker import explained
from difftalker.synthesis.renderer import Floats

JPEG_QUALITY = 88
MOST_WAITING_S = 600.0
_FULL_SCALE = 32768


class Line:
    """The connection to the client: messages from it, in their order, and to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self.messages: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._cuts, self._played_s = 0, 0.0

    def listen(self) -> None:
        """Take what comes; an interruption is answered at once, and no sound follows the answer."""
        while message := wire.read(sys.stdin.buffer):
            if message[0] == wire.CLEAR:
                with self._lock:
                    self._cuts += 1
                    self._write(wire.CLEARED, wire.STAMP.pack(self._played_s))
            self.messages.put(message)
        os._exit(0)  # the client has gone

    def heed(self) -> None:
        """One interruption has been carried out: what is played from now on was said after it."""
        with self._lock:
            self._cuts -= 1

    def play(self, time_s: float, samples: Floats) -> None:
        """Send the sound from a time on; silence where an interruption was answered meanwhile."""
        pcm = np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")
        with self._lock:
            heard = np.zeros_like(pcm) if self._cuts else pcm
            self._played_s = time_s + len(pcm) / SAMPLE_RATE_HZ
            self._write(wire.SOUND, wire.STAMP.pack(time_s) + heard.tobytes())

    def send(self, kind: bytes, body: bytes) -> None:
        """Send one message."""
        with self._lock:
            self._write(kind, body)

    def _write(self, kind: bytes, body: bytes) -> None:
        self._out.write(wire.pack(kind, body))
        self._out.flush()


@dataclass(kw_only=True)
class Talk:
    """Passes messages between the session and its client."""

    session: LiveSession
    line: Line
    is_raw: bool
    """Whether pictures go out as they are, in place of JPEG."""
    has_ended: bool = False

    def hear(self) -> Floats:
        """What was said since the last call; an interruption is heeded on the way."""
        parts = [np.zeros(0, np.float32)]
        while not self.line.messages.empty():
            kind, body = self.line.messages.get()
            if kind == wire.PCM:
                samples = np.frombuffer(body[: len(body) // 2 * 2], "<i2")
                parts.append(samples.astype(np.float32) / np.float32(_FULL_SCALE))
            elif kind == wire.CLEAR:
                parts = parts[:1]
                self.session.clear()
                self.line.heed()
            elif kind == wire.END:
                self.has_ended = True
        if self.session.waiting_s > MOST_WAITING_S:
            raise UsageError(
                f"{MOST_WAITING_S:.0f} s of speech wait to be said", fix="send it as it is spoken"
            )
        return np.concatenate(parts)

    def play(self, samples: Floats) -> None:
        """Send the sound of the next frame."""
        self.line.play(self.session.time_s, samples)

    def show(self, frame: LiveFrame, periods: int) -> None:
        """Send a picture."""
        if self.is_raw:
            body = np.ascontiguousarray(frame.image).tobytes()
        else:
            quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            body = cv2.imencode(".jpg", frame.image[..., ::-1], quality)[1].tobytes()
        self.line.send(wire.FRAME, wire.STAMP.pack(frame.time_s) + body)

    def going(self) -> bool:
        """Whether there is more to say."""
        return not self.has_ended or self.session.time_s < self.session.last_heard_s + TAIL_S


def main() -> None:
    """Serve one session on standard input and output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    steady()
    first = wire.read(sys.stdin.buffer)
    if first is None:
        return
    line = Line(out)
    threading.Thread(target=line.listen, daemon=True).start()
    try:
        _serve(json.loads(first[1]), line)
    except Exception as error:
        traceback.print_exc()
        line.send(wire.FAILED, json.dumps(facts(explained(error))).encode())


def _serve(options: dict[str, Any], line: Line) -> None:
    use_threads(options["threads"])
    with limited(Limits(**options["limits"])):
        avatar = load(options["avatar"], device=pick_device(options["device"]))
        stage = open_stage(
            avatar,
            options["video"],
            face=options["face"],
            any_face=options["any_face"],
            seed=options["seed"],
        )
    session = LiveSession(avatar, stage)
    width, height = stage.size
    about = {
        "width": width,
        "height": height,
        "fps": stage.fps,
        "sound_hz": SAMPLE_RATE_HZ,
        "notice": made_by(avatar.name),
    }
    session.frame()  # the first one of a process is slow
    session = LiveSession(avatar, stage)
    line.send(wire.READY, json.dumps(about).encode())
    talk = Talk(session=session, line=line, is_raw=options["is_raw"])
    clock = LiveClock(session, hear=talk.hear, play=talk.play, show=talk.show)
    stats = clock.run(talk.going)
    line.send(wire.STATS, json.dumps(stats.facts()).encode())


if __name__ == "__main__":
    main()
