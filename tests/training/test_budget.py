"""Training in a given time: shares of stages, ends, previews."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from difftalker import config as configs
from difftalker.errors import UsageError
from difftalker.media.video import probe_video
from difftalker.store import avatars
from difftalker.training import budget, preview
from difftalker.training.budget import AT_THE_END, with_budget
from difftalker.training.choices import minutes_of
from helpers_training import run_at
from synthetic import swaying, write_footage, write_half_tone

LIGHT = {"training.diffusion": "false"}


def given_to(config: configs.Config) -> dict[str, float]:
    return {name: getattr(config.training, name).minutes for name in configs.STAGES}


def test_the_time_is_shared_out_among_the_stages_that_there_are(tmp_path: Path) -> None:
    config = configs.override(configs.tiny(), LIGHT)
    found = given_to(with_budget(config, 60, 10, tmp_path / "light"))
    assert sum(found.values()) == pytest.approx(60 * (1 - AT_THE_END) - 10, abs=0.01)
    assert {name for name, minutes in found.items() if minutes} == {"landmarks", "light", "live"}
    assert max(found, key=found.__getitem__) == "light"
    both = given_to(with_budget(configs.tiny(), 300, 10, tmp_path / "both"))
    assert all(both.values())


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path: Path) -> None:
    config = configs.override(configs.tiny(), LIGHT)
    first = with_budget(config, 60, 10, tmp_path)
    assert with_budget(config, 30, 25, tmp_path) == first


def test_too_little_time_is_refused(tmp_path: Path) -> None:
    config = configs.override(configs.tiny(), LIGHT)
    with pytest.raises(UsageError, match=r"10 minutes, of which 9\.5 went into preparing"):
        with_budget(config, 10, 9.5, tmp_path)


def test_light_avatars_of_the_usual_preset_take_an_hour() -> None:
    assert minutes_of(None, "tiny", LIGHT, ()) == 60
    assert minutes_of(None, "tiny", {}, ()) == 0
    assert minutes_of(None, "debug", LIGHT, ()) == 0
    assert minutes_of(None, "tiny", {**LIGHT, "training.light.steps": "5"}, ()) == 0
    assert minutes_of(None, "tiny", LIGHT, ("light",)) == 0
    assert minutes_of(7, "debug", {}, ("light",)) == 7
    with pytest.raises(UsageError, match="-1 minutes"):
        minutes_of(-1, "tiny", {}, ())


def test_a_stage_ends_when_its_time_is_over(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    changes = {"training.landmarks.minutes": "0.8", "training.landmarks.steps": "1000"}
    run = run_at(dataset, tmp_path, ("landmarks",))
    run.config = run.sources.config = configs.override(configs.debug(), changes)
    rates = []
    run.train(on_event=lambda event: rates.append(event.done))
    steps = json.loads((tmp_path / "landmarks/checkpoint/facts.json").read_text())["step"]
    assert steps == 5  # 48 s, ten a step
    assert rates == sorted(rates)
    assert rates[-1] == 48
    assert run.sources.finished("landmarks")
    run.train()  # nothing is left to do
    again = json.loads((tmp_path / "landmarks/checkpoint/facts.json").read_text())["step"]
    assert again == steps


def test_an_early_avatar_can_be_watched_and_used(
    landmarker: None,
    command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preview, "EVERY_S", 0.0)
    monkeypatch.setattr(budget, "MOST_STEPS", 8)  # which take less than their time
    sound = write_half_tone(tmp_path / "tone.wav", 1.6, 300)
    footage = write_footage(tmp_path / "me.mp4", swaying(40, 1.5), audio=sound)
    out = tmp_path / "me"
    words = ["train", footage, "-o", out, "--preset", "debug", "--consent", "drawn"]
    words += ["--quality", "light", "--start", "none", "--minutes", "60"]
    words += ["--set", "training.voices=0"]
    code, _, told = command(*words)
    assert code == 0, told
    assert "minutes more, until about" in told
    early = tmp_path / "me-run" / "preview"
    assert "is an avatar already" in told
    assert avatars.read(early).parts == ("completion", "motion", "light")
    assert avatars.read(out).parts == ("completion", "motion", "light", "live")
    assert probe_video(tmp_path / "me-run" / "preview.mp4").frames_estimate == 13
    assert avatars.read(out).facts["stages"]["light"]["steps"] == 8
