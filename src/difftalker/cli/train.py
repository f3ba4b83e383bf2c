"""``difftalker train``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from difftalker.cli.common import COMPUTE, GUARDS, Bars, Compute, Guards, List, Outcome
from difftalker.config import STAGES
from difftalker.core.jobs import Event
from difftalker.core.text import printable
from difftalker.errors import UsageError

NO_REPORT = "no held-out report: no video was held out; `difftalker evaluate` makes one"


def train(
    *footage: Path,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    consent: str = "",
    preset: str = "tiny",
    completion: str = "default",
    features: str = "",
    quality: Literal["auto", "best", "light"] = "auto",
    size: Literal[256, 384, 512] | None = None,
    minutes: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    start: str = "",
    stage: Annotated[tuple[str, ...], List] = (),
    settings: Annotated[tuple[str, ...], Parameter(name="--set"), List] = (),
    face: str = "largest",
    clips: Annotated[tuple[str, ...], List] = (),
    people: Path | None = None,
    run: Path | None = None,
    name: str = "",
    source: str = "",
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome | None:
    """Train an avatar on footage of one person; run again it goes on where it was stopped.

    Several processes train together where torchrun starts them.

    Args:
        footage: Video files, folders of them, or one dataset made by `difftalker prepare`.
        output: The avatar's folder.
        consent: Who agreed to this avatar, and how; it stands on the avatar's card.
        preset: Sizes of the networks: debug, half, tiny, base, sd15 or paper.
        completion: How speech moves the landmarks: default, or paper.
        features: Speech features that it moves them by: whisper, characters (29 posteriors, as in
            the paper), mel, or deepspeech (a model file that DIFFTALKER_DEEPSPEECH names); by
            default the preset's.
        quality: best trains the diffusion and the light network, for hours; light the light
            network alone. auto is light with preset tiny, and best with the others.
        size: Side of the crops, pixels: 256, 384 or 512; by default as large as the face in the
            footage is, for the light network alone.
        minutes: How long the command may take in all; 0: until all steps are taken. By default an
            hour for the light network alone.
        start: An avatar, by name or folder, to begin from: its networks are trained on, with a
            third of the steps, and stages that are not chosen stay as they are in it. By default
            the packaged avatar, where it has the same networks; none begins at random.
        stage: Train this stage alone: landmarks, autoencoder, prior, synthesis, decoder, light or
            live. May be given several times; the avatar is written once all are finished.
        settings: KEY=VALUE, one setting of the preset, such as training.prior.steps=200. May be
            given several times.
        face: Whose face, of several people: largest, leftmost, rightmost, center, a number
            (counted as they come in, those who come together from left to right), or a picture.
        clips: Only this one of the videos, by its name without suffix; FILE.json:KEY for a list
            of names in a JSON file. May be given several times.
        people: A folder with a dataset of each of other people, FOLDER/PERSON, whose speech and
            lips are learned as well: the avatar understands more voices.
        run: Where checkpoints, logs and sample sheets go; by default OUTPUT-run.
        name: What the avatar is called; by default as its folder.
        source: Corpus and licence of the footage, for the card.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.evaluation import held_out
    from difftalker.training.jobs import TrainJob

    job = TrainJob(
        footage=tuple(map(str, footage)),
        output=str(output),
        consent=consent,
        preset=preset,
        completion=completion,
        features=features,
        quality=quality,
        size=size,
        minutes=minutes,
        start=start,
        settings=dict(map(setting, settings)),
        stages=stage,
        face=face,
        clips=clips,
        people=str(people or ""),
        run_folder=str(run or ""),
        name=name,
        source=source,
        command=shlex.join(["difftalker", *sys.argv[1:]]),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
    )
    with Bars("clip") as clip_bars, Bars("step") as bars:
        trained = job.run(training_bars(clip_bars, bars))
    if int(os.environ.get("RANK", "0")):  # the first process of several tells
        return None
    figures = trained.report
    record = {k: v for k, v in vars(trained).items() if k != "report"}
    record |= {"held_out": figures, "seed": options.seed}
    if not trained.avatar:
        stages = ", ".join(trained.unfinished) or "nothing"
        text = f"{printable(trained.run)}: still to be trained: {stages}"
        return Outcome(record, text)
    lines = held_out.text(figures) if figures else NO_REPORT
    return Outcome(
        record, f"{printable(trained.avatar)}: trained on {trained.clips} clips\n{lines}"
    )


def training_bars(clip_bars: Bars, bars: Bars) -> Callable[[Event], None]:
    """Bars of clips and of the report; a stage of training draws its own."""

    def show(event: Event) -> None:
        if event.stage == "prepare":
            clip_bars.clip(event.done, event.total, event.text)
        elif event.stage not in STAGES:
            bars(event.stage, event.done, event.total)

    return show


def setting(text: str) -> tuple[str, str]:
    """KEY=VALUE as key and value."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}", wanted="KEY=VALUE, such as training.prior.steps=200")
    return key, value
