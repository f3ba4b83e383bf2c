"""Training the experts: small networks that judge dubbings or describe speech.

Every kind has a module ``training.KIND_task`` whose ``job`` builds its task from a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from difftalker.config import StageConfig
from difftalker.core.device import pick_device
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.errors import UsageError
from difftalker.store import experts as expert
from difftalker.training.trainer import Log, Task, Trainer


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """What the training of an expert is told besides its dataset."""

    run: Path
    """Checkpoints, logs and whatever is computed once."""
    alignments: Path | None = None
    """A folder of GRID's word times (`.align`)."""
    speech: Path | None = None
    """A folder of further speech with its text (:mod:`difftalker.data.speech`)."""
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ExpertJob:
    """One expert to train."""

    task: Task
    stage: StageConfig
    config: Mapping[str, Any]
    """Configuration of the network, for config.json."""
    unseen: Callable[[], Log]
    """The trained network's figures on clips held out."""
    about: str
    """What it does, for its card."""
    corpora: str
    """What it was trained on, with licences, for its card."""
    autocast: bool = True
    """Allow bfloat16 where the processor has fast instructions for it."""


def train_expert(
    kind: str,
    dataset: Path,
    output: Path,
    *,
    run: Path | None = None,
    alignments: Path | None = None,
    speech: Path | None = None,
    validation_clips: int = 12,
    steps: int = 0,
    command: str = "difftalker.train_expert",
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
) -> Log:
    """Train the expert of a kind on a dataset made by ``prepare``, and write it to ``output``.

    A call that was stopped goes on where it was, from the folder ``run`` (by default
    ``OUTPUT-run``). ``steps`` replaces the kind's own number. Returns its figures on
    ``validation_clips`` clips that it did not learn from.

    Raises:
        UsageError: there is no such kind, or it lacks something that it learns from.
        AssetError: ``output`` holds something that is no expert.
        MediaError: there is no dataset.
        TrainingError: a loss is not finite.
    """
    if kind not in expert.KINDS:
        raise UsageError(f"no expert is called {kind!r}", wanted=" or ".join(expert.KINDS))
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
    data = load_dataset(dataset, validation_clips=validation_clips, whole_clips=True)
    torch.manual_seed(seed)
    build: Callable[[Dataset, ExpertOptions], ExpertJob] = import_module(
        f"difftalker.training.{kind}_task"
    ).job
    job = build(data, options)
    stage = replace(job.stage, steps=steps) if steps else job.stage
    trainer = Trainer(
        job.task,
        stage,
        options.run / kind,
        seed=seed,
        autocast=job.autocast,
        device=options.device,
    )
    trainer.run()
    with torch.no_grad():
        figures = job.unseen()
    facts = {
        "corpora": job.corpora,
        "command": command,
        "stage": asdict(stage),
        "minutes": trainer.seconds / 60,
        "clips_train": len(data.train),
        "clips_unseen": [clip.name for clip in data.validation],
        "unseen": figures,
        "seed": seed,
        "date": date.today().isoformat(),
    }
    expert.write(
        output,
        kind=kind,
        config=job.config,
        weights=job.task.model.state_dict(),
        facts=facts,
        card=_card(kind, job, facts),
    )
    return figures


def _card(kind: str, job: ExpertJob, facts: Mapping[str, Any]) -> str:
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in facts["unseen"].items())
    return f"""# Expert {kind}

{job.about}

- Trained on: {job.corpora}
- By: `{facts["command"]}`, seed {facts["seed"]}, on {facts["date"]}: {facts["stage"]["steps"]} \
steps, {facts["minutes"]:.0f} minutes
- Clips: {facts["clips_train"]} to learn from; held out: {", ".join(facts["clips_unseen"])}

| on the clips held out | |
|---|---|
{figures}
"""
