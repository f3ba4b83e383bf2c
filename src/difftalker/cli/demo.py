"""``difftalker demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from difftalker.cli.common import COMPUTE, Bars, Compute, Outcome
from difftalker.core.text import printable


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("out/demo.mp4"),
    options: Compute = COMPUTE,
) -> Outcome:
    """Let the packaged avatar speak: a video, and beside it a sheet with the landmarks drawn.

    Args:
        output: The video to write; its folder is made. The sheet has the same name, as .png.
        options: Those that commands share.
    """
    from difftalker.core.allocator import steady
    from difftalker.core.device import use_threads
    from difftalker.dubbing.jobs import DubJob
    from difftalker.dubbing.previews import save_sheet
    from difftalker.packaged import samples

    footage, speech, sheet = samples.footage(), samples.speech(), output.with_suffix(".png")
    output.parent.mkdir(parents=True, exist_ok=True)
    job = DubJob(
        video=str(footage),
        audio=str(speech),
        avatar=samples.AVATAR,
        output=str(output),
        seed=options.seed,
        device=options.device,
    )
    steady()
    use_threads(options.threads)
    with Bars() as bars:
        result = job.run(bars.event)
    save_sheet(result, sheet)
    record = {
        "output": result.output,
        "sheet": sheet,
        "avatar": result.avatar,
        "frames": result.frames,
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
        "seed": options.seed,
        "device": result.device,
    }
    return Outcome(
        record,
        f"{printable(output)}: {result.frames} frames; landmarks drawn in {printable(sheet)}",
    )
