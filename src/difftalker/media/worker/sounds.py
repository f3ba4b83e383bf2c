"""Reading sound, as a decoder does it.

Callers use ``media.audio``, which has this done in a process of its own.
"""

from __future__ import annotations

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
from difftalker.media.worker.clock import Clock
from difftalker.media.worker.pictures import first_picture_s
from difftalker.media.worker.protocol import Facts, Task

FloatArray = NDArray[np.float32]

_SYNC_TOLERANCE_S = Fraction(1, 1000)
_GAP_S = Fraction(1, 50)  # containers round times, to milliseconds or worse
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
    """The sound from the first picture on, ``(channels, samples)`` at a rate and in a layout."""
    samples = 0
    for part in _joined(_parts(path, limits, rate_hz, layout)):
        samples += part.shape[1]
        check_duration(path, samples / rate_hz, limits)
        yield {}, part
    if not samples:
        raise MediaError(f"the sound track of {path} holds no sound", wanted="at least one sample")


TASKS: dict[str, Task] = {"describe sound": describe, "sound": parts}


def _joined(pieces: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """The same in fewer, larger parts."""
    held: list[FloatArray] = []
    for part in pieces:
        held.append(part)
        if sum(one.shape[1] for one in held) >= _PART_SAMPLES:
            yield np.concatenate(held, axis=1)
            held = []
    if held:
        yield np.concatenate(held, axis=1)


def _parts(path: Path, limits: Limits, rate_hz: int, layout: str) -> Iterator[FloatArray]:
    with open_media(path) as container:
        decoded = decode_audio(path, container)
        for first in decoded:  # once: the rest is taken within
            early = _early_samples(path, limits, first, rate_hz)
            mixed = _mixable(chain([first], decoded), layout)
            whole = _resampled(_without_gaps(mixed), rate_hz, layout)
            yield from _shifted(whole, early, rate_hz)


def _early_samples(path: Path, limits: Limits, first: AudioFrame, rate_hz: int) -> int:
    """How far the sound starts before the picture, samples; below zero where it starts after."""
    picture_start_s = first_picture_s(path, limits)
    if picture_start_s is None or first.pts is None or first.time_base is None:
        return 0
    early_s = picture_start_s - first.pts * first.time_base
    return round(early_s * rate_hz) if abs(early_s) > _SYNC_TOLERANCE_S else 0


def _mixable(frames: Iterable[AudioFrame], layout: str) -> Iterator[AudioFrame]:
    """The same, averaged to mono where FFmpeg cannot mix as many channels as there are."""
    mixes: dict[str, bool] = {}
    for frame in frames:
        name = frame.layout.name
        if name not in mixes:
            mixes[name] = _mixes(frame, layout)
        yield frame if mixes[name] else _averaged(frame)


def _mixes(frame: AudioFrame, layout: str) -> bool:
    silent = next(_silence(frame, 1))
    try:
        _resampler(frame.sample_rate, layout).resample(silent)
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


def _without_gaps(frames: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """The same, silence in place of what is missing, and without what comes too early.

    Recordings lose sound, and sound cards run fast or slow: the times of the frames, not the number
    of samples, say where a sound belongs. Times that do not rise are those of another recording
    that follows the first, by the rule of ``Clock``.
    """
    clock, due_s, lasts_s = Clock(Fraction(0)), None, Fraction(0)
    for frame in frames:
        if frame.sample_rate > 0 and frame.pts is not None and frame.time_base is not None:
            starts_s = clock.tick(frame.pts * frame.time_base, lasts_s)
            lasts_s = Fraction(frame.samples, frame.sample_rate)
            gap_s = Fraction(0) if due_s is None else starts_s - due_s
            if gap_s <= -max(lasts_s, _GAP_S):
                continue
            if gap_s >= _GAP_S:
                yield from _silence(frame, round(gap_s * frame.sample_rate))
            if due_s is None or abs(gap_s) >= _GAP_S:
                due_s = starts_s
        if due_s is not None:
            due_s += Fraction(frame.samples, frame.sample_rate)
        yield frame


def _silence(like: AudioFrame, samples: int) -> Iterator[AudioFrame]:
    """Silent frames of the kind of another, a second at a time."""
    for start in range(0, samples, like.sample_rate):
        count = min(like.sample_rate, samples - start)
        silent = AudioFrame(format=like.format.name, layout=like.layout.name, samples=count)
        silent.sample_rate, silent.time_base = like.sample_rate, like.time_base
        for plane in silent.planes:
            level = 0x80 if like.format.name.startswith("u8") else 0
            plane.update(bytes([level]) * plane.buffer_size)
        yield silent


def _shifted(pieces: Iterator[FloatArray], early: int, rate_hz: int) -> Iterator[FloatArray]:
    """Cut ``early`` samples off the start, or precede it with ``-early`` of silence."""
    for part in pieces:
        for start in range(0, -early, rate_hz):  # a second at a time: the gap may be long
            yield np.zeros((part.shape[0], min(rate_hz, -early - start)), np.float32)
        kept = part[:, max(early, 0) :]
        early = max(early - part.shape[1], 0)
        if kept.shape[1]:
            yield kept


def _resampled(frames: Iterator[AudioFrame], rate_hz: int, layout: str) -> Iterator[FloatArray]:
    """Frames brought to one rate and layout, ``(channels, samples)``."""
    resampler, source = None, None
    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or kind != source:  # broadcasts change their sound on the way
            yield from _drained(resampler)
            resampler, source = _resampler(rate_hz, layout), kind
        yield from _arrays(resampler.resample(frame))
    yield from _drained(resampler)


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
