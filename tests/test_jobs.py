"""Jobs of every kind, through the public door."""

from __future__ import annotations

import json

import pytest

import difftalker
from difftalker.errors import UsageError
from difftalker.jobs import JOBS

EXAMPLES = [
    difftalker.DubJob(video="v.mp4", audio="a.wav", avatar="grid-s1", output="o.mp4", steps=3),
    difftalker.TalkJob(audio="a.wav", avatar="grid-s1", output="o.mp4"),
    difftalker.LandmarksJob(video="v.mp4", audio="a.wav", avatar="grid-s1", output="o.npz"),
    difftalker.TrainJob(footage=("v.mp4",), output="me", settings={"a.b": "1"}),
    difftalker.EvaluateJob(avatar="grid-s1", footage=("v.mp4",), report="r", rows=("real",)),
]


def test_each_kind_comes_back_from_its_record() -> None:
    assert {type(job) for job in EXAMPLES} == set(JOBS.values())
    for job in EXAMPLES:
        assert difftalker.read_job(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize("record", [{}, {"job": "dig"}, {"job": None}])
def test_an_unknown_kind_is_refused(record: dict[str, object]) -> None:
    kinds = "'dub' or 'talk' or 'landmarks' or 'train' or 'evaluate'"
    with pytest.raises(UsageError, match=f"wanted {kinds}"):
        difftalker.read_job(record)


def test_run_carries_a_job_out_and_tells_its_failure() -> None:
    job = difftalker.TalkJob(audio="nowhere.wav", avatar="no such avatar", output="o.mp4")
    with pytest.raises(difftalker.DiffTalkerError, match="no such avatar"):
        difftalker.run(job)
