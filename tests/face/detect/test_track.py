"""Several people, crossings, covers and gaps, in footage made of the packaged sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.data.prepare import PrepareConfig, load_manifest, prepare
from difftalker.dubbing.footage import locate
from difftalker.dubbing.previews import save_report
from difftalker.errors import AssetError, FaceError, UsageError
from difftalker.evaluation.run import evaluate
from difftalker.face.detect.cover import find_covered
from difftalker.face.detect.detector import FaceDetector
from difftalker.face.detect.people import (
    Choice,
    Person,
    choose,
    find_people,
    read_picture,
)
from difftalker.face.detect.track import FaceTrack
from difftalker.face.detect.tracklets import Detection, Tracker
from difftalker.face.spans import find_spans
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import Frame, Image, VideoWriter, read_frames
from difftalker.packaged import samples
from difftalker.store import assets
from face_scenes import FPS, Clip, Scene, away_and_back, covered, crossing, gaps, shots, together
from measure_faces import broken, measure
from synthetic import debug_avatar, face_points, write_tone

FRAMES = 40


@pytest.fixture(scope="module")
def one() -> Clip:
    """The person of the packaged sample."""
    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"no detector: {error}")
    frames = zip(read_frames(samples.footage()), range(FRAMES), strict=False)
    return Clip.of([_smaller(frame.image) for frame, _ in frames])


@pytest.fixture(scope="module")
def another(one: Clip) -> Clip:
    """Somebody else: mirrored, narrower, darker, in other colours."""
    return Clip.of([_somebody_else(image) for image in one.images])


def _smaller(image: Image) -> Image:
    return np.asarray(cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))


def _somebody_else(image: Image) -> Image:
    narrow = cv2.resize(image[:, ::-1], (image.shape[1] * 4 // 5, image.shape[0]))
    darker = 255 * (narrow / 255) ** 1.3 * (0.6, 0.8, 1.1)
    return np.ascontiguousarray(np.clip(darker, 0, 255).astype(np.uint8))


Make = Callable[[Clip, Clip], Scene]


@pytest.mark.parametrize(
    "make",
    [
        lambda one, another: gaps(one, frames=60, away=6),
        lambda one, another: shots([(one, True), (another, False), (one, True)], "cuts", 20),
        lambda one, another: crossing(one, another, frames=60),
        lambda one, another: crossing(one, another, frames=60, own_in_front=False),
        lambda one, another: away_and_back(one, another, frames=100),
        lambda one, another: covered(one, "hand", frames=60),
        lambda one, another: covered(one, "microphone", frames=60),
    ],
    ids=["gaps", "cuts", "in front", "behind", "away and back", "hand", "microphone"],
)
def test_the_right_face_is_driven_where_it_can_be(
    make: Make, one: Clip, another: Clip, tmp_path: Path
) -> None:
    scene = make(one, another)
    located = locate(scene.write(tmp_path / "scene.mp4"), 64, face=Choice.parse(scene.face))
    finding = measure(scene, located, 0)
    assert broken(scene, finding) == [], finding
    assert finding.wanted > len(scene.images) // 4


@pytest.fixture(scope="module")
def pair(one: Clip, another: Clip) -> Scene:
    """Two people side by side: on the right, larger, the one of the sample."""
    return together(another, one, frames=12)


@pytest.fixture(scope="module")
def people(pair: Scene) -> list[Person]:
    tracker = Tracker()
    with FaceDetector() as detector:
        for number, image in enumerate(pair.images):
            faces = [
                Detection(image, p) for p in detector.detect(Frame(image, number, number / FPS))
            ]
            tracker.update(number / FPS, faces, cut=False)
    times = np.arange(len(pair.images)) / FPS
    return find_people(tracker.tracklets, times, np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("face", "chosen"), [("largest", 1), ("leftmost", 0), ("rightmost", 1), ("1", 0), ("2", 1)]
)
def test_one_of_two_is_chosen(people: list[Person], face: str, chosen: int) -> None:
    assert len(people) == 2
    assert choose(people, Choice.parse(face), 640) == chosen
    assert [len(person.frames) for person in people] == [12, 12]


def test_a_dataset_is_of_the_chosen_face(pair: Scene, tmp_path: Path) -> None:
    video, dataset = pair.write(tmp_path / "pair.mp4"), tmp_path / "dataset"
    config, folder = PrepareConfig(size_px=64, features=()), dataset / "clips" / "pair"
    found_px, made = [], []
    for face in ("leftmost", "rightmost", "rightmost"):
        prepare([video], dataset, config, face=Choice.parse(face), workers=1)
        assert load_manifest(dataset).face == face
        with np.load(folder / "track.npz") as track:
            found_px.append(float(track["centre_px"][:, 0].mean()))
        made.append((folder / "frames.npy").stat().st_mtime_ns)
    assert found_px[0] < pair.images[0].shape[1] / 2 < found_px[1]
    assert made[0] != made[1] == made[2], "made anew for another face, and for no other reason"


def test_a_report_is_of_the_chosen_face(pair: Scene, tmp_path: Path) -> None:
    height, width = pair.images[0].shape[:2]
    video, tone = tmp_path / "pair.mkv", write_tone(tmp_path / "a.wav", 1)
    with VideoWriter(
        video, width=width, height=height, fps=FPS, time_base=Fraction(1, FPS), audio=tone
    ) as writer:
        for number, image in enumerate(pair.images):
            writer.write(image, number)
    for face in ("largest", "leftmost"):
        whom, folder = Choice.parse(face), tmp_path / face
        report = evaluate(debug_avatar(), [video], folder, rows=("real",), face=whom)
        assert report["settings"]["face"] == face
        measured = report["rows"]["real"]
        assert measured["found"]["mean"] == 1
        assert measured["ld_frame"]["mean"] < 1e-3, "the same face is found on the output"


def test_a_picture_goes_by_its_content(tmp_path: Path) -> None:
    same, moved, other = (tmp_path / f"{name}.png" for name in ("a", "b", "c"))
    for path, content in ((same, b"one"), (moved, b"one"), (other, b"two")):
        path.write_bytes(content)
    keys = [Choice.parse(path).key for path in (same, moved, other)]
    assert keys[0] == keys[1] != keys[2]
    assert [Choice.parse(face).key for face in ("center", 2)] == ["center", "2"]
    other.unlink()
    with pytest.raises(FaceError, match="cannot be read"):
        _ = Choice(picture=other).key


def test_the_one_in_the_middle_is_chosen(people: list[Person]) -> None:
    middle = [float(np.median(person.boxes_px[:, ::2].mean(1))) for person in people]
    assert choose(people, Choice.parse("center"), round(2 * middle[0])) == 0
    assert choose(people, Choice.parse("center"), round(2 * middle[1])) == 1


def test_a_picture_chooses_its_person(
    people: list[Person], one: Clip, another: Clip, tmp_path: Path
) -> None:
    for number, clip in ((1, one), (0, another)):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), clip.images[-1][..., ::-1])
        image = read_picture(path)
        with FaceDetector() as detector:
            (points,) = detector.detect_all(Frame(image, 0, 0.0))
        photo = Detection(image, points).look
        assert choose(people, Choice.parse(path), 640, photo) == number
    with pytest.raises(FaceError, match="looks like"):
        choose(people, Choice.parse(path), 640, photo + 1)


def test_a_face_that_is_not_there_is_reported(people: list[Person], tmp_path: Path) -> None:
    with pytest.raises(FaceError, match="2 people in the footage, and --face 3"):
        choose(people, Choice.parse(3), 640)
    for text in ("0", "-1", "nobody", str(tmp_path / "none.png"), str(tmp_path)):
        with pytest.raises(UsageError, match="--face"):
            Choice.parse(text)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(FaceError, match="cannot be read as a picture"):
        read_picture(damaged)


def test_only_the_chosen_one_changes_and_the_report_says_whom(pair: Scene, tmp_path: Path) -> None:
    video = pair.write(tmp_path / "pair.mp4")
    avatar, tone = debug_avatar(), write_tone(tmp_path / "a.wav", 1)
    changed = {}
    before = [frame.image.astype(int) for frame in read_frames(video)]
    for face in ("rightmost", "leftmost"):
        # The journal of the first is there for the second, which must not take its track.
        job = avatar.dub(video, tone, face=face)
        result = job.save(tmp_path / "out.mkv", lossless=True, keep_journal=True, marks=UNMARKED)
        after = [frame.image.astype(int) for frame in read_frames(result.output)]
        columns = np.abs(np.array(after) - before).max((0, 1, 3)) > 0
        changed[face] = np.flatnonzero(columns)
        save_report(result, tmp_path / "report.json")
        report = json.loads((tmp_path / "report.json").read_text())
        assert [person["frames"] for person in report["people"]] == [12, 12]
        assert report["face"] == {"rightmost": 2, "leftmost": 1}[face]
        assert report["frames_driven"] == 12
    assert changed["leftmost"].max() < 320 < changed["rightmost"].min()


def _speaking(frames: int, seed: int = 0) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Grids of a lower face whose mouth moves, and its points."""
    rng = np.random.default_rng(seed)
    usual = rng.integers(-20, 20, (6, 6, 3))
    lower = usual + rng.normal(0, 2, (frames, 6, 6, 3))
    lower[:, 2:4, 1:5, 0] -= rng.uniform(0, 40, (frames, 1, 1))
    return np.rint(lower).astype(np.int8), np.stack([face_points()] * frames)


