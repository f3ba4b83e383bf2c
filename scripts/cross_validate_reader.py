"""The lip reader on clips that it has not learned from, all of them once: what trains it best?

    python scripts/cross_validate_reader.py PEOPLE --alignments GRID/alignments [--folds 4]
        [--steps 800] [--set BALANCE=1.0] [--set LETTER_SPLICE=0.7]

Trains a reader on each part of a folder of people's datasets but one, and reads that one. Prints
the words misread, by place, by command, by person and by letter. ``--set`` replaces a constant of
``difftalker.training.lips_task``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from difftalker.data.dataset import load_people
from difftalker.experts.lip_reader import LipReader, LipReaderConfig, read
from difftalker.speech.grid import GRAMMAR, SLOTS
from difftalker.training import lips_task
from difftalker.training.lips_task import LipsTask, SpokenClip, spoken_clip
from difftalker.training.trainer import Trainer


def wrong_words(
    known: Sequence[SpokenClip], unknown: Sequence[SpokenClip], steps: int, seed: int
) -> list[list[bool]]:
    """Which words of ``unknown`` clips a reader misreads that learned from ``known`` ones."""
    torch.manual_seed(seed)
    task = LipsTask(LipReader(LipReaderConfig()), known, known[:1])
    stage = replace(lips_task.STAGE, steps=steps, validate_every=steps)
    with tempfile.TemporaryDirectory(prefix="difftalker-") as folder:
        Trainer(task, stage, Path(folder), seed=seed).run()
    task.model.eval()
    found = [[int(one.argmax()) for one in read(task.model, c.views, c.points)] for c in unknown]
    pairs = zip(found, unknown, strict=True)
    return [[a != b for a, b in zip(one, clip.chosen, strict=True)] for one, clip in pairs]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("people", type=Path, help="PEOPLE/PERSON are datasets")
    parser.add_argument("--alignments", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER")
    options = parser.parse_args()
    for name, value in (one.split("=", 1) for one in options.set):
        if not isinstance(getattr(lips_task, name, None), float):
            parser.error(f"{name} is no number of lips_task")
        setattr(lips_task, name, float(value))
    data = load_people(options.people)
    order = np.random.default_rng(options.seed).permutation(len(data.train) + len(data.validation))
    clips = [spoken_clip(clip, options.alignments) for clip in (*data.train, *data.validation)]
    rows: list[tuple[SpokenClip, list[bool]]] = []
    for fold in range(options.folds):
        part = set(order[fold :: options.folds].tolist())
        unknown = [clip for i, clip in enumerate(clips) if i in part]
        known = [clip for i, clip in enumerate(clips) if i not in part]
        wrong = wrong_words(known, unknown, options.steps, options.seed)
        rows += zip(unknown, wrong, strict=True)
        print(f"part {fold}: {np.mean(wrong):.1%} of {len(unknown)} clips", flush=True)
    wrong_all = np.array([wrong for _, wrong in rows])
    for place, name in enumerate(SLOTS):
        print(f"{name}: {wrong_all[:, place].mean():.1%}")
    letter = SLOTS.index("letter")
    for title, names, errors in (
        ("command", [GRAMMAR[0][clip.chosen[0]] for clip, _ in rows], wrong_all.mean(1)),
        ("person", [clip.person for clip, _ in rows], wrong_all.mean(1)),
        ("letter", [GRAMMAR[letter][c.chosen[letter]] for c, _ in rows], wrong_all[:, letter]),
    ):
        of = np.array(names)
        each = (
            f"{one} {errors[of == one].mean():.0%} ({(of == one).sum()})" for one in np.unique(of)
        )
        print(f"by {title}: {', '.join(each)}")
    print(f"all: {wrong_all.mean():.1%} of {wrong_all.size} words")


if __name__ == "__main__":
    main()
