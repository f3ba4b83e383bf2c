"""The pipeline at debug size: what it is shown, what it leaves alone, and that it streams."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import config as configs
from difftalker.config import SamplingConfig
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.networks import build
from difftalker.errors import AssetError, MediaError, UsageError
from difftalker.face.crop import frame_face
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.face.lips import correct_openings
from difftalker.landmarks import completer
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.packaged import samples
from difftalker.speech.encoder import LogMelEncoder
from difftalker.speech.speech import Speech
from difftalker.store import assets
from difftalker.store.calibration import Calibration
from helpers import FPS, Floats, Image, draw_face, face_points

MODEL = configs.debug().model
SIZE = MODEL.size_px
SIDE_PX = 100.0
"""Side of the face's crop in the frames below, pixels."""
CORNER_PX = (40.0, 10.0)
FRAMES = 40
MISSING = np.r_[5:9, 16:32]
"""Frames without a face: a few, and a whole chunk."""


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """An avatar in which everything matters: no weight that is zero at the start still is."""
    torch.manual_seed(0)
    networks = build(MODEL)
    learned = [networks.completion, networks.synthesis.branch, networks.synthesis.cross]
    with torch.no_grad():
        for parameter in (p for net in learned for p in net.parameters()):
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return Avatar("cartoon", MODEL, networks)


def speaking(frames: int = FRAMES) -> Floats:
    """(frames, 68, 2), crop units."""
    opening = 0.04 + 0.04 * np.sin(np.arange(frames))
    sway = 0.02 * np.sin(np.arange(frames) / 9)
    return np.stack([face_points(o, shift=(s, 0)) for o, s in zip(opening, sway, strict=True)])


def pictures(points: Floats) -> Image:
    """The crops that belong to the points, (frames, S, S, 3)."""
    rng = np.random.default_rng(0)
    return np.stack([draw_face(one, SIZE, rng) for one in points])


def noise_like(crops: Image, seed: int = 1) -> Image:
    return np.random.default_rng(seed).integers(0, 256, crops.shape, np.uint8)


