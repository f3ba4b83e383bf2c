"""``difftalker baseline``: what the measurements compare with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from difftalker.cli.common import COMPUTE, GUARDS, AtLeast1, Bars, Compute, Guards, List, Outcome
from difftalker.cli.marking import MARKING, Marking
from difftalker.config import DEFAULT_CRF
from difftalker.core.text import printable

app = App(
    name="baseline",
    help="Train and use small systems after other papers, to compare with on the same footage.",
)


@app.command
def train(
    name: str,
    dataset: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    minutes: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 60.0,
    steps: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    features: str = "",
    sync: Path | None = None,
    settings: Annotated[tuple[str, ...], List, Parameter(name="--set")] = (),
    validation_clips: AtLeast1 = 4,
    run: Path | None = None,
    options: Compute = COMPUTE,
) -> Outcome:
    """Train a baseline on one person's footage.

    A training that was stopped goes on from where it was with the same command.

    Args:
        name: after-wav2lip, after-makeittalk or after-daetalker.
        dataset: A dataset made by `difftalker prepare`; after-wav2lip also needs its features mel.
        output: The baseline's folder.
        minutes: How long all stages together may take; 0: until all steps are taken.
        steps: Steps of each stage; 0 for its own number.
        features: Speech features of the dataset; by default mel for after-wav2lip, else whisper.
        sync: The sync expert that after-wav2lip learns from (a folder made by
            `difftalker train-expert sync`); by default the packaged one, which also judges.
        settings: KEY=VALUE, a single value of its configuration. May be given several times.
        validation_clips: So many clips are held out.
        run: Where checkpoints and logs go; by default OUTPUT-run.
        options: Those that commands share.
    """
    from difftalker.baselines import systems
    from difftalker.cli.train import setting

    figures = systems.train(
        name,
        dataset,
        output,
        run=run,
        features=features,
        sync=sync or "",
        settings=dict(map(setting, settings)),
        validation_clips=validation_clips,
        minutes=minutes,
        steps=steps,
        command=shlex.join(["difftalker", *sys.argv[1:]]),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
    )
    text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    return Outcome(
        {"output": output, "baseline": name, "unseen": figures, "seed": options.seed},
        f"{printable(output)}: {text} on clips held out",
    )


@app.command
def dub(
    baseline: Path,
    video: Path,
    audio: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    face: str = "largest",
    crf: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=51))] = DEFAULT_CRF,
    lossless: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    marking: Marking = MARKING,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Give footage a new mouth by a baseline, with the blending of `difftalker dub`.

    Args:
        baseline: A folder made by `difftalker baseline train`.
        video: Footage of the person that it was trained on.
        audio: The new speech: any file with a sound track, a video too.
        output: The video to write (.mp4, .m4v, .mov or .mkv); its folder has to exist.
        face: Whom to drive, of several people: largest, leftmost, rightmost, center, a number, or
            a picture.
        crf: Quality of the picture, 0 to 51; lower is better and larger.
        lossless: Keep every pixel (.mkv with FFV1 and PCM).
        marking: How the video says that it is generated.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.baselines.dub import dub as make
    from difftalker.baselines.systems import load
    from difftalker.core.device import pick_device, use_threads

    use_threads(options.threads)
    loaded = load(baseline, device=pick_device(options.device))
    with Bars() as bars:
        result = make(
            loaded,
            video,
            audio,
            output,
            face=face,
            crf=crf,
            lossless=lossless,
            marks=marking.marks,
            seed=options.seed,
            progress=bars,
        )
    record = {
        "output": output,
        "baseline": loaded.system.name,
        "frames": result.frames,
        "frames_driven": result.frames_driven,
        "seconds": result.seconds,
        "seed": options.seed,
        "device": loaded.device,
    }
    return Outcome(
        record,
        f"{printable(output)}: {result.frames} frames, {result.frames_driven} with a new mouth, "
        f"{loaded.system.name}",
    )
