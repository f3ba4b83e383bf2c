"""Decoding in child processes: what crashes or hangs a decoder ends in an error of our own.

A decoder is a process that answers one request after the other (``media.pictures`` and
``media.sounds`` carry them out). Requests are JSON lines on its standard input; answers come back
on its standard output, each a head (kind, two lengths), JSON, and raw bytes. It decodes ahead as
far as the pipe holds, and ends with its parent: that closes the pipe. Idle decoders are kept for
the next request, as starting one takes a fifth of a second.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.container import not_media
from difftalker.media.limits import Limits, current

PATIENCE_S = 60
"""How long a decoder may think about one answer."""

MAX_MEMORY_BYTES = 8 << 30
"""What a decoder may allocate, where the system can hold it to that."""

Bytes = NDArray[np.uint8]
Facts = Mapping[str, Any]
"""What JSON knows."""
Task = Callable[..., Iterator[tuple[Facts, NDArray[Any] | None]]]
"""Called with path, limits and the request's own arguments; yields the answers."""

_HEAD = struct.Struct("<cIQ")
_ANSWER, _END, _FAILURE, _LOG = b"a", b"e", b"f", b"l"
_KEPT_IDLE = 3
_PIPE_BYTES = 1 << 20
_NOTHING: Bytes = np.zeros(0, np.uint8)


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


# --- the parent's side -------------------------------------------------------------------------

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
def _end_all() -> None:
    while _idle:
        _idle.pop().end()


class _Decoder:
    """A child process that decodes."""

    def __init__(self) -> None:
        serve = "import sys; sys.path[:] = sys.argv[1:]; import difftalker.media.decoder as d"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"{serve}; d.serve()", *sys.path],
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
        # The path is told as it was given, so the decoder has to stand where the parent stands.
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
            if kind == _ANSWER:
                yield Answer(facts["told"], data.view(facts["type"]).reshape(facts["shape"]))
                continue
            self._is_busy = False
            if kind == _FAILURE:
                raise _failure(facts)
            return

    def stop(self) -> bool:
        """Leave a request before its last answer; whether that worked."""
        if self._is_torn or self._owner != os.getpid():
            return False
        try:
            self._send(stop=self._request)
            while self._received(Path())[0] == _ANSWER:
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
        with suppress(OSError):  # that a process is dead is told where it does not answer
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
            if kind != _LOG:
                return kind, facts, data
            logging.getLogger(facts["name"]).log(facts["level"], "%s", facts["text"])

    def _head(self, path: Path) -> tuple[Any, ...]:
        return _HEAD.unpack(self._read(_HEAD.size, path).tobytes())

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


# --- the child's side --------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the parent is gone."""
    _Server().run()


class _Server:
    """What runs in a decoder."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # what a library prints must not get between the answers
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stopped = 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
        _limit_resources()
        logging.getLogger().addHandler(_Forward(self._send))

    def run(self) -> None:
        """See ``serve``."""
        from difftalker.media import pictures, sounds

        tasks: dict[str, Task] = {**pictures.TASKS, **sounds.TASKS}
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            request = self._requests.get()
            self._answer(tasks[request["task"]], request)

    def _listen(self) -> None:
        """Take requests; beside the decoding, so that the parent's end is noticed at once."""
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "stop" in message:
                self._stopped = message["stop"]
            else:
                self._requests.put(message)
        os._exit(0)

    def _answer(self, task: Task, request: dict[str, Any]) -> None:
        path, limits = Path(request["path"]), Limits(**request["limits"])
        try:
            os.chdir(request["folder"])
            for facts, data in task(path, limits, **request["arguments"]):
                array = _NOTHING if data is None else np.ascontiguousarray(data)
                kind = {"type": array.dtype.str, "shape": array.shape}
                self._send(_ANSWER, {"told": facts, **kind}, array)
                if self._stopped >= request["request"]:
                    break
            self._send(_END, {})
        except MediaError as error:
            self._refuse(error)
        except MemoryError:
            found = f"decoding {path} takes more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
            self._refuse(MediaError(found, fix="take a smaller file"))
        except av.FFmpegError:
            self._refuse(not_media(path))
        except Exception:
            self._send(_FAILURE, {"trace": traceback.format_exc()})

    def _refuse(self, error: MediaError) -> None:
        told = {"found": error.found, "wanted": error.wanted, "fix": error.fix}
        self._send(_FAILURE, told)

    def _send(self, kind: bytes, facts: Facts, data: NDArray[Any] = _NOTHING) -> None:
        text, raw = json.dumps(facts).encode(), data.reshape(-1).view(np.uint8).data
        with self._lock:
            try:
                for part in (_HEAD.pack(kind, len(text), len(raw)) + text, raw):
                    rest = memoryview(part)
                    while rest:
                        rest = rest[os.write(self._out, rest) :]
            except OSError:
                os._exit(0)  # the parent is gone


class _Forward(logging.Handler):
    """Sends warnings to the parent's log."""

    def __init__(self, send: Callable[[bytes, Facts], None]) -> None:
        super().__init__(logging.WARNING)
        self._sent = send

    def emit(self, record: logging.LogRecord) -> None:
        facts = {"name": record.name, "level": record.levelno, "text": record.getMessage()}
        self._sent(_LOG, facts)


def _limit_resources() -> None:
    """No more memory than decoding takes, and no image of it on disk after a crash."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
