"""``difftalker train-expert``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from difftalker.cli.common import COMPUTE, Compute, Outcome
from difftalker.core.text import printable


def train_expert(
    kind: Literal["sync", "lips", "characters", "faces"],
    dataset: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    run: Path | None = None,
    alignments: Path | None = None,
    speech: Path | None = None,
    validation_clips: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 12,
    held_out: str = "",
    steps: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    minutes: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 0.0,
    options: Compute = COMPUTE,
) -> Outcome:
    """Train one of the small networks that evaluation and speech features use.

    Args:
        kind: sync (do lips fit the sound), lips (which words do lips say), characters (which
            characters are heard) or faces (the light network where that of a new face begins).
        dataset: A dataset made by `difftalker prepare`, or a folder with one of each of several
            people, FOLDER/PERSON; faces needs the latter.
        output: The expert's folder.
        run: Where checkpoints and logs go; by default OUTPUT-run.
        alignments: A folder of GRID's word times, CLIP.align; with several people
            FOLDER/PERSON/CLIP.align.
        speech: A folder of further speech with its text, as scripts/make_training_speech.py makes;
            characters alone learn from it.
        validation_clips: So many clips are held out, and the expert is measured on them; of
            several people it is one clip in twenty of each.
        held_out: The person, of several, by the folder's name, of whom nothing is learned.
        steps: Steps of training; 0 for the kind's own number.
        minutes: Training ends after so long, if that is not 0.
        options: Those that commands share.
    """
    from difftalker.training import experts

    figures = experts.train_expert(
        kind,
        dataset,
        output,
        run=run,
        alignments=alignments,
        speech=speech,
        validation_clips=validation_clips,
        held_out=held_out,
        steps=steps,
        minutes=minutes,
        command=shlex.join(["difftalker", *sys.argv[1:]]),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
    )
    text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return Outcome(
        {"output": output, "kind": kind, "unseen": figures, "seed": options.seed},
        f"{printable(output)}: {text} on clips held out",
    )
