"""``difftalker live``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import COMPUTE, GUARDS, Compute, Guards, Outcome
from difftalker.cli.marking import MARKING, Marking
from difftalker.config import DEFAULT_FPS, MAX_FPS
from difftalker.core.text import printable


def live(
    footage: Path | None = None,
    /,
    *,
    avatar: Annotated[str, Parameter(name=("--avatar", "-a"))],
    audio: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    microphone: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    output: Annotated[
        str | None, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)
    ] = None,
    seconds: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 0.0,
    face: str = "avatar",
    any_face: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    fps: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=MAX_FPS))] = DEFAULT_FPS,
    marking: Marking = MARKING,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome | None:
    """Let an avatar speak in real time, while the speech comes in, and print how late it was.

    The light renderer makes the pictures. Where they take too long, fewer are shown, evenly; no
    sound is lost. To watch: `difftalker live ... --output - | ffplay -`, or another player.

    Args:
        footage: Footage of the avatar's person, which is played forth and back; without, the
            avatar's whole head is made.
        avatar: A packaged avatar's name, or a folder made by `difftalker train`.
        audio: The speech: a file, which is heard as if it was spoken now, or - for raw samples on
            standard input, mono, 16 kHz, 16 bits, low byte first.
        microphone: Speak yourself (needs the package sounddevice).
        output: A video to write (.mp4, .m4v, .mov or .mkv), or - for Matroska on standard output;
            without, pictures are made and thrown away.
        seconds: How long; 0 is until the speech ends, or Ctrl-C with a microphone.
        face: Whom, of several people in the footage.
        any_face: Take a face that is not the avatar's person, too.
        fps: Frames a second without footage.
        marking: How the video says that it is generated.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    import logging

    from difftalker.core.allocator import steady
    from difftalker.core.device import pick_device, use_threads
    from difftalker.dubbing.avatar import load
    from difftalker.dubbing.live import LiveSession
    from difftalker.dubbing.live_run import run_live, sound_source
    from difftalker.dubbing.live_stage import open_stage
    from difftalker.errors import UsageError

    if (audio is None) == (not microphone):
        raise UsageError("no speech, or two", wanted="either --audio or --microphone")
    if output == "-" and options.json:
        raise UsageError("--output - together with --json", wanted="one thing on standard output")
    marks = marking.marks
    if output:
        marks.warn(output)
    steady()
    use_threads(options.threads)
    source = sound_source(audio)
    person = load(avatar, device=pick_device(options.device))
    stage = open_stage(person, footage, face=face, any_face=any_face, fps=fps, seed=options.seed)
    logger = logging.getLogger(__name__)

    def slower(rate: float) -> None:
        logger.warning("now %.1f frames a second, for the time that each takes", rate)

    stats = run_live(
        LiveSession(person, stage, marks),
        stage,
        source,
        output=output,
        seconds=seconds,
        slower=slower,
    )
    facts = stats.facts()
    text = (
        f"{facts['frames']} frames, {facts['frames_left_out']} left out, {facts['frames_late']}"
        f" late; the first after {facts['first_frame_ms']} ms; each took"
        f" {facts['frame_p50_ms']} ms (p95 {facts['frame_p95_ms']}); from sound to frame"
        f" {facts['sound_to_frame_p50_ms']} ms (p95 {facts['sound_to_frame_p95_ms']})"
    )
    if output == "-":
        logger.warning("%s", text)
        return None
    record = {"output": output, "avatar": person.name, **facts, "device": person.device}
    return Outcome(record, f"{printable(output)}: {text}" if output else text)
