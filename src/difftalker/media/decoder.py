"""Decoding in child processes: what crashes or hangs a decoder ends in an error of our own.

This is the parent's side; ``media.worker`` has the child's, and what they send each other. A
decoder answers one request after the other. It decodes ahead as far as the pipe holds, and ends
with its parent: that closes the pipe. Idle decoders are kept for the next request, as starting one
takes a fifth of a second.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.limits import current
from difftalker.media.worker.protocol import ANSWER, FAILURE, HEAD, LOG, Bytes, Facts

PATIENCE_S = 60
"""How long a decoder may think about one answer."""

_KEPT_IDLE = 3
_PIPE_BYTES = 1 << 20


class Answer(NamedTuple):
    """One piece of what a decoder has to say."""

    facts: dict[str, Any]
    data: NDArray[Any]
    """Empty where the facts are all."""


def ask(task: str, path: str | os.PathLike[str], **arguments: Any) -> Iterator[Answer]:
    """Let a decoder carry out a task on a file; its answers as they come.

    Raises:
        MediaError: what the task raises, or the decoder crashed, or does not answer.
    """
    decoder = _take()
    try:
        yield from decoder.answers(task, Path(path), arguments)
    finally:
        _put_back(decoder)


_idle: list[_Decoder] = []
_idle_lock = threading.Lock()


def _take() -> _Decoder:
    with _idle_lock:
        while _idle:
            decoder = _idle.pop()
            if decoder.is_ready:
                return decoder
    return _Decoder()


def _put_back(decoder: _Decoder) -> None:
    if not (decoder.is_ready or decoder.stop()):
        decoder.end()
        return
    with _idle_lock:
        if len(_idle) < _KEPT_IDLE:
            _idle.append(decoder)
            return
    decoder.end()


@atexit.register
def end_idle() -> None:
    """End the decoders that wait for work: at exit, and where limits of the process changed."""
    while _idle:
        _idle.pop().end()


class _Decoder:
    """A child process that decodes."""

    def __init__(self) -> None:
        serve = "import sys; sys.path[:] = sys.argv[1:]; import difftalker.media.worker.server as s"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"{serve}; s.serve()", *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        _widen(self._answers.fileno())
        self._owner = os.getpid()
        self._request = self._messages = 0
        self._is_busy = self._is_torn = self._gave_up = False
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def is_ready(self) -> bool:
        """Whether it can take a request; one that a fork brought along cannot."""
        is_idle = not (self._is_busy or self._is_torn)
        return is_idle and self._owner == os.getpid() and self._process.poll() is None

    def answers(self, task: str, path: Path, arguments: Facts) -> Iterator[Answer]:
        """See ``ask``."""
        self._request += 1
        self._is_busy = True
        # The path is passed as it was given, so the decoder has to stand where the parent stands.
        self._send(
            request=self._request,
            task=task,
            path=str(path),
            folder=str(Path.cwd()),
            limits=asdict(current()),
            arguments=arguments,
        )
        while True:
            kind, facts, data = self._received(path)
            if kind == ANSWER:
                yield Answer(facts["facts"], data.view(facts["type"]).reshape(facts["shape"]))
                continue
            self._is_busy = False
            if kind == FAILURE:
                raise _failure(facts)
            return

    def stop(self) -> bool:
        """Leave a request before its last answer; whether that worked."""
        if self._is_torn or self._owner != os.getpid():
            return False
        try:
            self._send(stop=self._request)
            while self._received(Path())[0] == ANSWER:
                pass
        except MediaError:
            return False
        self._is_busy = False
        return True

    def end(self) -> None:
        """End the process."""
        if self._owner != os.getpid():
            return
        self._process.kill()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    def _send(self, **message: Any) -> None:
        with suppress(OSError):  # a dead process is found out where it does not answer
            self._requests.write(json.dumps(message).encode() + b"\n")

    def _received(self, path: Path) -> tuple[bytes, dict[str, Any], Bytes]:
        """The next message but for those to the log."""
        while True:
            self._is_torn = True
            self._messages += 1
            kind, *lengths = self._head(path)
            facts_bytes, data = (self._read(count, path) for count in lengths)
            self._is_torn = False
            facts = json.loads(facts_bytes.tobytes())
            if kind != LOG:
                return kind, facts, data
            logging.getLogger(facts["name"]).log(facts["level"], "%s", facts["text"])

    def _head(self, path: Path) -> tuple[Any, ...]:
        return HEAD.unpack(self._read(HEAD.size, path).tobytes())

    def _read(self, count: int, path: Path) -> Bytes:
        whole = np.empty(count, np.uint8)
        rest = whole.data
        while rest:
            got = self._answers.readinto(rest)  # type: ignore[attr-defined]
            if not got:
                raise self._death(path)
            rest = rest[got:]
        return whole

    def _death(self, path: Path) -> MediaError:
        code = self._process.wait()
        how = f"did not answer for {PATIENCE_S} s" if self._gave_up else f"crashed ({code})"
        return MediaError(
            f"{path} is damaged: its decoder {how}",
            wanted="a video or sound file that FFmpeg decodes",
            fix="convert it to another format, or take another copy of it",
        )

    def _watch(self) -> None:
        """End the process where an answer takes too long.

        Counts seconds awake, rather than those of a clock: a machine that slept has not waited.
        """
        seconds, last = 0, -1
        while self._process.poll() is None:
            time.sleep(1)
            waits = self._is_torn and self._messages == last
            seconds, last = seconds + 1 if waits else 0, self._messages
            if seconds >= PATIENCE_S:
                self._gave_up = True
                self._process.kill()


def _failure(facts: dict[str, Any]) -> Exception:
    if "trace" in facts:  # a bug of ours
        return RuntimeError(f"in a decoder: {facts['trace']}")
    return MediaError(facts["found"], wanted=facts["wanted"], fix=facts["fix"])


def _widen(pipe: int) -> None:
    """Let a pipe hold more: pictures then pass in fewer pieces."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
