"""Whole faces: how a head moves and blinks, and videos for which there is no footage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker.cli import main
from difftalker.data.dataset import ClipData
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.networks import build
from difftalker.dubbing.talk import head_weight
from difftalker.errors import AvatarError, MediaError, UsageError
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.head_motion import BLINKS_HZ, LIDS, SHAPE_S, HeadMotion, eye_opening
from difftalker.marks.marking import UNMARKED
from difftalker.media.audio import SAMPLE_RATE_HZ, read_audio
from difftalker.media.video import probe_video, read_frames
from difftalker.store import avatars
from helpers import face_points, write_dataset
from synthetic import count_rendered, debug_avatar, write_tone

Floats = NDArray[np.float32]
FPS = 25.0
CLIP_FRAMES = 100
EVERY_FRAMES = 60
"""From one blink of the footage to the next."""


def moving(clips: int, *, blinks: bool = True) -> list[tuple[Floats, float]]:
    """Upper points of heads that sway, each way at its own pace, and blink every 2.4 s."""
    rng = np.random.default_rng(0)
    shut = np.zeros(CLIP_FRAMES)
    for at in range(30, CLIP_FRAMES, EVERY_FRAMES):
        shut = np.maximum(shut, 0.9 * np.exp(-(((np.arange(CLIP_FRAMES) - at) / 2.0) ** 2)))
    out = []
    for _ in range(clips):
        where = [0.01 * walk(rng, pace) for pace in (2.0, 6.0)]
        points = np.stack([face_points(shift=(x, y)) for x, y in zip(*where, strict=True)])
        if blinks:
            for upper, lower in LIDS:
                points[:, upper] += shut[:, None] * (points[:, lower] - points[:, upper])
        out.append((points[:, list(UPPER)], FPS))
    return out


def walk(rng: np.random.Generator, pace: float) -> NDArray[np.float64]:
    """White noise under (1 + t pace) exp(-t pace), of variance 1."""
    lags_s = np.arange(400) / FPS
    response = lags_s * np.exp(-pace * lags_s)
    pushed = np.convolve(rng.standard_normal(CLIP_FRAMES + 400), response)
    path: NDArray[np.float64] = pushed[400 : 400 + CLIP_FRAMES] / np.sqrt((response**2).sum())
    return path


@pytest.fixture(scope="module")
def motion() -> HeadMotion:
    fitted = HeadMotion()
    fitted.fit(moving(40))
    return fitted


@pytest.fixture(scope="module")
def ten_minutes(motion: HeadMotion) -> Floats:
    return motion.sample(15_000, FPS)


def speed(points: Floats, fps: float) -> float:
    """Speed of the middle of the face over a fifth of a second, crop units a second."""
    lag = round(0.2 * fps)
    middle = points.mean(1)
    return float(np.sqrt(((middle[lag:] - middle[:-lag]) ** 2).mean())) * fps / lag


def test_heads_move_as_far_and_as_fast_as_the_footage(ten_minutes: Floats) -> None:
    seen, made = moving(40), ten_minutes
    points = np.concatenate([one for one, _ in seen])
    assert made.shape == (15_000, len(UPPER), 2)
    np.testing.assert_allclose(made.mean((0, 1)), points.mean((0, 1)), atol=2e-3)
    np.testing.assert_allclose(made.mean(1).std(0), points.mean(1).std(0), rtol=0.2)
    speeds = [speed(one, FPS) for one, _ in seen]
    assert speed(made, FPS) == pytest.approx(np.sqrt(np.mean(np.square(speeds))), rel=0.15)


def test_ten_minutes_do_not_drift(ten_minutes: Floats) -> None:
    made = ten_minutes.mean(1)
    first, last = made[:3000], made[-3000:]
    assert np.abs(first.mean(0) - last.mean(0)).max() < 0.5 * made.std(0).max()
    np.testing.assert_allclose(first.std(0), last.std(0), rtol=0.35)


def test_eyes_shut_and_open_again(ten_minutes: Floats) -> None:
    opening = eye_opening(ten_minutes)
    usual = np.median(opening)
    shut = opening < 0.5 * usual
    blinks = int((np.diff(shut.astype(int)) > 0).sum())
    assert opening.min() < 0.2 * usual
    assert usual == pytest.approx(eye_opening(moving(1)[0][0])[0], rel=0.05)
    # Of a clip's two blinks both lie within.
    assert blinks == pytest.approx(600 * 2 / (CLIP_FRAMES / FPS), rel=0.2)
    assert shut.mean() < 0.12


def test_footage_without_blinks_blinks_as_people_do() -> None:
    fitted = HeadMotion()
    fitted.fit(moving(6, blinks=False))
    opening = eye_opening(fitted.sample(15_000, FPS))
    blinks = int((np.diff((opening < 0.5 * np.median(opening)).astype(int)) > 0).sum())
    assert blinks == pytest.approx(600 * BLINKS_HZ, rel=0.25)
    assert opening.min() < 0.2 * np.median(opening)


def test_a_seed_means_the_same_bytes_whatever_the_piece(motion: HeadMotion) -> None:
    whole = motion.sample(500, FPS, seed=3)
    for piece in (1, 7, 500, 10_000):
        assert np.array_equal(np.concatenate([*motion.stream(500, FPS, 3, piece=piece)]), whole)
    assert np.array_equal(motion.sample(200, FPS, seed=3), whole[:200])
    assert not np.array_equal(motion.sample(500, FPS, seed=4), whole)
    assert motion.sample(0, FPS).shape == (0, len(UPPER), 2)


@pytest.mark.parametrize("fps", [10.0, 30_000 / 1001, 50.0])
def test_other_frame_rates_show_the_same_movement(motion: HeadMotion, fps: float) -> None:
    frames = round(60 * fps)
    made, known = motion.sample(frames, fps, seed=5), motion.sample(1501, FPS, seed=5)
    times_s = np.arange(frames) / fps
    seen = np.stack([np.interp(times_s, np.arange(1501) / FPS, one) for one in known.mean(1).T], 1)
    assert np.abs(made.mean(1) - seen).max() < 0.15 * known.mean(1).std(0).max()
    assert speed(made, fps) == pytest.approx(speed(known, FPS), rel=0.05)


def test_half_precision_moves_the_same(motion: HeadMotion) -> None:
    halved = HeadMotion()
    halved.load_state_dict({k: v.half() for k, v in motion.state_dict().items()})
    assert np.abs(halved.sample(500, FPS) - motion.sample(500, FPS)).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "value"), [("blinks_hz", 1e30), ("blinks_hz", -1.0), ("refractory_s", -1e9)]
)
def test_no_number_of_a_stranger_makes_it_endless(
    motion: HeadMotion, name: str, value: float
) -> None:
    strange = HeadMotion()
    strange.load_state_dict({**motion.state_dict(), name: torch.tensor(value)})
    assert np.isfinite(strange.sample(250, FPS)).all()


def test_numbers_that_are_none_are_refused(motion: HeadMotion) -> None:
    broken = HeadMotion()
    broken.load_state_dict({**motion.state_dict(), "pace": torch.full((8,), torch.nan)})
    with pytest.raises(AvatarError, match="not finite"):
        broken.sample(5, FPS)


def test_nothing_to_fit_to_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame"):
        HeadMotion().fit([])


def test_movement_is_seen_from_a_crop_that_stands_still(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", ["a"]) / "clips" / "a"
    arrays = dict(np.load(folder / "track.npz"))
    arrays["centre_px"][:, 0] += np.arange(26)  # of 120 pixels a side
    arrays["found"][10] = False
    np.savez(folder / "track.npz", **arrays, cuts=np.array([20]))
    spans = ClipData(folder).movement()
    assert [len(points) for points, _ in spans] == [10, 9, 6]
    assert all(fps == pytest.approx(FPS) for _, fps in spans)
    for (points, _), first in zip(spans, (0, 11, 20), strict=True):
        seen = arrays["points_crop"][first : first + len(points), list(UPPER)]
        moved = np.arange(len(points)) / 120
        np.testing.assert_allclose(
            points[..., 0] - seen[..., 0], (moved - moved.mean())[:, None] + np.zeros(37), atol=1e-5
        )
        np.testing.assert_allclose(points[..., 1], seen[..., 1], atol=1e-5)


def test_a_blink_neither_starts_nor_ends_shut(motion: HeadMotion) -> None:
    shape = motion.shape.numpy()
    assert shape[0] == 0
    assert shape[-1] == 0
    assert shape.argmax() == np.abs(SHAPE_S).argmin()


# Videos


@pytest.fixture(scope="module")
def avatar(motion: HeadMotion) -> Avatar:
    """Untrained networks that heed landmarks, and know the lower face and how the head moves."""
    speaker, face = debug_avatar(), torch.from_numpy(face_points())
    lower = face[list(LOWER)] - face[list(UPPER)].mean(0)
    speaker.networks.completion.mean_lower.copy_(lower)
    speaker.networks.motion.load_state_dict(motion.state_dict())
    net = speaker.networks.synthesis
    for parameter in (*net.branch.parameters(), *net.cross.parameters()):
        parameter.add_(torch.randn(parameter.shape) * 0.1)  # those at zero matter, too
    return speaker


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone(tmp_path_factory.mktemp("speech") / "speech.wav", 1.33)


def images_of(path: Path) -> NDArray[np.uint8]:
    return np.stack([frame.image for frame in read_frames(path)])


@pytest.mark.parametrize(("fps", "frames"), [(25.0, 34), (30_000 / 1001, 40), (10.0, 14)])
def test_a_talk_is_as_long_as_its_sound(
    avatar: Avatar, speech: Path, tmp_path: Path, fps: float, frames: int
) -> None:
    done: list[tuple[str, int, int]] = []
    result = avatar.talk(speech, fps=fps).save(
        tmp_path / "out.mp4", progress=lambda *what: done.append(what)
    )
    assert (result.frames, result.output) == (frames, tmp_path / "out.mp4")
    assert result.landmarks_crop.shape == (frames, 68, 2)
    info = probe_video(result.output)
    size = avatar.config.size_px
    assert (info.width, info.height, info.has_audio) == (size, size, True)
    assert info.comment.startswith("AI-generated")
    assert float(info.fps) == pytest.approx(fps)
    times_s = [frame.time_s for frame in read_frames(result.output)]
    np.testing.assert_allclose(times_s, np.arange(frames) / fps, atol=1e-4)
    assert len(read_audio(result.output)) / SAMPLE_RATE_HZ == pytest.approx(1.33, abs=0.05)
    assert done[-1] == ("render", frames, frames)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_the_head_moves_before_a_still_background(
    avatar: Avatar, speech: Path, tmp_path: Path
) -> None:
    result = avatar.talk(speech).save(tmp_path / "out.mkv", lossless=True, marks=UNMARKED)
    images, shown = images_of(result.output), head_weight(result.landmarks_crop, 64)
    upper = result.landmarks_crop[:, list(UPPER)]
    assert np.array_equal(upper, avatar.networks.motion.sample(result.frames, 25))
    assert shown[:, 0].max() == 0
    assert shown[:40, 32].min() == 1
    assert (np.ptp(images[:, shown == 0], axis=0) == 0).all()
    assert (np.ptp(images[:, shown == 1], axis=0) > 0).mean() > 0.5
    # Far from the fade it is what the networks make of nothing but landmarks.
    whole = np.tile(np.array([0, 64, 0, 64], np.int32), (16, 1))
    nothing = np.zeros((16, 64, 64, 3), np.uint8)
    made = avatar.renderer().render(nothing, whole, result.landmarks_crop[:16])
    assert np.array_equal(images[:16, shown == 1], made[:, shown == 1])


def test_a_seed_chooses_head_and_face(avatar: Avatar, speech: Path, tmp_path: Path) -> None:
    def talked(name: str, seed: int) -> bytes:
        return avatar.talk(speech, seed=seed).save(tmp_path / name).output.read_bytes()

    assert talked("a.mp4", 1) == talked("b.mp4", 1)
    assert talked("c.mp4", 2) != talked("a.mp4", 1)


def test_a_talk_that_was_stopped_goes_on_to_the_same_bytes(
    avatar: Avatar, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = avatar.talk(speech).save(tmp_path / "whole.mp4").output.read_bytes()
    rendered = count_rendered(monkeypatch, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        avatar.talk(speech).save(tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    monkeypatch.undo()
    later = count_rendered(monkeypatch)
    assert avatar.talk(speech).save(tmp_path / "out.mp4").output.read_bytes() == whole
    assert sum(rendered) + sum(later) == 34  # the first chunk was kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


def test_speech_beside_landmarks_makes_the_talk_too(
    avatar: Avatar, speech: Path, tmp_path: Path
) -> None:
    synthesis = replace(avatar.config.synthesis, guidance="both")
    model = replace(avatar.config, synthesis=synthesis)
    torch.manual_seed(0)
    networks = build(model)
    with torch.no_grad():
        for parameter in networks.synthesis.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    both = Avatar("both", model, networks)
    result = both.talk(speech).save(tmp_path / "out.mkv", lossless=True, marks=UNMARKED)
    images, shown = images_of(result.output), head_weight(result.landmarks_crop, 64)
    times_s = np.arange(result.frames) / 25
    windows = both.windows(both.speech(speech), times_s)
    assert windows is not None
    heard, points = windows.take(times_s[:16]), result.landmarks_crop[:16]
    nothing = np.zeros((16, 64, 64, 3), np.uint8)
    whole = np.tile(np.array([0, 64, 0, 64], np.int32), (16, 1))
    made = both.renderer().render(nothing, whole, points, heard)
    silent = both.renderer().render(nothing, whole, points)
    assert np.array_equal(images[:16, shown == 1], made[:, shown == 1])
    assert not np.array_equal(made, silent)


def test_what_cannot_talk_is_refused_before_the_work(
    avatar: Avatar, speech: Path, tmp_path: Path
) -> None:
    for wrong in ({"fps": 0.0}, {"fps": 1000.0}, {"fps": float("nan")}, {"steps": 0}):
        with pytest.raises(UsageError):
            avatar.talk(speech, **wrong)
    with pytest.raises(MediaError):
        avatar.talk(tmp_path / "none.wav").save(tmp_path / "out.mp4")
    with pytest.raises(MediaError, match="holds no sound"):
        avatar.talk(write_tone(tmp_path / "empty.wav", 0)).save(tmp_path / "out.mp4")
    listener = replace(avatar.config.synthesis, guidance="audio")
    model = replace(avatar.config, synthesis=listener)
    with pytest.raises(UsageError, match="speech alone"):
        Avatar("listener", model, build(model)).talk(speech)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"]


def test_the_command_talks_or_says_why_not_in_one_line(
    avatar: Avatar, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_avatar(tmp_path / "me", avatar)
    words = ["talk", str(speech), "--avatar", str(tmp_path / "me"), "--json"]
    assert main([*words, "-o", str(tmp_path / "out.mp4"), "--fps", "10"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["frames"], record["steps"], record["avatar"]) == (14, 2, "nobody")
    assert (tmp_path / "out.mp4").is_file()
    for code, wrong in ((2, ["--fps", "0"]), (1, ["-o", str(tmp_path / "out.gif")])):
        output = [] if "-o" in wrong else ["-o", str(tmp_path / "x.mp4")]
        assert main([*words, *output, *wrong]) == code
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("difftalker: ")
    assert not (tmp_path / "x.mp4").exists()


def write_avatar(folder: Path, speaker: Avatar) -> None:
    networks = speaker.networks
    avatars.write(
        folder,
        name=speaker.name,
        config=networks.resolved(speaker.config),
        architecture=networks.architecture(),
        weights=networks.state(),
        facts={},
        card="Nobody.",
    )
