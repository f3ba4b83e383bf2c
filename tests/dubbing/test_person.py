"""The avatar's own person is driven; others are refused, or driven on demand, and it is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.previews import save_report
from difftalker.errors import FaceError
from difftalker.face.detect.looks import LOOK_SIZE
from difftalker.face.detect.people import SAME_AS_AVATAR, Choice, Likeness, Person, choose
from difftalker.face.detect.tracklets import Tracklet
from difftalker.media.video import probe_video
from difftalker.store.calibration import Calibration
from synthetic import debug_avatar, located, pictures, still_track, write_footage, write_tone

FRAMES = 20


def look(*numbers: float) -> NDArray[np.float32]:
    """A look with these first numbers."""
    return np.array([*numbers, *np.zeros(LOOK_SIZE - len(numbers))], np.float32)


def person(width_px: float, *looks: NDArray[np.float32]) -> Person:
    points = np.array([[0, 0], [width_px, width_px]], np.float32)
    return Person(tracklets=[Tracklet(frames=[0], points_px=[points], exemplars=np.stack(looks))])


LIKENESS = Likeness(avatar="x", looks=np.stack([look(0), look(0, 1)]))


def test_the_distance_is_that_of_the_nearest_look_in_the_median() -> None:
    looks = (look(0.1), look(0.2, 1), look(5))
    assert LIKENESS.distance(person(9, *looks)) == pytest.approx(0.2, abs=1e-3)


def test_the_avatars_person_is_chosen_among_larger_faces() -> None:
    people = [person(300, look(0.6)), person(100, look(0.1, 1)), person(200, look(0.3))]
    assert choose(people, Choice(), 1000, likeness=LIKENESS) == 1
    assert choose(people, Choice(place="largest"), 1000, likeness=LIKENESS) == 0
    assert choose(people, Choice(number=3), 1000, likeness=LIKENESS) == 2
    strangers = [person(100, look(0.6)), person(300, look(0.7))]
    assert choose(strangers, Choice(), 1000, likeness=LIKENESS) == 1
    assert choose(strangers, Choice(), 1000) == 1


@pytest.fixture
def avatar() -> Avatar:
    one = debug_avatar()
    calibration = Calibration(looks=(tuple(look(0).tolist()),))
    return Avatar(one.name, one.config, one.networks, calibration=calibration)


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Path]:
    video = write_footage(tmp_path / "video.mp4", pictures(FRAMES))
    return video, write_tone(tmp_path / "audio.wav", 0.8)


@pytest.mark.parametrize(("unlike", "accepted"), [(SAME_AS_AVATAR, True), (0.43, False)])
def test_somebody_else_is_refused_unless_that_is_wanted(
    avatar: Avatar,
    clip: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unlike: float,
    accepted: bool,
) -> None:
    asked: list[Likeness | None] = []

    def found(*_: object, likeness: Likeness | None, **__: object) -> object:
        asked.append(likeness)
        return located(clip[0], replace(still_track(FRAMES), unlike=unlike))

    monkeypatch.setattr("difftalker.dubbing.engine.locate", found)
    output = tmp_path / "out.mp4"
    if accepted:
        avatar.dub(*clip).save(output)
        avatar.landmarks(*clip)
        assert "--any-face" not in probe_video(output).comment
    else:
        wanted = r"not show the person of the avatar nobody \(distance of looks 0.43\).*--any-face"
        with pytest.raises(FaceError, match=wanted):
            avatar.dub(*clip).save(output)
        with pytest.raises(FaceError, match=wanted):
            avatar.landmarks(*clip)
        assert not output.exists()
    result = avatar.dub(*clip, any_face=True).save(output)
    assert result.any_face
    assert "--any-face" in probe_video(output).comment
    save_report(result, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["any_face"] is True
    assert all(one is not None and one.avatar == "nobody" for one in asked)


def test_what_was_tracked_for_any_face_is_compared_all_the_same(
    avatar: Avatar, clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "difftalker.dubbing.engine.locate",
        lambda *_, **__: located(clip[0], replace(still_track(FRAMES), unlike=0.9)),
    )
    output = tmp_path / "out.mp4"
    avatar.dub(*clip, any_face=True).save(output, keep_journal=True)
    with pytest.raises(FaceError, match=r"distance of looks 0\.90"):
        avatar.dub(*clip).save(output)


def test_an_avatar_without_looks_takes_whoever_is_there() -> None:
    assert debug_avatar().likeness is None


def test_footage_without_a_frame_to_drive_is_nobodys(
    avatar: Avatar, clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upright = still_track(FRAMES)
    middle = upright.points_px.mean((0, 1))
    upside_down = replace(upright, points_px=2 * middle - upright.points_px, unlike=1.06)
    monkeypatch.setattr(
        "difftalker.dubbing.engine.locate", lambda *_, **__: located(clip[0], upside_down)
    )
    result = avatar.dub(*clip).save(tmp_path / "out.mp4")
    assert (result.frames, result.frames_driven) == (FRAMES, 0)
    assert {span.reason for span in result.spans} == {"rolled"}
