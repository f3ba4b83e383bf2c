"""The speech of one job: its sound decoded once, its features encoded once.

Samples and features lie in files without a name in the system's temporary folder, 0.14 MB a second,
so that memory does not grow with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.speech.encoder import SpeechEncoder
from difftalker.speech.silence import SILENT_MARGIN_S, silent_at
from difftalker.speech.windows import WindowStream

BLOCK_SAMPLES = 10 * SAMPLE_RATE_HZ
"""Samples that are read, encoded or measured at once."""
ENCODED_AFTER_S = 1.0
"""Sound or silence that is encoded after the last frame or the end of the sound, seconds."""
BLOCK_FEATURES = 512
"""Features that are read at once."""

Floats = NDArray[np.float32]
Times = NDArray[np.float64]


class Speech:
    """Samples, silence and windows of features of one sound track."""

    def __init__(
        self,
        audio: str | Path,
        encoder: Callable[[], SpeechEncoder],
        *,
        window: int,
    ) -> None:
        """Decode the sound of ``audio``.

        ``encoder`` gives the network that encodes it, ``window`` is the number of features around
        a frame.

        Raises:
            MediaError: the sound cannot be read, has no length, or there is no room for it.
        """
        self.audio, self._encoder, self._window = audio, encoder, window
        self._samples = _Scratch(stream_audio(audio))
        self._features: tuple[int, _Scratch] | None = None
        if not len(self._samples):
            raise MediaError(
                f"the sound of {audio} is of zero length",
                wanted="some speech",
                fix="choose another file",
            )

    @property
    def duration_s(self) -> float:
        """The length of the sound, seconds."""
        return len(self._samples) / SAMPLE_RATE_HZ

    def windows(self, times_s: Times) -> WindowStream:
        """The features around frames at rising times (F,), seconds; silence after the sound.

        A second of silence is encoded, and the last feature of it repeated: what lies between
        frames that are an hour apart costs nothing.
        """
        end_s = min(float(times_s[-1]), self.duration_s) + ENCODED_AFTER_S
        end = int(end_s * SAMPLE_RATE_HZ)
        if self._features is None or self._features[0] != end:
            blocks = _padded(self._samples.blocks(BLOCK_SAMPLES), end)
            self._features = end, _Scratch(self._encoder().encode(blocks))
        return WindowStream(self._features[1].blocks(BLOCK_FEATURES), self._window)

    def silent(self, times_s: Times, margin_s: float = SILENT_MARGIN_S) -> NDArray[np.bool_]:
        """(F,): whether frames at these times are silent, ``margin_s`` away from any speech."""
        blocks = self._samples.blocks(BLOCK_SAMPLES)
        return silent_at(blocks, times_s, margin_s, rate_hz=SAMPLE_RATE_HZ)


class _Scratch:
    """Rows of numbers in a file that has no name and goes with this object."""

    def __init__(self, blocks: Iterable[Floats]) -> None:
        self._shape: tuple[int, ...] = (0,)
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this
            for block in blocks:
                self._file.write(np.ascontiguousarray(block, np.float32).data)
                self._shape = (self._shape[0] + len(block), *block.shape[1:])
            self._file.flush()
        except OSError as error:
            raise MediaError(
                f"could not write to {tempfile.gettempdir()}: {error.strerror or error}",
                fix="free space there, or name another folder with TMPDIR",
            ) from error

    def __len__(self) -> int:
        return self._shape[0]

    def blocks(self, rows: int) -> Iterator[Floats]:
        """The rows, so many at a time."""
        if not len(self):
            return
        mapped = np.memmap(self._file, np.float32, "r", shape=self._shape)
        for start in range(0, len(self), rows):
            yield np.array(mapped[start : start + rows])


def _padded(blocks: Iterable[Floats], samples: int) -> Iterator[Floats]:
    """Blocks that add up to ``samples``: cut, or followed by silence."""
    left = samples
    for block in blocks:
        if left <= 0:
            return
        yield block[:left]
        left -= len(block)
    while left > 0:
        yield np.zeros(min(left, BLOCK_SAMPLES), np.float32)
        left -= BLOCK_SAMPLES
