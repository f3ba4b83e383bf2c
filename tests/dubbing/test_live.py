"""Live sessions at debug size: sound and pictures that belong together, and real time."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import config as configs
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.live import LiveCompleter, LiveFrame, LiveSession
from difftalker.dubbing.live_clock import Durations, LiveClock, Threads
from difftalker.dubbing.live_stage import FootageStage, Stage, TalkStage, open_stage
from difftalker.dubbing.networks import build
from difftalker.errors import AvatarError, FaceError, UsageError
from difftalker.face.compose.light import Light, LightMap
from difftalker.face.crop import frame_face
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import UPPER
from difftalker.face.lips import relative_opening, set_openings
from difftalker.landmarks.edits import Points
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.speech.live import AHEAD_S
from helpers import face_points
from helpers_track import still
from media.made import gradient

RATE_HZ = 16_000
MODEL = replace(configs.debug().model, size_px=64)
Floats = np.ndarray[tuple[int], np.dtype[np.float32]]


def noise(seconds: float, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ))).astype(
        np.float32
    )


def avatar_with(*parts: str) -> Avatar:
    torch.manual_seed(0)
    networks = build(MODEL, parts=parts)
    points = np.stack([face_points(0.03, shift=(s, 0)) for s in np.linspace(0, 0.02, 80)])
    networks.motion.fit([(upper_of(points), 25.0)])
    torch.manual_seed(1)
    with torch.no_grad():
        for net in (networks.light, networks.live):
            for parameter in net.parameters() if net else ():
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    return Avatar("live", MODEL, networks)


def upper_of(points: Points) -> Points:
    return points[:, list(UPPER)]


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return avatar_with("light", "live")


@pytest.fixture(scope="module")
def stage(avatar: Avatar) -> Stage:
    return TalkStage(avatar)


def frames_of(session: LiveSession, count: int, periods: int = 1) -> list[LiveFrame]:
    return [session.frame(periods) for _ in range(count)]


def test_frames_come_with_their_times_and_the_sound_that_goes_with_them(
    avatar: Avatar, stage: Stage
) -> None:
    session, sound = LiveSession(avatar, stage, UNMARKED), noise(0.6)
    session.push(sound)
    frames = frames_of(session, 25)
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(25) / 25)
    assert {f.image.shape for f in frames} == {(64, 64, 3)}
    heard = np.concatenate([f.sound for f in frames])
    np.testing.assert_array_equal(heard[: len(sound)], sound)
    assert not heard[len(sound) :].any()
    assert len(heard) == RATE_HZ


def test_its_pictures_are_marked_whatever_shows_them(avatar: Avatar, stage: Stage) -> None:
    session, plain = LiveSession(avatar, stage), LiveSession(avatar, stage, UNMARKED)
    changes = [
        a.image.astype(int) - b.image
        for a, b in zip(frames_of(session, 3), frames_of(plain, 3), strict=True)
    ]
    inside = np.all([(abs(one) < 9) & (one != 0) for one in changes], axis=0)
    assert inside.mean() > 0.1
    np.testing.assert_array_equal(changes[0][inside], changes[2][inside])


def test_speech_moves_the_mouth_and_silence_lets_the_head_sway(
    avatar: Avatar, stage: Stage
) -> None:
    said, silent = LiveSession(avatar, stage, UNMARKED), LiveSession(avatar, stage, UNMARKED)
    said.push(noise(2))
    spoken, quiet = frames_of(said, 30), frames_of(silent, 30)
    changed = [
        np.abs(a.image.astype(int) - b.image).max() for a, b in zip(spoken, quiet, strict=True)
    ]
    assert changed[-1] > 0
    moved = [np.abs(a.image.astype(int) - quiet[0].image).max() for a in quiet]
    assert max(moved) > 0


class Saying:
    """Stands in for a completion: its lips open as it is told, whatever is heard."""

    def __init__(self, openings: list[float]) -> None:
        self._openings = iter(openings)

    def __call__(self, upper: torch.Tensor, window: torch.Tensor) -> SimpleNamespace:
        points = face_points(0.05)[None]
        opened = set_openings(points, np.array([next(self._openings)]))
        return SimpleNamespace(points=torch.from_numpy(opened.astype(np.float32))[None])


def openings(avatar: Avatar, asked: list[float], silent: slice) -> NDArray[np.floating]:
    """How far lips open that are asked to, a frame each, with silence in some of them."""
    completer = LiveCompleter(Saying(asked), avatar)  # type: ignore[arg-type]
    quiet = {*range(len(asked))[silent]}
    made = [
        completer.complete(
            face_points()[list(UPPER)],
            np.zeros((1, 1), np.float32),
            silent=i in quiet,
            time_s=i / 25,
        )
        for i in range(len(asked))
    ]
    opening: NDArray[np.floating] = relative_opening(np.stack(made))
    return opening


def test_in_silence_lips_come_to_rest_as_closed_as_they_came(avatar: Avatar) -> None:
    opening = openings(avatar, [0.3] * 25 + [0.1] * 25 + [0.2] * 25 + [0.3] * 15, slice(25, 75))
    assert opening[24] == pytest.approx(0.3, abs=0.02)
    assert opening[30] < 0.25, "lips that are far open close at once"
    assert opening[50:75] == pytest.approx(0.1, abs=0.03)
    assert opening[-1] == pytest.approx(0.3, abs=0.02)


def test_lips_move_slowly_in_silence_and_until_speech_is_close(avatar: Avatar) -> None:
    asked = [0.05, 0.1] * 10 + [0.3] * 15
    opening = openings(avatar, asked, slice(0, 20))
    speed = np.abs(np.diff(opening)) * 25
    assert speed[: 20 + 2].max() < 0.21
    assert opening[20 + 8] == pytest.approx(0.3, abs=0.02)


def test_frames_that_are_left_out_lose_no_sound(avatar: Avatar, stage: Stage) -> None:
    sound = noise(1)
    every, second = LiveSession(avatar, stage, UNMARKED), LiveSession(avatar, stage, UNMARKED)
    for session in (every, second):
        session.push(sound)
    whole, half = frames_of(every, 24), frames_of(second, 12, periods=2)
    np.testing.assert_array_equal(
        np.concatenate([f.sound for f in half]), np.concatenate([f.sound for f in whole])
    )
    assert [f.time_s for f in half] == [f.time_s for f in whole[::2]]


def test_a_frame_that_is_shown_for_longer_waits_for_no_more_sound(
    avatar: Avatar, stage: Stage
) -> None:
    known_s = []
    for periods in (1, 2, 8):
        session = LiveSession(avatar, stage, UNMARKED)
        session.sound(periods)
        known_s.append(session.known_s)
    assert known_s == pytest.approx([AHEAD_S, AHEAD_S, 0.32])


def test_an_interruption_is_heard_with_the_next_frame(avatar: Avatar, stage: Stage) -> None:
    session = LiveSession(avatar, stage, UNMARKED)
    session.push(noise(5))
    frames_of(session, 10)
    session.clear()
    assert session.waiting_s == 0
    assert not any(f.sound.any() for f in frames_of(session, 10))
    session.push(noise(1))
    assert any(f.sound.any() for f in frames_of(session, 10))


def test_sessions_side_by_side_are_as_they_are_alone(avatar: Avatar, stage: Stage) -> None:
    alone = LiveSession(avatar, stage, UNMARKED)
    alone.push(noise(1))
    wanted = frames_of(alone, 20)
    one, other = LiveSession(avatar, stage, UNMARKED), LiveSession(avatar, stage, UNMARKED)
    one.push(noise(1))
    other.push(noise(1, 5))
    for frame in wanted:
        other.frame()
        np.testing.assert_array_equal(one.frame().image, frame.image)


def moving_footage(folder: Path, frames: int = 40) -> TrackedFootage:
    """Footage whose colours and face move, frame by frame."""
    path = folder / "moving.mkv"
    with VideoWriter(
        path, width=96, height=80, fps=25, time_base=Fraction(1, 25), lossless=True
    ) as writer:
        for i in range(frames):
            writer.write(gradient(96, 80, blue=6 * i), i)
    points_px = still(frames) * 60 + np.arange(frames)[:, None, None] * 0.2 + (10, 5)
    face = FaceTrack(times_s=np.arange(frames) / 25, points_px=points_px.astype(np.float32))
    return TrackedFootage(
        video=path, info=probe_video(path), track=face, framing=frame_face(face, 64)
    )


def test_footage_is_played_forth_and_back_with_new_mouths(avatar: Avatar, tmp_path: Path) -> None:
    footage = moving_footage(tmp_path)
    stage = FootageStage(avatar, footage, loop_s=1.2)
    session, silent = LiveSession(avatar, stage, UNMARKED), LiveSession(avatar, stage, UNMARKED)
    session.push(noise(4))
    images = [f.image for f in frames_of(session, 70)]
    assert (stage.size, images[0].shape) == ((96, 80), (80, 96, 3))
    # The corner of each picture is the footage's: 30 frames forth, back, and forth again.
    blues = [int(image[0, 0, 2]) for image in images]
    own = [int(frame.image[0, 0, 2]) for frame in read_frames(footage.video)]
    forth = [*range(30), *range(28, 0, -1)]
    assert blues == [own[(forth * 2)[i]] for i in range(70)]
    quiet = [f.image for f in frames_of(silent, 70)]
    assert any((a != b).any() for a, b in zip(images[20:], quiet[20:], strict=True))


def test_faces_are_brought_back_to_the_light_of_the_footage(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footage, means = moving_footage(tmp_path), []
    for gain in (1.0, 1.6):
        seen = LightMap(gain=(gain,) * 3, slope=(0.1, 0.2) if gain > 1 else (0.0, 0.0))
        monkeypatch.setattr(Light, "update", lambda *given, seen=seen, **options: seen)
        frames = frames_of(LiveSession(avatar, FootageStage(avatar, footage), UNMARKED), 3)
        means.append(float(np.mean([frame.image for frame in frames])))
    assert means[1] < means[0]


def test_footage_without_a_second_of_the_face_is_refused(avatar: Avatar, tmp_path: Path) -> None:
    footage = moving_footage(tmp_path)
    gone = footage.track.points_px.copy()
    gone[::12] = np.nan
    seldom = replace(footage, track=replace(footage.track, points_px=gone))
    with pytest.raises(FaceError, match="in a row"):
        FootageStage(avatar, seldom.framed(MODEL))


def test_what_an_avatar_lacks_is_named(stage: Stage) -> None:
    with pytest.raises(AvatarError, match=r"no completion for live.*--stage live"):
        LiveSession(avatar_with("light"), stage)
    with pytest.raises(AvatarError, match=r"no light renderer.*--stage light"):
        open_stage(avatar_with("live"), None)
    with pytest.raises(UsageError, match="loop"):
        open_stage(avatar_with("live"), "x.mp4", loop_s=0.1)


class Slow:
    """A clock on which a frame takes so long, and a session that is rendered on it."""

    def __init__(self, session: LiveSession, costs_s: list[float]) -> None:
        self.time_s, self._costs = 100.0, iter(costs_s)
        real = session.render

        def render(frame: Any) -> Any:
            self.time_s += next(self._costs)
            return real(frame)

        session.render = render  # type: ignore[method-assign]

    def now(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class Inline(Executor):
    """Does at once what it is given, so that time passes on the clock of the test alone."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


