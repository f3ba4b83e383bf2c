"""Dubs, talks and landmarks as jobs: from JSON to a file, and cancelled on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difftalker.core.jobs import Event
from difftalker.dubbing.jobs import DubJob, LandmarksJob, TalkJob
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.errors import Cancelled, MediaError, UsageError
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.limits import Limits
from difftalker.media.video import probe_video
from synthetic import (
    count_rendered,
    debug_avatar,
    located,
    pictures,
    still_track,
    write_footage,
    write_tone,
)

FRAMES = 3 * CHUNK_FRAMES


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Footage and speech; the avatar is the debug one, and no detector is asked."""
    video = write_footage(tmp_path / "video.mp4", pictures(FRAMES))
    audio = write_tone(tmp_path / "audio.wav", 2.0)
    monkeypatch.setattr("difftalker.dubbing.loaded.load", lambda *_, **__: debug_avatar())
    monkeypatch.setattr(
        "difftalker.dubbing.engine.locate",
        lambda *_, **__: located(video, still_track(FRAMES)),
    )
    return str(video), str(audio)


def test_a_dub_job_from_json_writes_all_that_it_names(
    clip: tuple[str, str], tmp_path: Path
) -> None:
    job = DubJob(
        video=clip[0],
        audio=clip[1],
        avatar="nobody",
        output=str(tmp_path / "out.mp4"),
        edits=("mouth=1.2",),
        landmarks_out=str(tmp_path / "track.npz"),
        report=str(tmp_path / "report.json"),
    )
    events: list[Event] = []
    result = DubJob.from_json(json.loads(json.dumps(job.to_json()))).run(events.append)
    assert result.frames == FRAMES
    assert events[-1] == Event(stage="render", done=FRAMES, total=FRAMES)
    assert {event.stage for event in events} == {"complete", "render"}
    assert len(LandmarkTrack.load(tmp_path / "track.npz")) == FRAMES
    assert json.loads((tmp_path / "report.json").read_text())


def test_talks_and_landmarks_are_jobs_too(clip: tuple[str, str], tmp_path: Path) -> None:
    talk = TalkJob(audio=clip[1], avatar="nobody", output=str(tmp_path / "talk.mp4"), fps=20)
    assert TalkJob.from_json(talk.to_json()).run().frames == 40
    assert probe_video(tmp_path / "talk.mp4").comment.startswith("AI-generated")
    track = LandmarksJob(
        video=clip[0], audio=clip[1], avatar="nobody", output=str(tmp_path / "track.json")
    )
    assert len(LandmarksJob.from_json(track.to_json()).run().track) == FRAMES


def test_a_cancelled_dub_ends_within_a_chunk_and_goes_on_to_the_same_bytes(
    clip: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DubJob(video=clip[0], audio=clip[1], avatar="n", output=str(tmp_path / "whole.mp4"))
    whole.run()
    job = DubJob(video=clip[0], audio=clip[1], avatar="n", output=str(tmp_path / "out.mp4"))
    rendered, done = count_rendered(monkeypatch), 0

    def event(event: Event) -> None:
        nonlocal done
        done = event.done if event.stage == "render" else 0

    with pytest.raises(Cancelled, match="goes on"):
        job.run(event, lambda: done >= 2)
    assert done == 2
    # One chunk was shown, and the one after it may have been rendered meanwhile.
    assert len(rendered) <= 2
    assert not (tmp_path / "out.mp4").exists()
    job.run()
    assert sum(rendered) == FRAMES, "no chunk was rendered twice"
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_job_heeds_its_own_limits(clip: tuple[str, str], tmp_path: Path) -> None:
    job = TalkJob(
        audio=clip[1],
        avatar="n",
        output=str(tmp_path / "out.mp4"),
        limits=Limits(duration_s=1.0),
    )
    with pytest.raises(MediaError, match="max-duration"):
        job.run()
    assert not (tmp_path / "out.mp4").exists()


def test_options_that_do_not_go_together_are_refused_before_the_work(
    clip: tuple[str, str], tmp_path: Path
) -> None:
    job = DubJob(
        video=clip[0],
        audio=clip[1],
        avatar="n",
        output=str(tmp_path / "out.mp4"),
        fit="loop",
        landmarks_out=str(tmp_path / "track.npz"),
    )
    with pytest.raises(UsageError, match="--landmarks-out together with --fit loop"):
        job.run()
