"""Sound tracks: any rate, channel count and sample format to mono float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from difftalker.media.container import MediaPath
from difftalker.media.decoder import ask

SAMPLE_RATE_HZ = 16_000
"""The rate of every sound that reaches a speech network, Hz."""

FloatArray = NDArray[np.float32]

_AAC_RATES_HZ = (
    7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000
)  # fmt: skip
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1"}
_AAC_BITS_PER_CHANNEL = 96_000  # a second; FFmpeg's own choice starves surround sound


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What the headers of a file say of its main sound track."""

    path: Path
    rate_hz: int
    """Samples a second in each channel."""
    channels: int
    duration_s: float | None
    """None where the headers do not say."""
    codec: str


def probe_audio(path: MediaPath) -> AudioInfo:
    """Read the headers of a file's main sound track.

    Raises MediaError where the file is missing, empty, no media or without sound track.
    """
    (answer,) = ask("describe sound", path)
    return AudioInfo(path=Path(path), **answer.facts)


def read_audio(path: MediaPath, *, rate_hz: int = SAMPLE_RATE_HZ) -> FloatArray:
    """The whole main sound track, ``(samples,)`` mono float32 in [-1, 1] at ``rate_hz``.

    Timing and errors as in ``stream_audio``.
    """
    return np.concatenate(list(stream_audio(path, rate_hz=rate_hz)))


def stream_audio(
    path: MediaPath, *, rate_hz: int = SAMPLE_RATE_HZ, block_s: float = 10.0
) -> Iterator[FloatArray]:
    """Stream the main sound track as blocks of ``(samples,)`` mono float32 in [-1, 1].

    Every block but the last lasts ``block_s``; memory does not grow with the file. Where the
    file has a picture too, the first sample belongs to the time of the first frame: sound that
    starts later is preceded by silence, sound that starts earlier is cut.

    Raises MediaError where the file is missing, empty, no media, or without any sound.
    """
    block_samples = max(1, round(rate_hz * block_s))
    held: list[FloatArray] = []
    held_samples = 0
    for part in _filled(sound_parts(path, rate_hz=rate_hz, layout="mono"), rate_hz):
        held.append(part[0])
        held_samples += part.shape[1]
        if held_samples >= block_samples:
            joined = np.concatenate(held)
            whole = held_samples - held_samples % block_samples
            yield from np.split(joined[:whole], whole // block_samples)
            held, held_samples = [joined[whole:].copy()], held_samples - whole
    if held_samples:
        yield np.concatenate(held)


class SoundPart(NamedTuple):
    """A part of a sound track, in its place."""

    start: int
    """The sample at which it begins."""
    samples: FloatArray
    """``(channels, samples)`` in [-1, 1]."""

    @property
    def end(self) -> int:
        """The first sample after it."""
        return self.start + int(self.samples.shape[1])


def sound_parts(path: MediaPath, *, rate_hz: int, layout: str) -> Iterator[SoundPart]:
    """Stream the main sound track in small parts of any length, in order, without overlap.

    Between parts there is no sound: however long a gap, it takes no time here. ``layout`` is
    FFmpeg's name of the wanted channels ("mono", "stereo", "5.1"). Timing and errors as in
    ``stream_audio``.
    """
    for answer in ask("sound", path, rate_hz=rate_hz, layout=layout):
        yield SoundPart(answer.facts["start"], answer.data)


def _filled(parts: Iterable[SoundPart], rate_hz: int) -> Iterator[FloatArray]:
    """Parts with silence in their gaps, a second at most at a time."""
    end = 0
    for part in parts:
        for start in range(end, part.start, rate_hz):
            count = min(rate_hz, part.start - start)
            yield np.zeros((part.samples.shape[0], count), np.float32)
        yield part.samples
        end = part.end


class SoundTrack:
    """Feeds the sound of a file into a track of the output, bit by bit."""

    def __init__(self, container: OutputContainer, source: AudioInfo, lossless: bool) -> None:
        self._rate_hz = source.rate_hz if lossless else _aac_rate_hz(source.rate_hz)
        layout = _AAC_LAYOUTS.get(source.channels, "stereo")
        codec_name = "pcm_s16le" if lossless else "aac"
        track = container.add_stream(codec_name, rate=self._rate_hz, layout=layout)
        assert isinstance(track, AudioStream)
        track.bit_rate = _AAC_BITS_PER_CHANNEL * track.channels
        self._track, self._layout = track, layout
        parts = sound_parts(source.path, rate_hz=self._rate_hz, layout=layout)
        self._parts = _filled(parts, self._rate_hz)
        self._rest: FloatArray = np.zeros((len(av.AudioLayout(layout).channels), 0), np.float32)
        self._done_samples = 0

    def packets(self, start_s: Fraction, until_s: Fraction) -> Iterator[Packet[AudioStream]]:
        """Encode from where the last call ended up to ``until_s``, or the end of the sound."""
        wanted = self.samples_until(start_s, until_s, self._rate_hz)
        while self._done_samples < wanted:
            if not self._rest.shape[1]:
                part = next(self._parts, None)
                if part is None:
                    return
                self._rest = part
            count = wanted - self._done_samples
            head, self._rest = self._rest[:, :count], self._rest[:, count:]
            yield from self._track.encode(self._frame(head, start_s))
            self._done_samples += head.shape[1]

    @staticmethod
    def samples_until(start_s: Fraction, until_s: Fraction, rate_hz: int) -> int:
        """How many samples belong to a time; exact fractions, so that errors cannot add up."""
        return round((until_s - start_s) * rate_hz)

    def _frame(self, samples: FloatArray, start_s: Fraction) -> AudioFrame:
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = round(start_s * self._rate_hz) + self._done_samples
        return frame

    def flush(self) -> list[Packet[AudioStream]]:
        """What the encoder still holds."""
        return self._track.encode(None)


def _aac_rate_hz(rate_hz: int) -> int:
    """The next higher rate that AAC knows."""
    return min((rate for rate in _AAC_RATES_HZ if rate >= rate_hz), default=_AAC_RATES_HZ[-1])
