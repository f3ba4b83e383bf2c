"""Reading sound, as a decoder does it.

Callers use ``media.audio``, which has this done in a process of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from difftalker.errors import MediaError
from difftalker.media.container import (
    audio_track,
    decode_audio,
    duration_s,
    not_media,
    open_media,
)
from difftalker.media.limits import Limits, check_duration
from difftalker.media.worker.pictures import first_picture_s
from difftalker.media.worker.protocol import Facts, Task
from difftalker.media.worker.sound_clock import SoundClock

FloatArray = NDArray[np.float32]
_Placed = tuple[int | None, AudioFrame]
"""A frame and the sample of the output at which it begins; None: where the one before ends."""
_Piece = tuple[int | None, FloatArray]
"""The same resampled, ``(channels, samples)``."""
_Laid = tuple[int, FloatArray]
"""The same in its place: from zero on, rising, without overlap."""

_SYNC_TOLERANCE_S = Fraction(1, 1000)
_MIX_OPTIONS = {"rematrix_maxval": "1.0"}
"""Mix channels at weights that sum to 1; float sound is otherwise mixed up to 3.4 times louder."""
_PART_SAMPLES = 16_384
_HIGHEST_RATE_HZ = 768_000


def describe(path: Path, limits: Limits) -> Iterator[tuple[Facts, None]]:
    """The fields of ``media.audio.AudioInfo`` but for its path."""
    with open_media(path) as container:
        track = audio_track(container)
        if track is None:
            raise MediaError(f"{path} has no sound track", wanted="a file with sound")
        rate_hz, channels = track.codec_context.sample_rate, track.codec_context.channels
        if not 0 < rate_hz <= _HIGHEST_RATE_HZ or channels < 1:
            raise not_media(path)
        facts = {
            "rate_hz": rate_hz,
            "channels": channels,
            "duration_s": duration_s(container, track),
            "codec": track.codec_context.name,
        }
    yield facts, None


def parts(
    path: Path, limits: Limits, rate_hz: int, layout: str
) -> Iterator[tuple[Facts, FloatArray]]:
    """The sound from the first picture on, ``(channels, samples)`` at a rate and in a layout.

    ``start`` is where a part begins, in samples. Between parts there is none: no time is spent on
    a gap, however long.
    """
    end = 0
    for start, samples in _joined(_laid(_pieces(path, limits, rate_hz, layout), rate_hz)):
        end = start + samples.shape[1]
        check_duration(path, end / rate_hz, limits)
        yield {"start": start}, samples
    if not end:
        raise MediaError(f"the sound track of {path} holds no sound", wanted="at least one sample")


TASKS: dict[str, Task] = {"describe sound": describe, "sound": parts}


def _joined(pieces: Iterable[_Laid]) -> Iterator[_Laid]:
    """The same in fewer, larger parts."""
    held: list[FloatArray] = []
    first = end = 0
    for start, samples in pieces:
        if held and (start != end or end - first >= _PART_SAMPLES):
            yield first, np.concatenate(held, axis=1)
            held = []
        if not held:
            first = start
        held.append(samples)
        end = start + samples.shape[1]
    if held:
        yield first, np.concatenate(held, axis=1)


def _laid(pieces: Iterable[_Piece], rate_hz: int) -> Iterator[_Laid]:
    """Each piece where it belongs, none before zero.

    Where two overlap the later one is heard, as its pictures are seen: the first waits for it, a
    second at most.
    """
    waiting: deque[_Laid] = deque()
    at = done = 0
    for start, samples in pieces:
        while start is not None and waiting and _end(waiting[-1]) > start:
            first, earlier = waiting.pop()
            if first < start:
                waiting.append((first, earlier[:, : start - first]))
        at = at if start is None else start
        waiting.append((at, samples))
        at += samples.shape[1]
        while waiting and _end(waiting[0]) <= at - rate_hz:
            yield from _after(done, waiting[0])
            done = max(done, _end(waiting.popleft()))
    for piece in waiting:
        yield from _after(done, piece)


def _end(piece: _Laid) -> int:
    return piece[0] + int(piece[1].shape[1])


def _after(done: int, piece: _Laid) -> Iterator[_Laid]:
    """What of a piece lies after what is given already."""
    late = max(0, done - piece[0])
    if late < piece[1].shape[1]:
        yield piece[0] + late, piece[1][:, late:]


def _pieces(path: Path, limits: Limits, rate_hz: int, layout: str) -> Iterator[_Piece]:
    with open_media(path) as container:
        clock = SoundClock(path, limits)
        decoded = decode_audio(path, container, clock.note)
        for first in decoded:  # once: the rest is taken within
            zero_s = _zero_s(path, limits, first)
            placed = _placed(chain([first], decoded), clock, zero_s, rate_hz)
            yield from _resampled(_mixable(placed, layout), rate_hz, layout)


def _zero_s(path: Path, limits: Limits, first: AudioFrame) -> Fraction:
    """The first picture's time after that of the first sound, seconds."""
    picture_start_s = first_picture_s(path, limits)
    if picture_start_s is None or first.pts is None or first.time_base is None:
        return Fraction(0)
    early_s = picture_start_s - first.pts * first.time_base
    return early_s if abs(early_s) > _SYNC_TOLERANCE_S else Fraction(0)


