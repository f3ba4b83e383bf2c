"""Training as a job: to JSON and back, heard of while it runs, cancelled and gone on with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from difftalker.config import STAGES
from difftalker.core.jobs import Event
from difftalker.errors import Cancelled, UsageError
from difftalker.training.artefacts import load, load_facts
from difftalker.training.checkpoint import load_checkpoint
from difftalker.training.jobs import TrainJob


def job_at(dataset: Path, folder: Path) -> TrainJob:
    return TrainJob(
        footage=(str(dataset),),
        output=str(folder / "me"),
        preset="debug",
        start="none",
        stages=("landmarks",),
        device="cpu",
    )


def test_a_job_goes_to_json_and_back(tmp_path: Path) -> None:
    job = dataclasses.replace(
        job_at(tmp_path, tmp_path), settings={"training.prior.steps": "9"}, clips=("a", "b")
    )
    record = json.loads(json.dumps(job.to_json()))
    assert TrainJob.from_json(record) == job
    for changed in ({"steps": 3}, {"seed": "3"}, {"job": "dub"}, {"footage": "a.mp4"}):
        with pytest.raises(UsageError, match=next(iter(changed))):
            TrainJob.from_json({**record, **changed})


def test_a_cancelled_job_goes_on_from_its_step_to_the_same_end(
    dataset: Path, tmp_path: Path
) -> None:
    alone: list[Event] = []
    trained = job_at(dataset, tmp_path / "alone").run(alone.append)
    assert [(e.stage, e.done, e.total) for e in alone] == [
        ("landmarks", step, 6) for step in range(1, 7)
    ]
    assert trained.unfinished == [*STAGES[1:]]

    heard: list[Event] = []
    job = job_at(dataset, tmp_path / "twice")
    with pytest.raises(Cancelled, match="landmarks was cancelled at step 3 of 6"):
        job.run(heard.append, lambda: len(heard) == 3)
    stage = tmp_path / "twice" / "me-run" / "landmarks"
    saved = load_checkpoint(stage / "checkpoint")
    assert saved is not None
    assert saved[1]["step"] == 3
    assert load_facts(stage / "artefact") is None
    again = job.run(heard.append)
    assert [event.done for event in heard] == [1, 2, 3, 4, 5, 6]
    assert again.validation == trained.validation
    ours, theirs = (
        load(tmp_path / run / "me-run" / "landmarks" / "artefact").weights["completion"]
        for run in ("twice", "alone")
    )
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
