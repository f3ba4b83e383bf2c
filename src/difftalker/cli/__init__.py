"""The command ``difftalker``. A file a command; none holds more than its options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App

import difftalker
from difftalker.cli import (
    baseline,
    batch,
    common,
    demo,
    doctor,
    dub,
    evaluate,
    landmarks,
    live,
    prepare,
    serve,
    talk,
    train,
    train_expert,
    verify,
)

app = App(
    name="difftalker",
    help="New speech for a person on video, by way of facial landmarks and latent diffusion.",
    version=lambda: difftalker.__version__,
    help_format="markdown",
)
for _command in (
    demo.demo,
    dub.dub,
    talk.talk,
    live.live,
    landmarks.landmarks,
    prepare.prepare,
    train.train,
    train_expert.train_expert,
    evaluate.evaluate,
    verify.verify,
    batch.batch,
    serve.serve,
):
    app.command(_command)
app.command(baseline.app)
app.command(doctor.doctor)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that ``words`` (by default the program's arguments) spell.

    Returns the exit code: 0 done, 1 failed, 2 wrong use, 130 stopped by the user.
    """
    return common.run(app, sys.argv[1:] if words is None else list(words))