def driven(
    avatar: Avatar, stage: Stage, costs_s: list[float], sound: Floats
) -> tuple[Any, list[int], Floats, list[float]]:
    """Figures, periods, sound and times at which sound was given out."""
    session = LiveSession(avatar, stage, UNMARKED)
    slow = Slow(session, costs_s)
    pushed, heard, periods, given_s = [sound], [], [], []

    def hear() -> Floats:
        return pushed.pop() if pushed else np.zeros(0, np.float32)

    def play(samples: Floats) -> None:
        heard.append(samples)
        given_s.append(slow.time_s)

    clock = LiveClock(
        session,
        hear=hear,
        play=play,
        show=lambda frame, shown: periods.append(shown),
        now=slow.now,
        sleep=slow.sleep,
        threads=lambda: nullcontext(Threads(completing=Inline(), rendering=Inline())),
    )
    left = len(costs_s)

    def going() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    stats = clock.run(going)
    return stats, periods, np.concatenate(heard), given_s


def test_a_machine_that_is_fast_enough_shows_every_frame(avatar: Avatar, stage: Stage) -> None:
    sound = noise(1)
    stats, periods, heard, given_s = driven(avatar, stage, [0.02] * 50, sound)
    assert set(periods) == {1}
    assert stats.late == 0
    np.testing.assert_allclose(np.diff(given_s), 0.04, atol=1e-6)
    np.testing.assert_array_equal(heard[: len(sound)], sound)
    facts = stats.facts()
    assert facts["frames"] == 50
    assert facts["frame_p95_ms"] in (20, 21)
    assert facts["frames_left_out"] == 0
    assert 0 < facts["sound_to_frame_p95_ms"] <= 1000 * (AHEAD_S + 0.08)


