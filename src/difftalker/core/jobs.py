"""Jobs: plain data that says what is to be done, and how one reports while it runs.

A job is a frozen dataclass of plain values. It goes to JSON and back, so that a command line, a
server and a batch fill in the very same thing.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from difftalker.core.codec import from_dict, to_dict
from difftalker.errors import Cancelled, UsageError


@dataclass(frozen=True, kw_only=True)
class Event:
    """How far a running job is."""

    stage: str
    """Name of the current stage, such as ``locate``, ``complete`` or ``render``."""
    done: int
    """Frames, clips or steps that are done."""
    total: int
    """Those that there are in all."""
    text: str = ""
    """A message for people, where there is one."""


OnEvent = Callable[[Event], None]
Cancel = Callable[[], bool]
"""Asked between frames or steps; True ends the job."""
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def no_event(event: Event) -> None:
    """Do nothing."""


def never() -> bool:
    """Never cancel."""
    return False


def no_progress(stage: str, done: int, total: int) -> None:
    """Do nothing."""


def reporting(on_event: OnEvent, cancel: Cancel = never) -> Progress:
    """Progress that reports events, and ends the job where ``cancel`` says so.

    Raises:
        Cancelled: from the returned function, once ``cancel`` returned True.
    """

    def progress(stage: str, done: int, total: int) -> None:
        on_event(Event(stage=stage, done=done, total=total))
        if cancel():
            raise Cancelled("cancelled", fix="the same job goes on from here when it is run again")

    return progress


@dataclass(frozen=True, kw_only=True)
class Job(abc.ABC):
    """What all jobs share; each is a subclass with a ``kind`` of its own."""

    kind: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    """Fields that name files or folders to read."""
    outputs: ClassVar[tuple[str, ...]]
    """Fields that name what is written, the main thing first."""
    suffix: ClassVar[str]
    """How the name of the main output ends where nothing else is asked for."""

    @abc.abstractmethod
    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> Any:
        """Carry it out; see :func:`difftalker.jobs.run`."""

    def to_json(self) -> dict[str, Any]:
        """The job as JSON values; ``job`` holds its kind."""
        return {"job": self.kind, **to_dict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The job of a record that ``to_json`` gave.

        Raises:
            UsageError: it is of another kind, or a key or value is unknown, missing or wrong.
        """
        values = dict(record)
        kind = values.pop("job", None)
        if kind != cls.kind:
            raise UsageError(f"job is {kind!r:.80}", wanted=repr(cls.kind))
        return from_dict(cls, values, f"the {cls.kind} job")
