"""``difftalker train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from difftalker.cli.common import COMPUTE, GUARDS, Bars, Compute, Guards, List, Outcome
from difftalker.errors import UsageError

if TYPE_CHECKING:
    from difftalker.training.api import Trained


def train(
    *footage: Path,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    consent: str = "",
    preset: str = "tiny",
    completion: str = "default",
    features: str = "",
    start: str = "",
    stage: Annotated[tuple[str, ...], List] = (),
    settings: Annotated[tuple[str, ...], Parameter(name="--set"), List] = (),
    face: str = "largest",
    clips: Annotated[tuple[str, ...], List] = (),
    run: Path | None = None,
    name: str = "",
    source: str = "",
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Train an avatar on footage of one person; run again it goes on where it was stopped.

    Args:
        footage: Video files, folders of them, or one dataset made by `difftalker prepare`.
        output: The avatar's folder.
        consent: Who agreed to this avatar, and how; it stands on the avatar's card.
        preset: Sizes of the networks: debug, half, tiny, base, sd15 or paper.
        completion: How speech moves the landmarks: default, or paper.
        features: Speech features that it moves them by: whisper, characters (29 posteriors, as in
            the paper), mel, or deepspeech (a model file that DIFFTALKER_DEEPSPEECH names); by
            default the preset's.
        start: An avatar, by name or folder, to begin from: its networks are trained on, with a
            third of the steps, and stages that are not chosen stay as they are in it. By default
            the packaged avatar, where it has the same networks; none begins at random.
        stage: Train this stage alone: landmarks, autoencoder, prior, synthesis or decoder. May be
            given several times; the avatar is written once all are finished.
        settings: KEY=VALUE, one setting of the preset, such as training.prior.steps=200. May be
            given several times.
        face: Whose face, of several people: largest, leftmost, rightmost, center, a number
            (counted as they come in, those who come together from left to right), or a picture.
        clips: Only this one of the videos, by its name without suffix; FILE.json:KEY for a list
            of names in a JSON file. May be given several times.
        run: Where checkpoints, logs and sample sheets go; by default OUTPUT-run.
        name: What the avatar is called; by default as its folder.
        source: Corpus and licence of the footage, for the card.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.training import api as recipe

    with Bars("clip") as bars:
        trained = recipe.train(
            footage,
            output,
            consent=consent,
            preset=preset,
            completion=completion,
            features=features,
            start=start,
            settings=dict(map(_setting, settings)),
            stages=stage,
            face=face,
            clips=clips,
            run=run,
            name=name,
            source=source,
            command=shlex.join(["difftalker", *sys.argv[1:]]),
            seed=options.seed,
            device=options.device,
            threads=options.threads,
            progress=bars.clip,
        )
    if not trained.avatar:
        text = f"{trained.run}: still to be trained: {', '.join(trained.unfinished) or 'nothing'}"
        return Outcome({**vars(trained), "held_out": None, "seed": options.seed}, text)
    figures, lines = _held_out(trained, face, options)
    text = f"{trained.avatar}: trained on {trained.clips} clips\n{lines}"
    return Outcome({**vars(trained), "held_out": figures, "seed": options.seed}, text)


def _held_out(trained: Trained, face: str, options: Compute) -> tuple[dict[str, Any] | None, str]:
    """The new avatar's report on footage held out of its training, which goes on its card."""
    from difftalker.core.device import pick_device
    from difftalker.dubbing.avatar import load
    from difftalker.evaluation import held_out
    from difftalker.face.detect.people import Choice
    from difftalker.store.avatars import extend_card

    assert trained.avatar is not None
    if not trained.held_out:
        return None, "no held-out report: no video was held out; `difftalker evaluate` makes one"
    with Bars("step") as bars:
        figures = held_out.report_held_out(
            load(trained.avatar, device=pick_device(options.device)),
            trained.held_out,
            trained.run,
            face=Choice.parse(face),
            seed=options.seed,
            progress=bars,
        )
    if "error" not in figures:
        extend_card(trained.avatar, held_out.card_section(figures))
    return figures, held_out.text(figures)


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}", wanted="KEY=VALUE, such as training.prior.steps=200")
    return key, value
