"""Live: pictures and sound out while speech comes in.

listen    samples as they come -> features, silence            speech.timeline
complete  upper points + features -> all 68 points             LiveCompleter, one frame at a time
render    the light network, or none for a frame that is left out
show      blended into footage that is played forth and back, or a whole face before a still picture

A frame waits for ``AHEAD_S`` of the sound after it, and for no later picture. ``LiveClock`` runs
the first two in one thread and the others in a second one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from difftalker.dubbing.dub import generated_by
from difftalker.dubbing.engine import Engine
from difftalker.dubbing.live_stage import Stage, lacking
from difftalker.dubbing.talk import made_by
from difftalker.face.landmarks import LOWER
from difftalker.face.lips import relative_opening, set_openings
from difftalker.landmarks.completion import CompletionNet
from difftalker.marks.marking import MARKED, Marker, Marks, Work
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.speech.live import AHEAD_S, LAG_S, LiveEncoder
from difftalker.speech.registry import load_encoder
from difftalker.speech.timeline import SpeechTimeline
from difftalker.synthesis.renderer import Floats, Image

RESTS_S, LEAVES_S = 1.0, 0.2
"""Time in which a mouth comes to rest in silence, and leaves it as speech begins, seconds."""
SLOW_PER_S = 0.2
"""Highest speed of the lips' opening in silence, face scales a second: no mouth that speaks."""
SLOW_AFTER_S, FASTER_PER_S2 = 0.12, 20.0
"""So long it holds after silence, in the sound ahead; then it rises by so much in each second."""
CLOSES_S = 0.3
"""Time constant in which lips close that silence finds far open, seconds."""


@dataclass(frozen=True, kw_only=True)
class CompletedFrame:
    """What is needed to render a frame."""

    number: int
    """Its place in the footage or movement."""
    time_s: float
    sound: Floats
    points: Floats
    """(68, 2), crop units."""
    window: Floats | None
    """(W, features): the speech around it."""


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """One picture, and what is heard while it is shown."""

    image: Image
    """(H, W, 3)."""
    time_s: float
    """On the session's clock, which begins with its first frame."""
    sound: Floats
    """(n,): mono samples at 16 kHz."""


class LiveSession:
    """One conversation: speech in, frames out."""

    def __init__(self, engine: Engine, stage: Stage, marks: Marks = MARKED) -> None:
        """Raise AvatarError where the avatar has no completion for live sessions.

        ``marks`` say how its pictures, and the file they come into, state that they are generated.
        """
        net = engine.networks.live
        if net is None:
            raise lacking(engine, "completion for live sessions", "live")
        encoder = cast(LiveEncoder, load_encoder(net.config.features, device=engine.device))
        self._speech = SpeechTimeline(encoder, window=net.config.window)
        self._completer = LiveCompleter(net, engine)
        self._stage, self._show, self._number = stage, stage.new_show(), 0
        self._uses_audio = engine.config.synthesis.uses_audio
        self.fps = stage.fps
        self.marker = marker_of(engine, stage, marks)

    @property
    def time_s(self) -> float:
        """When the next frame begins, on the session's clock."""
        return self._number / self.fps

    @property
    def known_s(self) -> float:
        """Up to when the sound is settled: what is pushed now is heard from then on."""
        return self._speech.known_s

    @property
    def last_heard_s(self) -> float:
        """When the last of what was pushed ends, on the session's clock."""
        return self._speech.last_s

    @property
    def waiting_s(self) -> float:
        """How much of what was pushed is not yet known to a frame, seconds."""
        return self._speech.queued / SAMPLE_RATE_HZ

    def push(self, samples: Floats) -> None:
        """Say samples (n,), mono at 16 kHz from -1 to 1, after all that was pushed before."""
        self._speech.push(samples)

    def clear(self) -> None:
        """Say nothing more, from the next frame on: an interruption."""
        self._speech.clear(self.time_s)

    def sound(self, periods: int = 1) -> Floats:
        """What is heard with the next frame, shown for so many periods; nothing is rendered."""
        start_s, stop_s = self.time_s, (self._number + periods) / self.fps
        self._speech.until(max(start_s, stop_s - AHEAD_S))
        return self._speech.sound(start_s, stop_s)

    def frame(self, periods: int = 1) -> LiveFrame:
        """The next frame, shown for so many periods: more than one leaves frames out."""
        return self.render(self.complete(periods))

    def complete(self, periods: int = 1) -> CompletedFrame:
        """The first half of :meth:`frame`: listens, and completes the landmarks.

        It may run in one thread while :meth:`render` renders the frame before in another. Nothing
        is to be pushed or cleared meanwhile.
        """
        number, time_s, sound = self._number, self.time_s, self.sound(periods)
        points = self._completer.complete(
            self._stage.upper(number),
            self._speech.window(time_s),
            silent=self._speech.silent(time_s),
            time_s=time_s,
        )
        window = self._speech.window(time_s + LAG_S) if self._uses_audio else None
        self._number += periods
        return CompletedFrame(
            number=number, time_s=time_s, sound=sound, points=points, window=window
        )

    def render(self, frame: CompletedFrame) -> LiveFrame:
        """The second half of :meth:`frame`: frames come in their order."""
        image = self._show.picture(frame.number, frame.points, frame.window)
        marked = self.marker.mark(image, frame.time_s)
        return LiveFrame(image=marked, time_s=frame.time_s, sound=frame.sound)