def in_box(boxes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(n, 4) -> (n, S, S, 1)."""
    top, bottom, left, right = boxes.T[:, :, None, None]
    rows, columns = np.arange(SIZE)[None, :, None], np.arange(SIZE)[None, None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return np.asarray(inside[..., None])


def track_of(points_crop: Floats, missing: NDArray[np.int64] | None = None) -> FaceTrack:
    points = (points_crop * SIDE_PX + np.array(CORNER_PX, np.float32)).astype(np.float32)
    if missing is not None:
        points[missing] = np.nan
    return FaceTrack(times_s=np.arange(len(points)) / FPS, points_px=points)


# The promise


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_the_lower_face_of_the_input_never_reaches_the_networks(
    avatar: Avatar, sampler: str
) -> None:
    points = speaking(5)
    boxes = frame_face(track_of(points), SIZE).boxes
    crops, inside = pictures(points), in_box(boxes)
    rendering = avatar.rendering(sampler=sampler, steps=3)
    made = avatar.renderer(rendering, 7).render(crops, boxes, points)
    for lower in (noise_like(crops), np.zeros_like(crops), crops[::-1]):
        filled = np.where(inside, lower, crops)
        assert not np.array_equal(filled, crops)
        assert np.array_equal(avatar.renderer(rendering, 7).render(filled, boxes, points), made)


def test_the_upper_face_and_the_landmarks_do_reach_them(avatar: Avatar) -> None:
    """So that the test above says something: this net is no constant."""
    points = speaking(3)
    boxes = frame_face(track_of(points), SIZE).boxes
    crops, inside = pictures(points), in_box(boxes)
    made = avatar.renderer(avatar.rendering()).render(crops, boxes, points)
    lower = made[np.broadcast_to(inside, made.shape)]
    assert 10 < lower.mean() < 245
    assert lower.std() > 5
    other_upper = np.where(inside, crops, noise_like(crops))
    other_points = points.copy()
    other_points[:, list(LOWER), 1] += 0.05
    for others in (
        avatar.renderer(avatar.rendering()).render(other_upper, boxes, points),
        avatar.renderer(avatar.rendering()).render(crops, boxes, other_points),
        avatar.renderer(avatar.rendering(), 1).render(crops, boxes, points),
        avatar.renderer(avatar.rendering(steps=4)).render(crops, boxes, points),
    ):
        changed = np.abs(others.astype(int) - made)[np.broadcast_to(inside, made.shape)]
        assert (changed > 0).mean() > 0.2


def test_detail_sharpens_what_is_painted_and_nothing_else(avatar: Avatar) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    boxes = np.array([[32, 64, 8, 56]] * 2, np.int32)
    points = speaking(2)
    plain = avatar.renderer(avatar.rendering()).render(crops, boxes, points)
    sharp = Avatar("cartoon", MODEL, avatar.networks, calibration=Calibration(detail=0.8))
    assert sharp.fingerprint != avatar.fingerprint
    made = sharp.renderer(sharp.rendering()).render(crops, boxes, points)
    changes = [
        np.square(cv2.Laplacian(one[:, 32:, 8:56].astype(np.float32)[0], cv2.CV_32F)).mean()
        for one in (plain, made)
    ]
    assert changes[1] > 1.3 * changes[0]
    blurred = [cv2.GaussianBlur(one[0], (0, 0), 4).astype(int) for one in (plain, made)]
    assert np.abs(blurred[0] - blurred[1])[36:60, 12:52].mean() <= 2


def test_mouths_are_drawn_wider_open_where_paintings_open_them_too_little(avatar: Avatar) -> None:
    points = speaking(3)
    boxes = frame_face(track_of(points), SIZE).boxes
    crops, added = pictures(points), (0.02,) * 8
    wider = Calibration(openings=added)
    corrected = Avatar("cartoon", MODEL, avatar.networks, calibration=wider)
    assert corrected.fingerprint != avatar.fingerprint
    made, plain, drawn = (
        one.renderer(avatar.rendering()).render(crops, boxes, given)
        for one, given in (
            (corrected, points),
            (avatar, points),
            (avatar, correct_openings(points, added)),
        )
    )
    np.testing.assert_array_equal(made, drawn)
    assert (made != plain).any()


def test_a_seed_means_the_same_face_whatever_the_chunk(avatar: Avatar) -> None:
    points = speaking(6)
    boxes = frame_face(track_of(points), SIZE).boxes
    crops = pictures(points)
    made = avatar.renderer(avatar.rendering(), 3).render(crops, boxes, points)
    assert np.array_equal(avatar.renderer(avatar.rendering(), 3).render(crops, boxes, points), made)
    some = slice(2, 4)
    alone = avatar.renderer(avatar.rendering(), 3).render(crops[some], boxes[some], points[some])
    # Sums of floats may be taken in another order in another batch.
    assert np.abs(alone.astype(int) - made[some]).max() <= 4


def test_sampling_is_the_avatars_own_but_for_what_is_given(avatar: Avatar) -> None:
    assert avatar.rendering().sampling == MODEL.sampling
    assert avatar.rendering(steps=9).sampling == SamplingConfig(sampler="dpm++", steps=9)
    assert avatar.rendering(sampler="ddim").sampling == SamplingConfig(sampler="ddim", steps=2)
    for wrong in ({"sampler": "euler"}, {"steps": 0}):
        with pytest.raises(UsageError):
            avatar.dub("x.mp4", "x.wav", **wrong)


# Speech to landmarks


def write_speech(path: Path, duration_s: float) -> Path:
    rng = np.random.default_rng(0)
    count = int(duration_s * 16000)
    loudness = np.repeat(rng.random(count // 1600 + 1), 1600)[:count]  # ten syllables a second
    samples = rng.normal(0, 0.1, count) * loudness
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).clip(-32768, 32767).astype("<i2").tobytes())
    return path


def write_video(path: Path, frames: Image, sound: Path | None = None) -> Path:
    height, width = frames.shape[1:3]
    writer = VideoWriter(
        path,
        width=width,
        height=height,
        fps=Fraction(25),
        time_base=Fraction(1, 1000),
        audio=sound,
        lossless=True,
    )
    with writer:
        for index, image in enumerate(frames):
            writer.write(image, index * 40)
    return path


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech") / "speech.wav", 3)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn face over a background, 160 x 128, lossless."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, 32, 40, 3), np.uint8)
    frames = np.stack([cv2.resize(one, (160, 128)) for one in frames]).astype(np.uint8)
    x, y = (int(v) for v in CORNER_PX)
    for frame, points in zip(frames, speaking(), strict=True):
        frame[y : y + 100, x : x + 100] = draw_face(points, 100, rng)
    return write_video(tmp_path_factory.mktemp("video") / "face.mkv", frames)


def located(
    video: Path, missing: NDArray[np.int64] | None = None, frames: int = FRAMES
) -> TrackedFootage:
    """Where the face is, as drawn: no detector is asked."""
    track = track_of(speaking(frames), missing)
    framing = frame_face(track, SIZE)
    return TrackedFootage(video=video, info=probe_video(video), track=track, framing=framing)


@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
def test_landmarks_completed_in_chunks_are_those_of_the_whole(
    avatar: Avatar, video: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    where = located(video, frames=60)
    times = where.track.times_s
    heard = Speech(speech, LogMelEncoder, window=MODEL.completion.window).windows(times).take(times)
    upper = torch.from_numpy(where.framing.points_crop[None, :, list(UPPER)])
    with torch.inference_mode():
        whole = avatar.networks.completion(upper, torch.from_numpy(heard[None])).points[0].numpy()
    monkeypatch.setattr(completer, "PIECE_FRAMES", chunk)
    counts: list[int] = []
    points = avatar.complete(where, speech, lambda stage, done, total: counts.append(done))
    np.testing.assert_allclose(points, whole, atol=1e-5)
    assert np.array_equal(points[:, list(UPPER)], where.framing.points_crop[:, list(UPPER)])
    assert counts == [*range(chunk, 60, chunk), 60]


def test_landmarks_follow_the_speech(video: Path, tmp_path: Path) -> None:
    try:
        assets.path("whisper_tiny_en")
    except AssetError as error:
        pytest.skip(f"the speech encoder's weights cannot be had: {error}")
    speech, quiet = samples.speech(), tmp_path / "quiet.wav"
    with wave.open(str(speech), "rb") as file:
        params, sound = file.getparams(), file.readframes(1 << 20)
    with wave.open(str(quiet), "wb") as file:
        file.setparams(params)
        file.writeframes(bytes(len(sound)))
    trained, where = load(samples.AVATAR), located(video)
    spoken, silent = (trained.complete(where, sound) for sound in (speech, quiet))
    assert np.abs(spoken - silent)[:, list(LOWER)].mean() > 1e-3


def test_after_the_speech_there_is_silence(avatar: Avatar, video: Path, tmp_path: Path) -> None:
    short = write_speech(tmp_path / "short.wav", 0.4)
    points = avatar.complete(located(video), short)
    assert points.shape == (FRAMES, 68, 2)
    assert np.isfinite(points).all()


def test_speech_of_zero_length_is_refused(avatar: Avatar, video: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        avatar.complete(located(video), write_speech(tmp_path / "none.wav", 0))


# Dubbing


def images_of(path: Path) -> Image:
    return np.stack([frame.image for frame in read_frames(path)])


def touched(where: TrackedFootage) -> NDArray[np.bool_]:
    """Pixels of each frame that lie in the mask box, (frames, H, W)."""
    top, bottom, left, right = where.framing.boxes.T[:, :, None, None] / SIZE
    corner = where.framing.crop.centre_px - where.framing.crop.side_px[:, None] / 2
    side = where.framing.crop.side_px[:, None, None]
    y = (np.arange(128)[None, :, None] + 0.5 - corner[:, 1, None, None]) / side
    x = (np.arange(160)[None, None, :] + 0.5 - corner[:, 0, None, None]) / side
    return np.asarray((y >= top) & (y <= bottom) & (x >= left) & (x <= right))


def test_dubbing_leaves_all_but_the_lower_face(
    avatar: Avatar, video: Path, speech: Path, tmp_path: Path
) -> None:
    where = located(video, MISSING)
    output = tmp_path / "out.mkv"
    result = avatar.dub(video, speech, located=where).save(output, lossless=True, marks=UNMARKED)
    before, after = images_of(video), images_of(output)
    assert after.shape == before.shape
    # Frames without a face pass through untouched.
    assert np.array_equal(after[MISSING], before[MISSING])
    found = np.setdiff1d(np.arange(FRAMES), MISSING)
    inside = touched(where)
    assert np.array_equal(after[~inside], before[~inside])
    assert all((after[i] != before[i])[inside[i]].mean() > 0.5 for i in found)
    assert (result.frames, result.frames_driven) == (FRAMES, FRAMES - len(MISSING))
    assert result.output == output
    assert [f.time_s for f in read_frames(output)] == [f.time_s for f in read_frames(video)]
    assert probe_video(output).has_audio


def test_dubbing_never_looks_at_the_lower_face(
    avatar: Avatar, video: Path, speech: Path, tmp_path: Path
) -> None:
    where, frames = located(video), images_of(video)
    inside = touched(where)
    noisy = frames.copy()
    # Three pixels in from the box: cutting the crop out blurs its pixels with their neighbours.
    core = np.stack([cv2.erode(one.astype(np.uint8), np.ones((7, 7))) > 0 for one in inside])
    noisy[core] = noise_like(frames)[core]
    other = write_video(tmp_path / "noisy.mkv", noisy)
    outputs = []
    for source in (video, other):
        output = tmp_path / f"out-{source.name}"
        avatar.dub(source, speech, located=where).save(output, lossless=True, marks=UNMARKED)
        outputs.append(images_of(output))
    # Within the feathered edge of the mask the footage shows through; beyond it, all is made.
    deep = np.stack([cv2.erode(one.astype(np.uint8), np.ones((39, 39))) > 0 for one in inside])
    assert deep.any()
    assert not np.array_equal(frames[deep], noisy[deep])
    assert np.array_equal(outputs[0][deep], outputs[1][deep])


def test_landmarks_that_are_given_are_drawn(
    avatar: Avatar, video: Path, speech: Path, tmp_path: Path
) -> None:
    where = located(video)
    given = where.framing.points_crop.copy()
    given[:, list(LOWER), 1] += 0.03
    outputs = []
    for name, landmarks in (("given", given), ("own", where.framing.points_crop)):
        output = tmp_path / f"{name}.mkv"
        dub = avatar.dub(video, speech, located=where, landmarks=landmarks)
        result = dub.save(output, lossless=True, marks=UNMARKED)
        assert np.array_equal(result.landmarks_crop, landmarks)
        outputs.append(images_of(output))
    assert not np.array_equal(outputs[0], outputs[1])


def test_landmarks_of_another_length_are_refused(
    avatar: Avatar, video: Path, speech: Path, tmp_path: Path
) -> None:
    dub = avatar.dub(video, speech, located=located(video), landmarks=speaking(3))
    with pytest.raises(UsageError, match=r"\(3, 68, 2\).*\(40, 68, 2\)"):
        dub.save(tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
