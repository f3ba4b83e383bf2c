"""The speech of one job: its sound decoded once, its features encoded once.

Samples and features lie in files without a name in the system's temporary folder, 0.14 MB a second,
so that memory does not grow with them.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.audio import SAMPLE_RATE_HZ, sound_parts
from difftalker.media.gaps import Gaps, find_gaps
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
        self._samples = _Samples(audio)
        self._features: tuple[tuple[bytes, int], _Scratch] | None = None
        if not self.duration_s:
            raise MediaError(
                f"the sound of {audio} is of zero length",
                wanted="some speech",
                fix="choose another file",
            )

    @property
    def duration_s(self) -> float:
        """The length of the sound with its gaps, seconds."""
        return float(self._samples.sound_s[-1, 1]) if len(self._samples.sound_s) else 0.0

    def gaps(self, times_s: Times | None = None) -> Gaps:
        """The time without sound, or without frames at these times (F,), seconds."""
        return find_gaps(self._samples.sound_s, times_s)

    def windows(self, times_s: Times) -> WindowStream:
        """The features around frames at rising times (F,), seconds; silence after the sound.

        A second of silence is encoded, and the last feature of it repeated. In gaps nothing is:
        what lies between frames or sounds that are an hour apart costs nothing.
        """
        gaps, end_s = self.gaps(times_s), min(float(times_s[-1]), self.duration_s)
        end = int(float(gaps.closed(np.array([end_s]))[0] + ENCODED_AFTER_S) * SAMPLE_RATE_HZ)
        key = gaps.starts_s.tobytes() + gaps.stops_s.tobytes(), end
        if self._features is None or self._features[0] != key:
            blocks = _padded(self._samples.outside(gaps), end)
            self._features = key, _Scratch(self._encoder().encode(blocks))
        blocks = self._features[1].blocks(BLOCK_FEATURES)
        return WindowStream(blocks, self._window, clock=gaps.closed)

    def silent(self, times_s: Times, margin_s: float = SILENT_MARGIN_S) -> NDArray[np.bool_]:
        """(F,): whether frames at these times are silent, ``margin_s`` away from any speech."""
        gaps = self.gaps(times_s)
        blocks = self._samples.outside(gaps)
        return silent_at(blocks, gaps.closed(times_s), margin_s, rate_hz=SAMPLE_RATE_HZ)


class _Samples:
    """The samples of a sound track without its gaps, and where they belong."""

    def __init__(self, audio: str | Path) -> None:
        self._places: list[tuple[int, int, int]] = []
        """For each stretch of sound its first sample, the one after its last, and its first row."""
        self._rows = _Scratch(self._read(audio))
        spans = [(start, stop) for start, stop, _ in self._places]
        self.sound_s = np.array(spans, np.float64).reshape(-1, 2) / SAMPLE_RATE_HZ
        """(n, 2): where there is sound, seconds."""

    def _read(self, audio: str | Path) -> Iterator[Floats]:
        rows = 0
        for part in sound_parts(audio, rate_hz=SAMPLE_RATE_HZ, layout="mono"):
            if self._places and self._places[-1][1] == part.start:
                start, _, row = self._places.pop()
                self._places.append((start, part.end, row))
            else:
                self._places.append((part.start, part.end, rows))
            rows += part.end - part.start
            yield part.samples[0]

    def outside(self, gaps: Gaps) -> Iterator[Floats]:
        """All samples that lie outside of gaps, so many at a time; silence where there are none."""
        end = self._places[-1][1]
        for begin_s, stop_s in gaps.between(end / SAMPLE_RATE_HZ):
            begin, stop = round(begin_s * SAMPLE_RATE_HZ), round(stop_s * SAMPLE_RATE_HZ)
            for start in range(begin, stop, BLOCK_SAMPLES):
                yield self._between(start, min(start + BLOCK_SAMPLES, stop))

    def _between(self, start: int, stop: int) -> Floats:
        found = np.zeros(stop - start, np.float32)
        begun = bisect_right(self._places, start, key=itemgetter(1))
        for first, last, row in takewhile(lambda place: place[0] < stop, self._places[begun:]):
            low, high = max(first, start), min(last, stop)
            rows = self._rows.read(row + low - first, row + high - first)
            found[low - start : high - start] = rows
        return found


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

    def read(self, start: int, stop: int) -> Floats:
        """The rows from ``start`` to before ``stop``."""
        return np.array(np.memmap(self._file, np.float32, "r", shape=self._shape)[start:stop])

    def blocks(self, rows: int) -> Iterator[Floats]:
        """The rows, so many at a time."""
        for start in range(0, len(self), rows):
            yield self.read(start, start + rows)


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
