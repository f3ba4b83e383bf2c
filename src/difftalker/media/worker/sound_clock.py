"""When each piece of sound begins, on the clock of the pictures that it belongs to."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from pathlib import Path

from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream

from difftalker.media.limits import Limits
from difftalker.media.worker.clock import Beginnings, Clock
from difftalker.media.worker.pictures import recording_offsets

GAP_S = Fraction(1, 50)
"""Shortest gap or overlap that counts: containers round times, to milliseconds or worse."""
_NEIGHBOURS_S = 1
"""Largest difference between the ends of a recording's sound and picture."""


class SoundClock:
    """Places the pieces of a sound track.

    Recordings lose sound, and sound cards run fast or slow: the times that are stored, not the
    number of samples, say where a sound belongs. Where a file holds several recordings, each with a
    clock that starts again, sound keeps its place against the pictures: it is moved as they are.
    Without pictures, or where they do not tell, it follows the sound before.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._clock = Clock(Fraction(0))
        self._own_s: Fraction | None = None
        self._due_s: Fraction | None = None
        self._lasts_s = Fraction(0)
        self._begins, self._recording, self._at = Beginnings(), 0, 0

    def note(self, packet: Packet[Stream]) -> None:
        """Look at the next packet of sound or picture, before it is decoded."""
        if packet.stream.type == "video":
            self._begins.note(packet)
        else:
            self._at = packet.pos or 0

    def place(self, frame: AudioFrame) -> Fraction | None:
        """When the next frame begins, seconds; None where the one before ends."""
        starts_s, lasts_s = None, Fraction(frame.samples, max(1, frame.sample_rate))
        if frame.pts is not None and frame.time_base is not None:
            stored_s = frame.pts * frame.time_base
            moved = self._follow_pictures(stored_s)
            time_s = self._clock.tick(stored_s, self._lasts_s)
            if self._due_s is None or moved or abs(time_s - self._due_s) >= GAP_S:
                starts_s = self._due_s = time_s
        if self._own_s is None:
            self._own_s = self._clock.offset
        if self._due_s is not None:
            self._due_s += lasts_s
        self._lasts_s = lasts_s
        return starts_s

    def _follow_pictures(self, stored_s: Fraction) -> bool:
        """Take the pictures' offset where another recording begins; whether that was so."""
        rises, began = self._clock.rises(stored_s), self._begins.count
        begins = self._recording < began and self._at >= (self._begins.place or 0)
        if rises and not begins:
            return False
        number = max(began, self._recording + 1)
        if number >= len(self._offsets_s) or self._own_s is None or self._due_s is None:
            return False
        offset_s = self._own_s + self._offsets_s[number]
        # Sound may come before the pictures of its recording, near the sound before.
        if number > began and abs(stored_s + offset_s - self._due_s) > _NEIGHBOURS_S:
            return False
        self._recording = number
        self._clock.follow(offset_s)
        return True

    @cached_property
    def _offsets_s(self) -> list[Fraction]:
        return recording_offsets(self._path, self._limits)
