"""An avatar of whoever is in a video: learned once, with consent, in bounded time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from difftalker.errors import MediaError, UsageError
from difftalker.training import learned
from helpers_networks import write_untrained
from synthetic import swaying, write_footage

SECONDS = 3.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return write_footage(folder / "me.mp4", swaying(round(25 * SECONDS), 1.5))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What training was called with; it leaves an untrained avatar."""
    calls: list[dict[str, Any]] = []

    def train(footage: object, output: Path, **options: Any) -> None:
        calls.append({"footage": footage, "output": output, **options})
        output.with_name(f"{output.name}-run").mkdir(parents=True)
        write_untrained(output)

    monkeypatch.setattr(learned, "train", train)
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path / "cache"))
    return calls


def test_somebody_is_learned_once(video: Path, trained: list[dict[str, Any]]) -> None:
    folder = learned.learn(video, consent="drawn")
    assert learned.learn(video) == folder  # consent was stated
    assert learned.learn(video, consent="drawn") == folder
    [call] = trained
    assert (call["footage"], call["output"], call["consent"]) == ([video], folder, "drawn")
    assert call["quality"] == "light"
    assert call["longest_s"] == learned.LEARNED_S
    assert not folder.with_name(f"{folder.name}-run").exists()
    assert learned.learn(video, consent="drawn", minutes=1) != folder
    assert learned.learn(video, consent="drawn", face="leftmost") != folder


def test_other_footage_is_another_person(
    video: Path, trained: list[dict[str, Any]], tmp_path: Path
) -> None:
    same = tmp_path / "copy.mp4"
    same.write_bytes(video.read_bytes())
    other = write_footage(tmp_path / "me.mp4", swaying(20, 1.5))
    assert learned.learn(same, consent="drawn") == learned.learn(video, consent="drawn")
    assert learned.learn(other, consent="drawn") != learned.learn(video, consent="drawn")


def test_short_footage_is_learned_in_less_time(video: Path) -> None:
    share = SECONDS / learned.LONG_S
    most, least = learned.MOST_MINUTES, learned.LEAST_MINUTES
    wanted = least + share * (most - least)
    assert learned._minutes(video, None) == pytest.approx(wanted, abs=0.06)
    assert learned._minutes(video, 2.5) == 2.5


def test_without_time_nothing_is_trained(video: Path, trained: list[dict[str, Any]]) -> None:
    learned.learn(video, consent="drawn", minutes=0)
    settings = trained[0]["settings"]
    assert settings["training.light.steps"] == settings["training.landmarks.steps"] == "0"


def test_nobody_is_learned_without_consent(video: Path, trained: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="nothing says that the person in the footage agreed"):
        learned.learn(video, consent=" ")
    assert not trained


def test_what_is_no_video_is_not_learned(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    with pytest.raises(MediaError):
        learned.learn(tmp_path / "gone.mp4", consent="drawn")


def test_a_dub_without_an_avatar_learns_one(
    video: Path,
    trained: list[dict[str, Any]],
    command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    words = ("dub", video, video, "-o", tmp_path / "out.mp4")
    code, _, told = command(*words)
    assert code == 2
    assert "nothing says that the person in the footage agreed to be dubbed" in told
    assert len(told.strip().splitlines()) == 1
    code, _, told = command("dub", video, video, "-o", tmp_path / "out.txt", "--consent", "drawn")
    assert code != 0
    assert not trained  # an output that cannot be written is found before minutes of learning
    command(*words, "--consent", "drawn", "--learn", "0.5")
    assert trained[0]["minutes"] == 0.5
    assert trained[0]["consent"] == "drawn"
