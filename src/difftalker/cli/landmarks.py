"""``difftalker landmarks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from difftalker.cli.common import COMPUTE, GUARDS, Bars, Compute, Guards, List, Outcome, text_of
from difftalker.core.text import printable


def landmarks(
    video: Path,
    audio: Path,
    /,
    *,
    avatar: Annotated[str, Parameter(name=("--avatar", "-a"))],
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    preview: Path | None = None,
    face: str = "avatar",
    any_face: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    edit: Annotated[tuple[str, ...], List] = (),
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Write the landmarks that would drive the face, to look at and edit before rendering.

    It takes seconds rather than minutes: nothing is rendered. `difftalker dub --landmarks` renders
    them.

    Args:
        video: Footage of the avatar's person; any format that FFmpeg decodes.
        audio: The new speech: any file with a sound track, a video too.
        avatar: A packaged avatar's name, or a folder made by `difftalker train`.
        output: The landmarks to write (.npz or .json); the folder has to exist.
        preview: Write a video too: the landmarks drawn over the footage, with the new sound.
        face: Whom, of several people: avatar (its own person), largest, leftmost, rightmost,
            center, a number (counted as they come in, those who come together from left to right),
            or a picture of the person.
        any_face: Take a face that is not the avatar's person, too.
        edit: Change the lower face: mouth=GAIN, jaw=GAIN, smooth=SECONDS or shift=SECONDS, all
            along or with @START-STOP in seconds: mouth=1.3@1.0-2.5. May be given several times.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.core.device import use_threads
    from difftalker.dubbing.jobs import LandmarksJob

    job = LandmarksJob(
        video=str(video),
        audio=str(audio),
        avatar=avatar,
        output=str(output),
        preview=text_of(preview),
        face=face,
        any_face=any_face,
        edits=edit,
        device=options.device,
        limits=guards.limits,
    )
    use_threads(options.threads)
    with Bars() as bars:
        result = job.run(bars.event)
    track = result.track
    record = {
        "output": output,
        "preview": preview,
        "avatar": track.avatar,
        "frames": len(track),
        "frames_driven": int(track.found.sum()),
        "edits": edit,
        "seconds": result.seconds,
        "seed": options.seed,
        "device": result.device,
    }
    drawn = f"; drawn in {printable(preview)}" if preview is not None else ""
    return Outcome(
        record,
        f"{printable(output)}: landmarks of {len(track)} frames, "
        f"{record['frames_driven']} with a face{drawn}",
    )
