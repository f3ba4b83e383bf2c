"""A live session from a source of sound to a video, in real time: `difftalker live`."""

from __future__ import annotations

import abc
import io
import queue
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from difftalker.dubbing.live import LiveFrame, LiveSession
from difftalker.dubbing.live_clock import LiveClock, LiveStats
from difftalker.dubbing.live_stage import Stage
from difftalker.errors import UsageError
from difftalker.media.audio import SAMPLE_RATE_HZ, read_audio
from difftalker.media.live_writer import LiveWriter
from difftalker.synthesis.renderer import Floats

TAIL_S = 0.5
"""What is shown after the end of the speech, seconds."""
BLOCK_S = 0.02
"""Sound that is read at once, seconds."""
_STDIN = "-"


class SoundSource(abc.ABC):
    """Speech as it comes, mono at 16 kHz."""

    ended: bool = False
    """Whether there will be no more."""

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to listen."""

    @abc.abstractmethod
    def hear(self) -> Floats:
        """What came since the last call, (n,)."""


class SpokenFile(SoundSource):
    """A file, heard as if it was spoken now."""

    def __init__(self, path: str, now: Callable[[], float] = time.monotonic) -> None:
        """Read the sound of a file.

        Raises:
            MediaError: it cannot be read.
        """
        self._samples, self._now, self._given = read_audio(path), now, 0

    def start(self) -> None:
        """Speak from now on."""
        self._began = self._now()

    def hear(self) -> Floats:
        """See :meth:`SoundSource.hear`."""
        end = min(len(self._samples), int((self._now() - self._began) * SAMPLE_RATE_HZ))
        part, self._given = self._samples[self._given : end], end
        self.ended = end == len(self._samples)
        return part


class _Queued(SoundSource):
    """Blocks that another thread brings; None ends them."""

    def __init__(self) -> None:
        self._blocks: queue.SimpleQueue[Floats | None] = queue.SimpleQueue()

    def hear(self) -> Floats:
        parts = [np.zeros(0, np.float32)]
        while not self._blocks.empty():
            block = self._blocks.get()
            if block is None:
                self.ended = True
                break
            parts.append(block)
        return np.concatenate(parts)


class RawStream(_Queued):
    """Samples of 16 bits on a stream, standard input by default."""

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        # Without a buffer, which would wait until it is full.
        self._stream: Any = io.FileIO(0, closefd=False) if stream is None else stream

    def start(self) -> None:
        """Read in a thread of its own."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        size, rest = 2 * round(BLOCK_S * SAMPLE_RATE_HZ), b""
        while data := self._stream.read(size):
            data = rest + data
            whole = len(data) // 2 * 2
            samples, rest = np.frombuffer(data[:whole], "<i2"), data[whole:]
            self._blocks.put(samples.astype(np.float32) / np.float32(32768))
        self._blocks.put(None)


class Microphone(_Queued):
    """The default microphone, by the package sounddevice."""

    def start(self) -> None:
        """Listen.

        Raises:
            UsageError: the package is missing, or there is no microphone.
        """
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: PortAudio itself
            raise UsageError(
                "a microphone needs the package sounddevice and the library PortAudio",
                fix="install them: `pip install 'difftalker[live]'`, and your system's PortAudio",
            ) from error

        def heard(samples: Floats, *_: object) -> None:
            self._blocks.put(samples[:, 0].copy())

        size = round(BLOCK_S * SAMPLE_RATE_HZ)
        try:
            self._stream = sounddevice.InputStream(
                SAMPLE_RATE_HZ, size, channels=1, dtype="float32", callback=heard
            )
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise UsageError(
                f"no sound comes from a microphone ({error})", fix="choose --audio, or connect one"
            ) from error


def sound_source(audio: str | None) -> SoundSource:
    """A file, ``-`` for standard input, or None for the microphone.

    Raises:
        MediaError: the file cannot be read.
    """
    if audio is None:
        return Microphone()
    return RawStream() if audio == _STDIN else SpokenFile(audio)


def run_live(
    session: LiveSession,
    stage: Stage,
    source: SoundSource,
    *,
    output: str | None = None,
    seconds: float = 0.0,
    slower: Callable[[float], None] = lambda fps: None,
) -> LiveStats:
    """Drive a session in real time until its speech has ended, or for so many seconds.

    ``output`` is a video, ``-`` for standard output, or None. Ctrl-C ends it in order.

    Raises:
        MediaError: the output cannot be written.
        UsageError: there is no microphone.
    """
    (width, height), marker = stage.size, session.marker
    writer = (
        LiveWriter(
            output,
            width=width,
            height=height,
            fps=stage.fps,
            comment=marker.comment,
            tags=marker.tags(output),
            finish=marker.finish,
        )
        if output
        else None
    )
    shown = 0

    def play(samples: Floats) -> None:
        if writer:
            writer.play(samples)

    def show(frame: LiveFrame, periods: int) -> None:
        nonlocal shown
        if writer:
            writer.show(frame.image, shown)
        shown += periods

    def going() -> bool:
        if seconds:
            return session.time_s < seconds
        return not source.ended or session.time_s < session.last_heard_s + TAIL_S

    with writer or nullcontext():
        source.start()
        clock = LiveClock(session, hear=source.hear, play=play, show=show, slower=slower)
        try:
            return clock.run(going)
        except KeyboardInterrupt:
            return clock.stats
