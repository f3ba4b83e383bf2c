"""What all commands share: options, progress, and how results and failures are printed.

Results go to standard output, as text or with ``--json`` as one object; everything else goes to
standard error. A failure is one line there, and with ``--json`` an object ``{"error": ...}`` too.
Text is shown without control characters (``core.text``), and characters that a stream cannot show
are escaped; in JSON everything stands as it is, in ASCII.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, Literal

from cyclopts import App, CycloptsError, Parameter, validators

from difftalker.core.codec import plain
from difftalker.core.jobs import Event
from difftalker.core.text import printable
from difftalker.doctor import missing_library
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.media.limits import Limits, limited

STOPPED = 130
"""Exit code after Ctrl-C, as shells give it."""
_GOES_ON = {"baseline", "batch", "demo", "dub", "talk", "prepare", "train", "train-expert"}
"""Commands that keep finished work, so that the same command goes on from there."""

_flag = Parameter(negative="", show_default=False)
_positive = Parameter(validator=validators.Number(gt=0))
_at_least_0 = validators.Number(gte=0, lt=2**63)
RendererName = Literal["auto", "diffusion", "light"]
AtLeast1 = Annotated[int, Parameter(validator=validators.Number(gte=1))]
List = Parameter(negative="", show_default=False)
"""An option that may be given several times."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    json: Annotated[
        bool, _flag, Parameter(help="Print one JSON object on standard output, nothing else.")
    ] = False
    seed: Annotated[
        int,
        Parameter(validator=_at_least_0, help="Where chance begins: same seed, same result."),
    ] = 0
    debug: Annotated[bool, _flag, Parameter(help="Show warnings, and the trace of a failure.")] = (
        False
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Compute(Common):
    """Options of every command that runs networks."""

    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Parameter(help="Where to compute; auto takes a GPU where there is one."),
    ] = "auto"
    threads: Annotated[
        int, Parameter(validator=_at_least_0, help="Threads of the CPU; 0 for all.")
    ] = 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Guards:
    """Options of every command that reads footage: what is refused as too large."""

    max_pixels: Annotated[AtLeast1, Parameter(help="Refuse pictures of more pixels.")] = (
        Limits.pixels
    )
    max_duration: Annotated[
        float, _positive, Parameter(help="Refuse picture or sound that lasts longer, seconds.")
    ] = Limits.duration_s
    max_frames: Annotated[AtLeast1, Parameter(help="Refuse videos of more frames.")] = Limits.frames
    max_decoded: Annotated[
        float,
        _positive,
        Parameter(help="Refuse videos that are larger than this once decoded, 10^9 bytes."),
    ] = Limits.decoded_gb

    @property
    def limits(self) -> Limits:
        """The same as ``media.limits`` has it."""
        return Limits(
            pixels=self.max_pixels,
            duration_s=self.max_duration,
            frames=self.max_frames,
            decoded_gb=self.max_decoded,
        )


COMMON, COMPUTE, GUARDS = Common(), Compute(), Guards()
"""All options as they are when left out."""


@dataclass(frozen=True)
class Outcome:
    """What a command found out."""

    record: Mapping[str, Any]
    """For ``--json``."""
    text: str
    """For people."""
    exit_code: int = 0


def run(app: App, words: Sequence[str]) -> int:
    """Parse and carry out one command line; returns the exit code."""
    # Read before the words are parsed: wrong use has to be reported in the same way.
    options = words[: words.index("--")] if "--" in words else words
    with _forgiving_streams(), _interrupts(options) as result:
        return _reported(app, words, result, "--debug" in options)


def _reported(app: App, words: Sequence[str], result: _Result, debug: bool) -> int:
    """Carry out a command line and report how it ended."""
    with _quiet(debug):
        try:
            outcome = _carried_out(app, words)
        except KeyboardInterrupt:
            return _tell(_stopped(words), result, STOPPED)
        except Exception as error:
            if debug:
                say(traceback.format_exc().rstrip("\n"), kept="\n")
            failure = explained(error)
            return _tell(failure, result, failure.exit_code)
    if outcome is None:
        return 0
    as_text = printable(outcome.text, kept="\n")
    result.print(json.dumps(plain(outcome.record)) if result.as_json else as_text)
    return outcome.exit_code