def _placed(
    frames: Iterable[AudioFrame], clock: SoundClock, zero_s: Fraction, rate_hz: int
) -> Iterator[_Placed]:
    """Each frame with the sample at which it begins."""
    begins_s: Fraction | None = None
    for frame in frames:
        starts_s = clock.place(frame)
        if starts_s is None:
            yield None, frame
            continue
        begins_s = starts_s if begins_s is None else begins_s
        yield round((starts_s - begins_s - zero_s) * rate_hz), frame


def _mixable(frames: Iterable[_Placed], layout: str) -> Iterator[_Placed]:
    """The same, averaged to mono where FFmpeg cannot mix as many channels as there are."""
    mixes: dict[str, bool] = {}
    for start, frame in frames:
        name = frame.layout.name
        if name not in mixes:
            mixes[name] = _mixes(frame, layout)
        yield start, frame if mixes[name] else _averaged(frame)


def _mixes(frame: AudioFrame, layout: str) -> bool:
    try:
        _resampler(frame.sample_rate, layout).resample(_silence(frame))
    except (av.FFmpegError, ValueError):
        return False
    return True


def _averaged(frame: AudioFrame) -> AudioFrame:
    """All channels at the same weight, as mono float32."""
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    by_channel = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    mono = by_channel.astype(np.float64).mean(0, keepdims=True)
    if samples.dtype.kind != "f":
        mono = mono / 2.0 ** (8 * samples.dtype.itemsize - 1) - (samples.dtype.kind == "u")
    averaged = AudioFrame.from_ndarray(mono.astype(np.float32), format="fltp", layout="mono")
    averaged.sample_rate, averaged.pts = frame.sample_rate, frame.pts
    if frame.time_base is not None:
        averaged.time_base = frame.time_base
    return averaged


def _silence(like: AudioFrame) -> AudioFrame:
    """One silent sample of the kind of another frame."""
    silent = AudioFrame(format=like.format.name, layout=like.layout.name, samples=1)
    silent.sample_rate, silent.time_base = like.sample_rate, like.time_base
    for plane in silent.planes:
        level = 0x80 if like.format.name.startswith("u8") else 0
        plane.update(bytes([level]) * plane.buffer_size)
    return silent


def _resampled(frames: Iterable[_Placed], rate_hz: int, layout: str) -> Iterator[_Piece]:
    """Frames brought to one rate and layout, ``(channels, samples)``."""
    resampler, source, begins = None, None, None
    for start, frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        # Broadcasts change their sound on the way.
        if resampler is None or kind != source or start is not None:
            yield from _from(begins, _drained(resampler))
            resampler, source, begins = _resampler(rate_hz, layout), kind, start
        for one in _arrays(resampler.resample(frame)):
            yield begins, one
            begins = None
    yield from _from(begins, _drained(resampler))


def _from(start: int | None, pieces: Iterable[FloatArray]) -> Iterator[_Piece]:
    """Pieces that follow each other, the first from ``start`` on."""
    for one in pieces:
        yield start, one
        start = None


def _resampler(rate_hz: int, layout: str) -> AudioResampler:
    return AudioResampler("fltp", layout, rate_hz, options=_MIX_OPTIONS)


def _drained(resampler: AudioResampler | None) -> Iterator[FloatArray]:
    """What a resampler still holds at the end of its input."""
    return iter(()) if resampler is None else _arrays(resampler.resample(None))


def _arrays(frames: Iterable[AudioFrame | None]) -> Iterator[FloatArray]:
    for frame in frames:
        if frame is not None:  # a resampler without work to do answers a flush with [None]
            samples = np.nan_to_num(frame.to_ndarray()).astype(np.float32)
            yield np.clip(samples, -1.0, 1.0)