def marker_of(engine: Engine, stage: Stage, marks: Marks) -> Marker:
    """What marks the pictures of one session; its job is a random number."""
    whole = stage.footage is None
    comment = made_by(engine.name) if whole else generated_by(engine.name)
    job = secrets.token_hex(32)
    work = Work(comment=comment, job=job, avatar=engine.name, footage=stage.footage)
    return Marker(marks, work, *stage.size)


class LiveCompleter:
    """Completes frame by frame; in silence lips move slowly, and come to rest."""

    def __init__(self, net: CompletionNet, engine: Engine) -> None:
        self._net, self._device, self._engine = net, engine.device, engine
        self._rest, self._last_s = 1.0, 0.0
        self._spoken_s = 0.0  # since silence ended
        self._least = np.inf  # opening of the lips in this silence, face scales
        self._opening: float | None = None

    def complete(self, upper: Floats, window: Floats, *, silent: bool, time_s: float) -> Floats:
        """Upper points (37, 2) and speech (W, C) -> all points (68, 2), crop units."""
        with torch.inference_mode():
            made = self._net(
                torch.from_numpy(upper[None, None]).to(self._device),
                torch.from_numpy(window[None, None]).to(self._device),
            )
        points: Floats = made.points[0, 0].float().cpu().numpy()
        passed_s, self._last_s = time_s - self._last_s, time_s
        self._spoken_s = 0.0 if silent else self._spoken_s + passed_s
        return self._slowed(self._rested(points, passed_s, silent=silent), passed_s, silent=silent)

    def _rested(self, points: Floats, passed_s: float, *, silent: bool) -> Floats:
        """The neutral face in silence, with lips as closed as they came in it."""
        step = passed_s / RESTS_S if silent else -passed_s / LEAVES_S
        self._rest = min(1.0, max(0.0, self._rest + step))
        if not self._rest:
            self._least = np.inf
            return points
        if silent:
            self._least = min(self._least, _opening(points))
        opening = np.array([self._least if np.isfinite(self._least) else 0.0])
        still = set_openings(self._engine.completer.neutral(points)[None], opening)[0]
        rested = points.copy()
        rested[list(LOWER)] += self._rest * (still - points)[list(LOWER)]
        return rested

    def _slowed(self, points: Floats, passed_s: float, *, silent: bool) -> Floats:
        """Lips that open and close no faster than in silence, until speech is close."""
        wanted = _opening(points)
        before = wanted if self._opening is None else self._opening
        fastest = SLOW_PER_S + FASTER_PER_S2 * max(0.0, self._spoken_s - SLOW_AFTER_S)
        if silent:
            fastest = max(fastest, (before - wanted) / CLOSES_S)
        most = fastest * passed_s
        self._opening = before + min(most, max(-most, wanted - before))
        if self._opening == wanted:
            return points
        slowed: Floats = set_openings(points[None], np.array([self._opening]))[0]
        return slowed


def _opening(points: Floats) -> float:
    return float(relative_opening(points[None])[0])
