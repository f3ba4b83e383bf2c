"""The one rule by which stored times become times that rise, of pictures and of sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Generic, TypeVar

from av.packet import Packet
from av.stream import Stream

Time = TypeVar("Time", int, Fraction)

DISTURBED_TIMES = 16
"""So many times after one that did not rise, the old clock may go on: the most pictures that a
codec holds back to bring them in order, whose times are then those that were mixed up."""


class Clock(Generic[Time]):
    """Gives each picture or piece of sound a time above that of the one before.

    Where a stored time does not rise, as a clock was reset, wrapped or stood still, the average
    step is taken, and the offset is kept for all that follows. Where the old clock goes on soon
    after, only some times were wrong, and there is no offset. The first time is never below zero.
    """

    def __init__(self, zero: Time) -> None:
        """``zero`` is the time zero, of the type of all times."""
        self.offset: Time = zero
        """What is added to stored times at present."""
        self.offsets: list[Time] = []
        """What is added in each recording so far: another one begins where the clock jumped."""
        self._settled = 0
        self._offset_before: Time = zero
        self._zero: Time = zero
        self._last: Time | None = None
        self._since_jump = DISTURBED_TIMES

    def tick(self, stored: Time | None, step: Time) -> Time:
        """The time of the next one; ``stored`` is its own, ``step`` how long the last one lasts."""
        if self._last is None:
            risen = self._first(self._zero if stored is None else stored)
        elif stored is None:
            risen = self._last + step
        else:
            risen = self._risen(stored, step, self._last)
        self._last = risen
        return risen

    def rises(self, stored: Time) -> bool:
        """Whether a stored time lies after the last one as it is."""
        return self._last is None or stored + self.offset > self._last

    def follow(self, offset: Time) -> None:
        """Take the offset of another clock from now on, even if the next time does not rise."""
        self.offset = self._offset_before = offset
        self._last, self._since_jump = None, DISTURBED_TIMES

    def _first(self, stored: Time) -> Time:
        if stored < self._zero and not self.offsets:
            self.offset = self._offset_before = -stored
        self.offsets.append(self.offset)
        return stored + self.offset

    def _risen(self, stored: Time, step: Time, last: Time) -> Time:
        self._since_jump += 1
        goes_on = 2 * (stored + self._offset_before - last) > step
        if self._since_jump < DISTURBED_TIMES and goes_on:
            self.offset, self._since_jump = self._offset_before, DISTURBED_TIMES
            del self.offsets[self._settled :]
        elif stored + self.offset <= last:
            if self._since_jump >= DISTURBED_TIMES:
                self._offset_before, self._settled = self.offset, len(self.offsets)
            self.offset, self._since_jump = last + step - stored, 0
            self.offsets.append(self.offset)
        return stored + self.offset


class Beginnings:
    """Counts the recordings that begin within a file, by the packets of its pictures."""

    def __init__(self) -> None:
        self.count = 0
        """How many began after the first."""
        self.place: int | None = None
        """Where in the file the last one began, bytes."""
        self._last: int | None = None

    def note(self, packet: Packet[Stream]) -> None:
        """Look at the next packet of the pictures, in the order of the file."""
        if packet.dts is None:
            return
        if self._last is not None and packet.dts < self._last:
            self.count, self.place = self.count + 1, packet.pos
        self._last = packet.dts
