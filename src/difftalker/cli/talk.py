"""``difftalker talk``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import (
    COMPUTE,
    GUARDS,
    AtLeast1,
    Bars,
    Compute,
    Guards,
    Outcome,
    RendererName,
)
from difftalker.cli.marking import MARKING, Marking
from difftalker.config import DEFAULT_CRF, DEFAULT_FPS, MAX_FPS
from difftalker.core.text import printable


def talk(
    audio: Path,
    /,
    *,
    avatar: Annotated[str, Parameter(name=("--avatar", "-a"))],
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    fps: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=MAX_FPS))] = DEFAULT_FPS,
    renderer: RendererName = "auto",
    sampler: str | None = None,
    steps: AtLeast1 | None = None,
    keep_journal: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    crf: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=51))] = DEFAULT_CRF,
    lossless: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    marking: Marking = MARKING,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Let an avatar speak without any footage: the whole face is made, as long as the sound is.

    Its head sways and its eyes blink as in the footage that the avatar learned from; --seed chooses
    how. A run that was stopped goes on from where it was with the same command.

    Args:
        audio: The speech: any file with a sound track, a video too.
        avatar: A packaged avatar's name, or a folder made by `difftalker train`.
        output: The video to write (.mp4, .m4v, .mov or .mkv); its folder has to exist.
        fps: Frames a second.
        renderer: diffusion, or light: one pass, a fifth of the time, with coarse hair and clothes.
            auto is the diffusion, if the avatar has it.
        sampler: ddpm, ddim or dpm++; by default the avatar's own.
        steps: Steps of denoising, more is slower; by default the avatar's own.
        keep_journal: Leave the finished work beside the output.
        crf: Quality of the picture, 0 to 51; lower is better and larger.
        lossless: Keep every pixel (.mkv with FFV1 and PCM).
        marking: How the video says that it is generated.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.core.allocator import steady
    from difftalker.core.device import use_threads
    from difftalker.dubbing.jobs import TalkJob

    job = TalkJob(
        audio=str(audio),
        avatar=avatar,
        output=str(output),
        fps=fps,
        renderer=renderer,
        sampler=sampler,
        steps=steps,
        seed=options.seed,
        keep_journal=keep_journal,
        crf=crf,
        lossless=lossless,
        marks=marking.marks,
        device=options.device,
        limits=guards.limits,
    )
    steady()
    use_threads(options.threads)
    with Bars() as bars:
        result = job.run(bars.event)
    record = {
        "output": result.output,
        "avatar": result.avatar,
        "frames": result.frames,
        "fps": fps,
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
        **result.rendering.facts(),
        "seed": options.seed,
        "device": result.device,
    }
    return Outcome(
        record,
        f"{printable(output)}: {result.frames} frames, "
        f"{result.frames_per_second:.1f} frames a second",
    )
