"""Keeps a live session in real time, and measures how well that goes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from difftalker.dubbing.live import CompletedFrame, LiveFrame, LiveSession
from difftalker.synthesis.renderer import Floats

FULL, IDLE = 0.95, 0.88
"""Shares of the time of a frame: above the first fewer frames are shown, below the second more."""
RESERVE_PERIODS = 2
"""Periods more than its own after which a frame is to be shown: one for the half that is computed
beside, and one in which a frame that took too long is made good by the next ones."""
SLOWEST = 8
"""Most periods for which one frame is shown."""
MEMORY = 0.9
"""What the running mean of a frame's cost keeps from frame to frame."""
_BIN_S, _BINS = 0.001, 4000


class Durations:
    """Quantiles of durations, of any number of them, to a millisecond."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[min(_BINS - 1, max(0, int(seconds / _BIN_S)))] += 1

    def __len__(self) -> int:
        return int(self._counts.sum())

    def quantile(self, share: float) -> float:
        """The duration, seconds, that this share of them does not exceed; 0 of none."""
        if not len(self):
            return 0.0
        place = np.searchsorted(np.cumsum(self._counts), share * len(self))
        return float((place + 1) * _BIN_S)


@dataclass(kw_only=True)
class LiveStats:
    """How a session in real time went."""

    frames: int = 0
    """Rendered."""
    periods: int = 0
    """Frames of the full rate."""
    late: int = 0
    """Frames that were not there when they were to be shown."""
    first_s: float = 0.0
    """From the start to when the first frame is shown."""
    completed: Durations = field(default_factory=Durations)
    """What listening and completing took, beside the rendering of the frame before."""
    computed: Durations = field(default_factory=Durations)
    """What the slower of completing and rendering took: one period at the most, to keep up."""
    answered: Durations = field(default_factory=Durations)
    """From sound in to when its frame is shown."""

    def facts(self) -> dict[str, float | int]:
        """The figures, times in milliseconds."""
        return {
            "frames": self.frames,
            "frames_left_out": self.periods - self.frames,
            "frames_late": self.late,
            "first_frame_ms": round(1000 * self.first_s),
            "complete_p50_ms": round(1000 * self.completed.quantile(0.5)),
            "complete_p95_ms": round(1000 * self.completed.quantile(0.95)),
            "frame_p50_ms": round(1000 * self.computed.quantile(0.5)),
            "frame_p95_ms": round(1000 * self.computed.quantile(0.95)),
            "sound_to_frame_p50_ms": round(1000 * self.answered.quantile(0.5)),
            "sound_to_frame_p95_ms": round(1000 * self.answered.quantile(0.95)),
        }


@dataclass(frozen=True, kw_only=True)
class Threads:
    """Where frames are computed."""

    completing: Executor
    rendering: Executor


@contextmanager
def two_threads() -> Iterator[Threads]:
    """A thread with one of torch's threads to complete in, and one with the others to render in."""
    others = max(1, torch.get_num_threads() - 1)
    with (
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as completing,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(others,)) as rendering,
    ):
        yield Threads(completing=completing, rendering=rendering)


class LiveClock:
    """Drives a session: sound in and out in time, and a picture whenever there is time for one.

    Where pictures take longer than their period, each is shown for two or more: the rate drops
    evenly, and no sound is lost or late, as it is given out before anything is computed.

    Two frames are in work at a time: one thread completes landmarks, and another renders each frame
    as soon as it has them. A frame is begun at its time on the session's clock. It is to be shown,
    with its sound, when the periods that it lasts have passed, and ``RESERVE_PERIODS`` more.
    """

    def __init__(
        self,
        session: LiveSession,
        *,
        hear: Callable[[], Floats],
        play: Callable[[Floats], None],
        show: Callable[[LiveFrame, int], None],
        slower: Callable[[float], None] = lambda fps: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        threads: Callable[[], AbstractContextManager[Threads]] = two_threads,
    ) -> None:
        """``hear`` gives the sound (n,), 16 kHz, that came since its last call.

        ``play`` takes the sound of a frame, before ``show`` takes the frame and for how many
        periods it is shown, in another thread; never both at a time. ``slower`` is told the new
        rate of frames whenever that changes.
        """
        self._session, self._hear, self._play, self._show = session, hear, play, show
        self._slower, self._now, self._sleep, self._threads = slower, now, sleep, threads
        self._giving = threading.Lock()
        self._periods, self._cost_s, self._began = 1, 0.0, 0.0
        self._marks: deque[tuple[float, float]] = deque(maxlen=1000)
        self._rendered: Future[float] | None = None
        self.stats = LiveStats()

    def run(self, going: Callable[[], bool]) -> LiveStats:
        """Drive the session until ``going`` says no; returns the figures."""
        session = self._session
        self._began = self._now()
        offset = self._began - session.time_s
        with self._threads() as threads:
            while going():
                due = offset + session.time_s
                wait_s = due - self._now()
                if wait_s > 0:
                    self._sleep(wait_s)
                self._listen()
                missed = max(0, int((self._now() - due) * session.fps))
                self._period(due, self._periods + missed, threads)
            if self._rendered:
                self._rendered.result()
        return self.stats

    def _listen(self) -> None:
        samples = self._hear()
        if not len(samples):
            return
        if not self._session.waiting_s:
            # Sound that nothing waits before is heard next: with the first frame that can know it.
            self._marks.append((self._session.known_s, self._now()))
        self._session.push(samples)

    def _period(self, due: float, periods: int, threads: Threads) -> None:
        """Begin the next frame, and wait until it is completed and the one before is rendered."""
        begun_s, before = self._now(), self._rendered
        sound = self._session.sound(periods)
        with self._giving:
            self._play(sound)
        coming = threads.completing.submit(self._completed, periods)
        self._rendered = threads.rendering.submit(self._render, due, periods, coming)
        coming.result()
        if before:
            cost_s = max(before.result(), self._now() - begun_s)
            self.stats.computed.add(cost_s)
            self._adapt(cost_s)

    def _completed(self, periods: int) -> CompletedFrame:
        begun_s = self._now()
        frame = self._session.complete(periods)
        self.stats.completed.add(self._now() - begun_s)
        return frame

    def _render(self, due: float, periods: int, coming: Future[CompletedFrame]) -> float:
        """Render and show a frame once it is completed; how long that took, seconds."""
        stats, fps, completed = self.stats, self._session.fps, coming.result()
        begun_s = self._now()
        frame = self._session.render(completed)
        with self._giving:
            self._show(frame, periods)
        done, shown = self._now(), due + (periods + RESERVE_PERIODS) / fps
        stats.first_s = stats.first_s or max(done, shown) - self._began
        stats.frames += 1
        stats.periods += periods
        stats.late += done > shown
        while self._marks and self._marks[0][0] < frame.time_s + periods / fps:
            stats.answered.add(max(done, shown) - self._marks.popleft()[1])
        return done - begun_s

    def _adapt(self, cost_s: float) -> None:
        """Show each frame for as many periods as it takes."""
        fresh = self._cost_s * MEMORY + cost_s * (1 - MEMORY)
        self._cost_s = fresh if self._cost_s else cost_s
        share, before = self._cost_s * self._session.fps, self._periods
        if share > FULL * self._periods:
            self._periods = min(SLOWEST, self._periods + 1)
        elif share < IDLE * (self._periods - 1):
            self._periods -= 1
        if self._periods != before:
            self._slower(self._session.fps / self._periods)
