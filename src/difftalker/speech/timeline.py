"""The sound of a live session: what was pushed, followed by silence where nothing is there.

It knows sound up to ``AHEAD_S`` after the frame that is shown, and forgets what lies far behind.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from difftalker.speech.encoder import FEATURE_RATE_HZ, Floats
from difftalker.speech.live import (
    AHEAD_S,
    HOP_FEATURES,
    HOP_SAMPLES,
    LiveEncoder,
    LiveStream,
)
from difftalker.speech.silence import LEVEL_WINDOW_S, SILENT_BELOW_DB, SILENT_DBFS, SILENT_MARGIN_S
from difftalker.speech.whisper import SAMPLE_RATE_HZ
from difftalker.speech.windows import windows

LOUD_DBFS = -14.0
"""Level of the loud parts of speech, until it is known."""
LEVELS = 250
"""Levels, of 40 ms each, from which it is taken: those of the last ten seconds."""
RANGE_DB = 18.0
"""Least distance of loud parts from the quiet ones; less is no speech, or speech alone."""
FEWEST_LEVELS = 10
"""Fewest levels of sound, of what is no digital silence, that tell."""
KEPT_S = 2.0
"""Sound and features that are kept behind the frame that is shown, seconds."""


class SpeechTimeline:
    """Speech as it comes: sound, features and silence around the frames of a session."""

    def __init__(self, encoder: LiveEncoder, *, window: int) -> None:
        """``window`` is the number of features around a frame."""
        self._encoder, self._window = encoder, window
        self._queue: deque[Floats] = deque()
        self.queued = 0
        """Samples that were pushed and are not yet known to a frame."""
        self.last_s = 0.0
        """When the last of what was pushed ends, seconds."""
        self._start = 0
        self._known = np.zeros(0, np.float32)
        self._stream = LiveStream(encoder)
        self._fresh: list[Floats] = []  # known, and not yet encoded
        self._first = 0
        self._features = np.zeros((0, encoder.dim), np.float32)
        self._levels: deque[float] = deque(maxlen=LEVELS)
        self._measured = 0

    @property
    def known_s(self) -> float:
        """Where the sound that is known ends, seconds."""
        return (self._start + len(self._known)) / SAMPLE_RATE_HZ

    def push(self, samples: Floats) -> None:
        """Add samples (n,) at 16 kHz, to be heard after all that was pushed before."""
        if len(samples):
            self._queue.append(samples.astype(np.float32))
            self.queued += len(samples)
            self.last_s = self.known_s + self.queued / SAMPLE_RATE_HZ

    def clear(self, time_s: float) -> None:
        """Forget what was pushed and is not heard before ``time_s``."""
        self._queue.clear()
        self.queued, self.last_s = 0, min(self.last_s, time_s)
        end = round(time_s * SAMPLE_RATE_HZ)
        self._known = self._known[: max(0, end - self._start)]
        self._measured = min(self._measured, self._start + len(self._known))
        # What was encoded of the sound that stays is kept; the rest is encoded when it is wanted.
        encoded = (self._first + len(self._features)) // HOP_FEATURES
        hops = min(encoded, (self._start + len(self._known)) // HOP_SAMPLES)
        self._features = self._features[: max(0, hops * HOP_FEATURES - self._first)]
        at = max(0, hops * HOP_SAMPLES - self._start)
        self._stream = LiveStream(self._encoder, self._known[:at])
        self._fresh = [self._known[at:]]

    def until(self, time_s: float) -> None:
        """Know the sound up to ``AHEAD_S`` after a frame at this time: what was pushed, or none."""
        end = round((time_s + AHEAD_S) * SAMPLE_RATE_HZ)
        missing = end - self._start - len(self._known)
        if missing <= 0:
            return
        fresh = self._taken(missing)
        self._known = np.concatenate([self._known, fresh])
        self._fresh.append(fresh)
        self._measure()
        self._forget(time_s)

    def _taken(self, count: int) -> Floats:
        """The next samples of the queue, and silence after its end."""
        parts, left = [], count
        while left and self._queue:
            part = self._queue.popleft()
            if len(part) > left:
                self._queue.appendleft(part[left:])
                part = part[:left]
            parts.append(part)
            left -= len(part)
        self.queued -= count - left
        return np.concatenate([*parts, np.zeros(left, np.float32)])

    def sound(self, start_s: float, stop_s: float) -> Floats:
        """The samples between two times."""
        start, stop = (round(one * SAMPLE_RATE_HZ) - self._start for one in (start_s, stop_s))
        return self._known[max(0, start) : stop].copy()

    def window(self, time_s: float) -> Floats:
        """The features (W, C) around a frame; beyond what is known the last one repeats.

        This encodes the sound that became known since the last call.
        """
        if self._fresh:
            known = self._stream.push(np.concatenate(self._fresh))
            self._features, self._fresh = np.concatenate([self._features, known]), []
        since_s = np.array([time_s - self._first / FEATURE_RATE_HZ])
        taken: Floats = windows(self._features, since_s, size=self._window)[0]
        return taken

    def silent(self, time_s: float) -> bool:
        """Whether nothing is said around a frame, a margin away from speech."""
        steps = 2 * round(SILENT_MARGIN_S / LEVEL_WINDOW_S) + 1
        start_s = time_s - steps / 2 * LEVEL_WINDOW_S
        levels = [
            _decibels(self.sound(start_s + i * LEVEL_WINDOW_S, start_s + (i + 1) * LEVEL_WINDOW_S))
            for i in range(steps)
        ]
        return max(levels) < max(self._loud_db() - SILENT_BELOW_DB, SILENT_DBFS)

    def _loud_db(self) -> float:
        levels = np.array(self._levels)
        sounds = levels[levels > SILENT_DBFS]
        if len(sounds) < FEWEST_LEVELS:
            return LOUD_DBFS
        loud, quiet = float(np.percentile(sounds, 95)), float(np.percentile(levels, 10))
        return loud if loud - quiet >= RANGE_DB else LOUD_DBFS

    def _measure(self) -> None:
        """Note the levels of new sound."""
        size = round(LEVEL_WINDOW_S * SAMPLE_RATE_HZ)
        end = self._start + len(self._known)
        while self._measured + size <= end:
            at = max(0, self._measured - self._start)
            self._levels.append(_decibels(self._known[at : at + size]))
            self._measured += size

    def _forget(self, time_s: float) -> None:
        """Let go what lies far behind the frame."""
        samples = round((time_s - KEPT_S) * SAMPLE_RATE_HZ) - self._start
        if samples > SAMPLE_RATE_HZ:
            self._known, self._start = self._known[samples:].copy(), self._start + samples
        features = round((time_s - KEPT_S) * FEATURE_RATE_HZ) - self._first
        if features > FEATURE_RATE_HZ:
            self._features = self._features[features:].copy()
            self._first += features


def _decibels(samples: NDArray[np.float32]) -> float:
    power = float(np.dot(samples, samples)) / len(samples) if len(samples) else 0.0
    return float(10 * np.log10(max(power, 1e-12)))
