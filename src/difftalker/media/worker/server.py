"""The child's side of ``media.decoder``: answers requests until the parent is gone."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.container import not_media
from difftalker.media.limits import Limits
from difftalker.media.worker import pictures, sounds
from difftalker.media.worker.protocol import ANSWER, END, FAILURE, HEAD, LOG, Bytes, Facts, Task

MAX_MEMORY_BYTES = 8 << 30
"""What a decoder may allocate, where the system can hold it to that."""

_NOTHING: Bytes = np.zeros(0, np.uint8)


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
                self._send(ANSWER, {"facts": facts, **kind}, array)
                if self._stopped >= request["request"]:
                    break
            self._send(END, {})
        except MediaError as error:
            self._refuse(error)
        except MemoryError:
            found = f"decoding {path} takes more than {MAX_MEMORY_BYTES >> 30} GiB of memory"
            self._refuse(MediaError(found, fix="take a smaller file"))
        except av.FFmpegError:
            self._refuse(not_media(path))
        except Exception:
            self._send(FAILURE, {"trace": traceback.format_exc()})

    def _refuse(self, error: MediaError) -> None:
        reason = {"found": error.found, "wanted": error.wanted, "fix": error.fix}
        self._send(FAILURE, reason)

    def _send(self, kind: bytes, facts: Facts, data: NDArray[Any] = _NOTHING) -> None:
        text, raw = json.dumps(facts).encode(), data.reshape(-1).view(np.uint8).data
        with self._lock:
            try:
                for part in (HEAD.pack(kind, len(text), len(raw)) + text, raw):
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
        self._sent(LOG, facts)


def _limit_resources() -> None:
    """No more memory than decoding takes, and no image of it on disk after a crash."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