def test_a_slow_machine_shows_fewer_frames_evenly_and_loses_no_sound(
    avatar: Avatar, stage: Stage
) -> None:
    stats, periods, heard, given_s = driven(avatar, stage, [0.07] * 60, noise(3))
    assert set(periods[20:]) == {2}
    assert stats.late < 10
    assert stats.facts()["frames_left_out"] > 30
    # Sound is given out before it is due: each part when its frame begins.
    due_s = 100 + (np.cumsum([0, *periods])[:-1]) / 25
    assert (np.array(given_s) - due_s)[20:].max() < 0.001
    assert len(heard) == round(sum(periods) / 25 * RATE_HZ)


@pytest.mark.parametrize(("longest_s", "late", "most"), [(0.07, 0, 0), (0.11, 0, 1), (0.13, 1, 6)])
def test_one_slow_frame_is_made_good_within_the_reserve(
    avatar: Avatar, stage: Stage, longest_s: float, late: int, most: int
) -> None:
    costs_s = [0.02] * 20 + [longest_s] + [0.02] * 20
    stats, periods, _, _ = driven(avatar, stage, costs_s, noise(1))
    assert stats.late == late
    assert len(costs_s) <= sum(periods) <= len(costs_s) + most


def test_the_full_rate_comes_back(avatar: Avatar, stage: Stage) -> None:
    _, periods, _, _ = driven(avatar, stage, [0.07] * 30 + [0.01] * 60, noise(1))
    assert periods[25] == 2
    assert set(periods[-20:]) == {1}


def test_quantiles_of_durations() -> None:
    durations = Durations()
    assert durations.quantile(0.5) == 0
    for milliseconds in range(100):
        durations.add(milliseconds / 1000 + 0.0005)
    assert durations.quantile(0.5) == pytest.approx(0.05, abs=0.0011)
    assert durations.quantile(0.95) == pytest.approx(0.095, abs=0.0011)
    assert len(durations) == 100
