"""``difftalker landmarks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from difftalker.cli.common import COMPUTE, GUARDS, Bars, Compute, Guards, List, Outcome


def landmarks(
    video: Path,
    audio: Path,
    /,
    *,
    avatar: Annotated[str, Parameter(name=("--avatar", "-a"))],
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    preview: Path | None = None,
    face: str = "largest",
    edit: Annotated[tuple[str, ...], List] = (),
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Write the landmarks that would drive the face, to look at and edit before painting.

    It takes seconds rather than minutes: nothing is painted. `difftalker dub --landmarks` paints
    them.

    Args:
        video: Footage of the avatar's person; any format that FFmpeg decodes.
        audio: The new speech: any file with a sound track, a video too.
        avatar: A packaged avatar's name, or a folder made by `difftalker train`.
        output: The landmarks to write (.npz or .json); the folder has to exist.
        preview: Write a video too: the landmarks drawn over the footage, with the new sound.
        face: Whom, of several people: largest, leftmost, rightmost, center, a number (counted as
            they come in, those who come together from left to right), or a picture of the person.
        edit: Change the lower face: mouth=GAIN, jaw=GAIN, smooth=SECONDS or shift=SECONDS, all
            along or with @START-STOP in seconds: mouth=1.3@1.0-2.5. May be given several times.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    import time

    from difftalker.core.device import pick_device, use_threads
    from difftalker.dubbing import previews as results
    from difftalker.dubbing.avatar import load
    from difftalker.face.detect.people import Choice
    from difftalker.landmarks.edits import Edit

    edits = [Edit.parse(text) for text in edit]
    Choice.parse(face)
    results.check_track_outputs(output, preview, inputs=(video, audio))
    use_threads(options.threads)
    speaker = load(avatar, device=pick_device(options.device))
    began = time.monotonic()
    with Bars() as bars:
        track = speaker.landmarks(video, audio, face=face, progress=bars).edited(edits)
        track.save(output)
        if preview is not None:
            results.save_preview(track, video, audio, preview, progress=bars)
    record = {
        "output": output,
        "preview": preview,
        "avatar": speaker.name,
        "frames": len(track),
        "frames_driven": int(track.found.sum()),
        "edits": edit,
        "seconds": time.monotonic() - began,
        "seed": options.seed,
        "device": speaker.device,
    }
    drawn = f"; drawn in {preview}" if preview is not None else ""
    return Outcome(
        record,
        f"{output}: landmarks of {len(track)} frames, {record['frames_driven']} with a face{drawn}",
    )
