"""The one rule by which stored times become times that rise, of pictures and of sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Generic, TypeVar

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

    def _first(self, stored: Time) -> Time:
        if stored < self._zero:
            self.offset = self._offset_before = -stored
        return stored + self.offset

    def _risen(self, stored: Time, step: Time, last: Time) -> Time:
        self._since_jump += 1
        goes_on = 2 * (stored + self._offset_before - last) > step
        if self._since_jump < DISTURBED_TIMES and goes_on:
            self.offset, self._since_jump = self._offset_before, DISTURBED_TIMES
        elif stored + self.offset <= last:
            if self._since_jump >= DISTURBED_TIMES:
                self._offset_before = self.offset
            self.offset, self._since_jump = last + step - stored, 0
        return stored + self.offset
