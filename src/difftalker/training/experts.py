"""Training the experts: small networks that judge dubbings or describe speech.

A kind is added by adding its function to ``BUILDERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from difftalker.core.device import pick_device
from difftalker.data.dataset import Dataset, is_dataset, load_dataset, load_people
from difftalker.errors import UsageError
from difftalker.store import experts as expert
from difftalker.training import characters_task, faces_task, lips_task, sync_task
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.task import Log
from difftalker.training.trainer import Trainer

BUILDERS: dict[str, Callable[[Dataset, ExpertOptions], ExpertJob]] = {
    "sync": sync_task.job,
    "lips": lips_task.job,
    "characters": characters_task.job,
    "faces": faces_task.job,
}
"""What builds the task of each kind (:data:`difftalker.store.experts.KINDS`) from a dataset."""


def train_expert(
    kind: str,
    dataset: Path,
    output: Path,
    *,
    run: Path | None = None,
    alignments: Path | None = None,
    speech: Path | None = None,
    validation_clips: int = 12,
    held_out: str = "",
    steps: int = 0,
    minutes: float = 0.0,
    command: str = "difftalker.train_expert",
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
) -> Log:
    """Train the expert of a kind on a dataset made by ``prepare``, and write it to ``output``.

    A call that was stopped goes on where it was, from the folder ``run`` (by default
    ``OUTPUT-run``). ``steps`` replaces the kind's own number, and after
    ``minutes`` training ends, if that is not 0. Returns its figures on
    ``validation_clips`` clips that it did not learn from. ``faces`` learns from a folder with a
    dataset of each person, and the others may; of them ``held_out`` is left out, and some clips of
    each of the others.

    Raises:
        UsageError: there is no such kind, or it lacks something that it learns from.
        AssetError: ``output`` holds something that is no expert.
        MediaError: there is no dataset.
        TrainingError: a loss is not finite.
    """
    if kind not in BUILDERS:
        raise UsageError(f"no expert is called {kind!r}", wanted=" or ".join(BUILDERS))
    expert.check_replaceable(output)
    if threads:
        torch.set_num_threads(threads)
    options = ExpertOptions(
        run=run or output.with_name(f"{output.name}-run"),
        alignments=alignments,
        speech=speech,
        seed=seed,
        device=pick_device(device),
    )
    if kind == "faces" or not is_dataset(dataset):
        data = load_people(dataset, held_out=held_out)
    else:
        data = load_dataset(dataset, validation_clips=validation_clips, whole_clips=True)
    torch.manual_seed(seed)
    job = BUILDERS[kind](data, options)
    trainer = _trainer(job, options.run / kind, options, steps, minutes)
    trainer.run()
    with torch.no_grad():
        figures = job.unseen()
    facts = _facts(job, data, trainer, figures, command)
    expert.write(
        output,
        kind=kind,
        config=job.config,
        weights=(job.net or job.task.model).state_dict(),
        facts=facts,
        card=_card(kind, job, facts),
    )
    return figures


def _trainer(
    job: ExpertJob, folder: Path, options: ExpertOptions, steps: int, minutes: float
) -> Trainer:
    """The trainer of an expert, of so many ``steps`` where they are not 0."""
    return Trainer(
        job.task,
        replace(job.stage, steps=steps or job.stage.steps, minutes=minutes),
        folder,
        seed=options.seed,
        autocast=job.autocast,
        device=options.device,
    )


def _facts(
    job: ExpertJob, data: Dataset, trainer: Trainer, figures: Mapping[str, float], command: str
) -> dict[str, Any]:
    """What an expert's folder says of its training."""
    return {
        **job.facts,
        "corpora": job.corpora,
        "command": command,
        "stage": asdict(trainer.config),
        "steps": trainer.step,
        "minutes": trainer.seconds / 60,
        "clips_train": len(data.train),
        "clips_unseen": [clip.name for clip in data.validation],
        "unseen": figures,
        "seed": trainer.seed,
        "date": date.today().isoformat(),
    }


def _card(kind: str, job: ExpertJob, facts: Mapping[str, Any]) -> str:
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in facts["unseen"].items())
    return f"""# Expert {kind}

{job.about}

- Trained on: {job.corpora}
- By: `{facts["command"]}`, seed {facts["seed"]}, on {facts["date"]}: {facts["steps"]} \
steps, {facts["minutes"]:.0f} minutes
- Clips: {facts["clips_train"]} to learn from; held out: {", ".join(facts["clips_unseen"])}

| on the clips held out | |
|---|---|
{figures}
"""