def test_speech_is_no_cover_and_a_cover_is_found_with_its_borders() -> None:
    lower, points = _speaking(80)
    times, shot = np.arange(80) / 25, np.zeros(80, np.int64)
    assert not find_covered(lower, points, times, shot).any()
    lower[40:50] = np.clip(lower[40:50].astype(int) + 25, -127, 127)
    assert np.flatnonzero(find_covered(lower, points, times, shot)).tolist() == list(range(37, 53))
    few = slice(40, 50)
    assert not find_covered(lower[few], points[few], times[few], shot[few]).any(), "too few to tell"


def test_of_two_usual_looks_the_one_like_skin_is_the_face() -> None:
    lower, points = _speaking(100)
    lower[:] = np.clip(lower.astype(int) // 2, -127, 127)
    lower[30:] = np.clip(lower[30:].astype(int) - 70, -127, 127)
    found = find_covered(lower, points, np.arange(100) / 25, np.zeros(100, np.int64))
    assert not found[:26].any()
    assert found[30:].all()


def test_a_hand_that_stays_for_long_is_no_face() -> None:
    lower, points = _speaking(100)
    lower[40:80] = np.rint(np.random.default_rng(1).normal(0, 2, (40, 6, 6, 3)))
    found = find_covered(lower, points, np.arange(100) / 25, np.zeros(100, np.int64))
    assert found[40:80].all()
    assert not found[:36].any()
    assert not found[84:].any()


def test_reasons_of_a_track() -> None:
    track = FaceTrack(
        times_s=np.arange(6) / 25,
        points_px=np.stack([face_points()] * 6),
        why=np.array([0, 1, 1, 2, 0, 0], np.int8),
    )
    reasons = [span.reason for span in find_spans(track)]
    assert reasons == ["face", "covered", "other person", "face"]