class _Result:
    """What goes to standard output: once, and whole."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json, self.is_begun, self.is_whole = as_json, False, False

    def print(self, text: str) -> None:
        """Print the text, and wait until it is out."""
        self.is_begun = True
        print(text, flush=True)
        self.is_whole = True


def _carried_out(app: App, words: Sequence[str]) -> Outcome | None:
    command, bound, _ = app.parse_args(list(words), print_error=False, exit_on_error=False)
    options, guards = (bound.arguments.get(name) for name in ("options", "guards"))
    # Whatever a library prints would spoil the one object.
    aside = redirect_stdout(sys.stderr) if options and options.json else nullcontext()
    with aside, limited((guards or GUARDS).limits):
        outcome = command(*bound.args, **bound.kwargs)
    return outcome if isinstance(outcome, Outcome) else None


def explained(error: Exception) -> DiffTalkerError:
    """Any failure as what was found, what was wanted and what to do."""
    if isinstance(error, DiffTalkerError):
        return error
    if isinstance(error, CycloptsError):
        error.verbose = False
        command = " ".join(("difftalker", *(error.command_chain or ())))
        return UsageError(str(error).strip().rstrip("."), fix=f"see `{command} --help`")
    if isinstance(error, ImportError | OSError) and (missing := missing_library(error)):
        return missing
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return DiffTalkerError(f"{place}{error.strerror}", fix="mend that and run again")
    if isinstance(error, MemoryError):
        return DiffTalkerError("the memory is used up", fix="close other programs")
    lines = str(error).strip().splitlines() or [""]
    return DiffTalkerError(
        f"an unexpected {type(error).__name__}: {lines[0]}",
        fix="run again with --debug to see where, and report it",
    )


def _stopped(words: Sequence[str]) -> DiffTalkerError:
    if words and words[0] in _GOES_ON:
        return DiffTalkerError("stopped", fix="the same command goes on from here")
    return DiffTalkerError("stopped", fix="the same command starts again from the beginning")


@contextmanager
def _interrupts(options: Sequence[str]) -> Iterator[_Result]:
    """Let the first Ctrl-C end the command in order, and the next one end the process at once.

    Once there was one, later ones are answered so until the process has ended. One that comes while
    the result is printed is not heard, so that this is whole.
    """
    before = signal.getsignal(signal.SIGINT)
    result, pressed, spared = _Result(as_json="--json" in options), False, False

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal pressed, spared
        if result.is_begun and not (result.is_whole or spared):
            spared = True
            return
        if not (pressed or result.is_begun):
            pressed = True
            raise KeyboardInterrupt
        with suppress(OSError):
            os.write(2, f"difftalker: {_stopped(options)}\n".encode())
            if result.as_json and not result.is_begun:
                os.write(1, f"{_error(_stopped(options), STOPPED)}\n".encode())
        os._exit(STOPPED)

    is_ours = threading.current_thread() is threading.main_thread()
    is_ours = is_ours and before is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, answer)
    try:
        yield result
    finally:
        if is_ours and not pressed:
            signal.signal(signal.SIGINT, before)
        elif is_ours:
            # Python's own end restores the default handler, which would replace the exit code.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _tell(failure: DiffTalkerError, result: _Result, exit_code: int) -> int:
    say(f"difftalker: {failure}")
    if result.as_json:
        result.print(_error(failure, exit_code))
    return exit_code


def _error(failure: DiffTalkerError, exit_code: int) -> str:
    """A failure as one JSON object."""
    facts = {"kind": type(failure).__name__, "message": str(failure), "found": failure.found}
    facts |= {"wanted": failure.wanted, "fix": failure.fix}
    return json.dumps({"error": {**facts, "exit_code": exit_code}})


def say(text: str, *, kept: str = "") -> None:
    """Write a line on standard error, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(printable(text, kept=kept), file=sys.stderr)


def text_of(path: Path | None) -> str | None:
    """A path as jobs hold it."""
    return None if path is None else str(path)


@contextmanager
def _forgiving_streams() -> Iterator[None]:
    """Let our streams escape the characters that they cannot show, in place of failing."""
    streams = [each for each in (sys.stdout, sys.stderr) if isinstance(each, io.TextIOWrapper)]
    before = [each.errors for each in streams]
    for each in streams:
        each.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for each, errors in zip(streams, before, strict=True):
            each.reconfigure(errors=errors)


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Our warnings as lines on standard error; those of libraries only to whom looks for bugs."""
    ours, others = logging.getLogger("difftalker"), logging.getLogger()
    lines, nothing, level = _Lines(), logging.NullHandler(), ours.level
    ours.addHandler(lines)
    ours.setLevel(logging.DEBUG if debug else logging.WARNING)
    if not debug:
        others.addHandler(nothing)  # without any handler Python would print warnings
        for library in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
            os.environ.setdefault(library, "error")
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(level)
        ours.removeHandler(lines)
        others.removeHandler(nothing)


class _Lines(logging.Handler):
    """Log records as lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"difftalker: {self.format(record)}", kept="\n")
        Bars.drawn_early = True


class Bars:
    """Progress on standard error, a bar a stage; use it as a context manager.

    In a log rather than a terminal a bar is drawn every ten seconds at most.
    """

    drawn_early: ClassVar[bool] = False
    """Whether a line above a bar drew it before its time: tqdm forgets to clear it then."""

    def __init__(self, unit: str = "frame") -> None:
        self._unit, self._stage = unit, ""
        self._bar: Any = None
        self._pace = (0.2, 0.1) if sys.stderr.isatty() else (2.0, 10.0)

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that a stage has done so much of so much."""
        if self._bar is None or stage != self._stage:
            self._open(stage)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def event(self, event: Event) -> None:
        """Show how far a job is."""
        self(event.stage, event.done, event.total)

    def clip(self, done: int, total: int, text: str) -> None:
        """Show that a clip is done, and say so where it was left out."""
        if text.startswith("left out"):
            say(f"difftalker: {text}")
        self("prepare", done, total)

    def _open(self, stage: str) -> None:
        from tqdm import tqdm

        self._close()
        delay, interval = self._pace
        self._stage = stage
        self._bar = tqdm(
            desc=printable(stage),
            unit=self._unit,
            file=sys.stderr,
            leave=False,
            delay=delay,
            mininterval=interval,
        )

    def _close(self) -> None:
        if self._bar is not None:
            if Bars.drawn_early:
                self._bar.clear()
                Bars.drawn_early = False
            self._bar.close()
        self._bar = None
