"""How large media may be before it is refused: a file from a stranger must not use up the machine.

The limits in force belong to the context, as they hold for everything that a command reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields

from difftalker.errors import MediaError, UsageError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is accepted. An hour of 4K at 60 frames a second lies within all of the defaults.

    Raises:
        UsageError: a limit is not positive.
    """

    pixels: int = 36_000_000
    """Most pixels of one picture; 8192 x 4320 fits."""
    duration_s: float = 4 * 3600
    """Longest picture and longest sound, seconds."""
    frames: int = 1_000_000
    """Most frames of one video; each takes half a kilobyte of memory until the end."""
    decoded_gb: float = 8000
    """All pictures of one video decoded, 3 bytes a pixel, 10^9 bytes. They are never held at once:
    what this bounds is time."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(
                    f"the limit {field.name} is {getattr(self, field.name)}", wanted="more than 0"
                )


_in_force: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039 - it is frozen


def current() -> Limits:
    """The limits in force."""
    return _in_force.get()


@contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Put limits in force for a block."""
    token = _in_force.set(limits)
    try:
        yield
    finally:
        _in_force.reset(token)


def too_much(what: str, limit: str, option: str) -> MediaError:
    """The error for media beyond a limit."""
    return MediaError(
        what, wanted=f"at most {limit}", fix=f"raise the limit with {option} if you trust the file"
    )


def check_pixels(path: object, width: int, height: int, limits: Limits) -> None:
    """Raise MediaError where a picture is larger than it may be."""
    if width * height > limits.pixels:
        raise too_much(
            f"the frames of {path} measure {width} x {height} pixels",
            f"{limits.pixels} pixels",
            "--max-pixels",
        )


def check_duration(path: object, seconds: float, limits: Limits) -> None:
    """Raise MediaError where a medium is longer than it may be."""
    if not seconds <= limits.duration_s:
        raise too_much(
            f"{path} lasts {seconds:.10g} s or longer",
            f"{limits.duration_s:.10g} s",
            "--max-duration",
        )


def check_frames(path: object, frames: int, pixels: int, limits: Limits) -> None:
    """Raise MediaError where a video has more frames, or more to decode, than it may have."""
    if frames > limits.frames:
        raise too_much(
            f"{path} has more than {limits.frames} frames", f"{limits.frames}", "--max-frames"
        )
    if frames * pixels * 3 > limits.decoded_gb * 1e9:
        raise too_much(
            f"{path} is more than {limits.decoded_gb:.10g} GB when decoded",
            f"{limits.decoded_gb:.10g} GB",
            "--max-decoded",
        )
