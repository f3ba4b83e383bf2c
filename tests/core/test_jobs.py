"""Jobs as plain data: to JSON and strictly back; events and cancelling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from difftalker.core.jobs import Cancel, Event, Job, OnEvent, never, no_event, reporting
from difftalker.errors import Cancelled, UsageError


@dataclass(frozen=True, kw_only=True)
class Size:
    width: int = 1
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PaintJob(Job):
    kind: ClassVar[str] = "paint"
    wall: str
    colour: Literal["red", "blue"] = "red"
    coats: int | None = None
    tools: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    size: Size = field(default_factory=Size)
    wet: bool = False

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> str:
        reporting(on_event, cancel)("paint", 1, 1)
        return self.wall


FULL = PaintJob(
    wall="north",
    colour="blue",
    coats=2,
    tools=("brush", "roll"),
    settings={"a": "b"},
    size=Size(width=3, scale=2.0),
    wet=True,
)


@pytest.mark.parametrize("job", [PaintJob(wall="x"), FULL])
def test_a_job_goes_through_json_unchanged(job: PaintJob) -> None:
    assert PaintJob.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"job": "dig"}, "job is 'dig'; wanted 'paint'"),
        ({"walls": "x"}, "unknown key 'walls' in the paint job"),
        ({"colour": "green"}, "colour is 'green'; wanted 'red' or 'blue'"),
        ({"coats": "2"}, "coats is '2'"),
        ({"coats": True}, "coats is True"),
        ({"tools": "brush"}, "tools is 'brush'"),
        ({"tools": [1]}, r"tools\[0\] is 1"),
        ({"settings": {"a": 1}}, r"settings\.a is 1"),
        ({"size": {"depth": 1}}, r"unknown key 'depth' in the paint job\.size"),
        ({"size": 3}, "size is 3; wanted an object"),
        ({"wet": 1}, "wet is 1"),
    ],
)
def test_a_wrong_record_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PaintJob.from_json({**FULL.to_json(), **change})


def test_a_missing_value_is_named() -> None:
    record = FULL.to_json()
    del record["wall"]
    with pytest.raises(UsageError, match=r"incomplete.*wall"):
        PaintJob.from_json(record)


def test_progress_reports_first_and_is_cancelled_then() -> None:
    seen: list[Event] = []
    progress = reporting(seen.append, lambda: len(seen) > 1)
    progress("render", 1, 2)
    with pytest.raises(Cancelled):
        progress("render", 2, 2)
    assert seen == [Event(stage="render", done=n, total=2) for n in (1, 2)]
