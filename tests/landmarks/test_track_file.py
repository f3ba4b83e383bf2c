"""Landmark tracks: format, edits by hand-worked cases, damaged files, and the commands."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker import cli, config
from difftalker.core.hashing import sha256_of
from difftalker.dubbing import avatar as pipeline
from difftalker.dubbing import dub
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.networks import build
from difftalker.errors import DiffTalkerError, MediaError, TrackError, UsageError
from difftalker.face.crop import frame_face
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import BROWS, CHIN, CONTOUR, JAW, LOWER, NOSE, UPPER
from difftalker.face.lips import open_mouth
from difftalker.landmarks import track_file as track
from difftalker.landmarks import track_json
from difftalker.landmarks.edits import Edit, apply_edits, drop_jaw, shift_time, smooth_motion
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.audio import probe_audio
from difftalker.media.timeline import Fit
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.packaged import samples
from difftalker.store import avatars as avatar_files
from media.made import gradient, tone, write_sound

FRAMES = 12
FACELESS = 5
FPS = 25


def face() -> NDArray[np.float32]:
    """A face in crop units, (68, 2): symmetrical, its mouth open by 0.04."""
    points = np.zeros((68, 2))
    turn = np.linspace(np.pi, 0, 17)
    points[list(JAW)] = np.stack([0.5 + 0.3 * np.cos(turn), 0.5 + 0.35 * np.sin(turn)], 1)
    points[list(BROWS)] = np.stack([np.linspace(0.28, 0.72, 10), np.full(10, 0.3)], 1)
    points[list(NOSE[:4])] = np.stack([np.full(4, 0.5), np.linspace(0.35, 0.5, 4)], 1)
    points[list(NOSE[4:])] = np.stack([np.linspace(0.44, 0.56, 5), np.full(5, 0.54)], 1)
    for first, middle in ((36, 0.37), (42, 0.63)):
        turn = np.linspace(-np.pi, np.pi, 6, endpoint=False)
        points[first : first + 6] = np.stack([np.cos(turn), 0.4 * np.sin(turn)], 1) * 0.05
        points[first : first + 6] += (middle, 0.37)
    points[48:55] = np.stack([LIPS_X, (0.66, 0.64, 0.63, 0.63, 0.63, 0.64, 0.66)], 1)
    points[55:60] = np.stack([LIPS_X[-2:0:-1], (0.68, 0.69, 0.69, 0.69, 0.68)], 1)
    points[60:65] = np.stack([LIPS_X[1:-1], (0.66, 0.64, 0.64, 0.64, 0.66)], 1)
    points[65:68] = [(0.54, 0.68), (0.5, 0.68), (0.46, 0.68)]
    return points.astype(np.float32)


LIPS_X = (0.4, 0.43, 0.46, 0.5, 0.54, 0.57, 0.6)
FACE = face()


def times(frames: int = FRAMES) -> NDArray[np.float64]:
    return np.arange(frames) / FPS


def still(frames: int = FRAMES) -> NDArray[np.float32]:
    """The face (frames, 68, 2) without any motion."""
    return np.repeat(FACE[None], frames, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("track")


@pytest.fixture(scope="module")
def footage(folder: Path) -> Path:
    """Colours of 96 x 80 pixels: the face is where a hand-made track says."""
    with VideoWriter(
        folder / "footage.mkv", width=96, height=80, fps=FPS, time_base=Fraction(1, FPS),
        lossless=True,
    ) as writer:  # fmt: skip
        for i in range(FRAMES):
            writer.write(gradient(96, 80, blue=10 * i), i)
    return folder / "footage.mkv"


@pytest.fixture(scope="module")
def speech(folder: Path) -> Path:
    return write_sound(folder / "speech.wav", tone(16_000, FRAMES / FPS), 16_000)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    torch.manual_seed(0)
    model = config.debug().model
    networks = build(model)
    heard = torch.zeros(1, model.completion.window, model.completion.feature_dim)
    networks.completion.fit([(torch.from_numpy(FACE[None]), heard)])
    for weight in networks.synthesis.parameters():  # the branch begins at zero: landmarks unheard
        torch.nn.init.normal_(weight, std=0.2)
    return Avatar("nobody", model, networks)


@pytest.fixture(scope="module")
def located(footage: Path) -> TrackedFootage:
    points_px = still() * 60 + np.arange(FRAMES)[:, None, None] * 0.5 + (10, 5)
    points_px[FACELESS] = np.nan
    found = FaceTrack(times_s=times(), points_px=points_px.astype(np.float32))
    info = probe_video(footage)
    return TrackedFootage(video=footage, info=info, track=found, framing=frame_face(found, 64))


@pytest.fixture(scope="module")
def made(avatar: Avatar, located: TrackedFootage, speech: Path) -> LandmarkTrack:
    """A track as the command makes it, but for the search for the face."""
    return located.as_track(avatar.complete(located, speech), avatar.config.size_px, avatar.name)


def same(a: LandmarkTrack, b: LandmarkTrack) -> bool:
    pairs = [(getattr(a, one.name), getattr(b, one.name)) for one in fields(a)]
    return all(
        np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype for x, y in pairs
    )


# --- the format --------------------------------------------------------------------------------


def test_npz_and_json_come_back_the_same(made: LandmarkTrack, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    points = made.points_crop + rng.normal(0, 0.01, made.points_crop.shape).astype(np.float32)
    rough = replace(made, points_crop=points, times_s=made.times_s / 3, video="Zoë, take 2.mkv")
    for name in ("track.npz", "track.json"):
        rough.save(tmp_path / name)
        assert same(LandmarkTrack.load(tmp_path / name), rough), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["track.json", "track.npz"]


def test_files_hold_what_the_format_says(made: LandmarkTrack, tmp_path: Path) -> None:
    made.save(tmp_path / "track.npz")
    made.save(tmp_path / "track.json")
    read = json.loads((tmp_path / "track.json").read_text())
    with np.load(tmp_path / "track.npz", allow_pickle=False) as held:
        assert set(held.files) == set(read)
        for name in held.files:
            np.testing.assert_array_equal(np.asarray(read[name], held[name].dtype), held[name])
        np.testing.assert_allclose(
            held["points_px"],
            held["points_crop"] * held["side_px"][:, None, None]
            + (held["centre_px"] - held["side_px"][:, None] / 2)[:, None],
            atol=1e-3,
        )
    assert read["version"] == 1
    assert read["frame_px"] == [96, 80]
    assert read["video"] == "footage.mkv"


def test_a_track_of_numpy_and_wider_floats_is_read(made: LandmarkTrack, tmp_path: Path) -> None:
    wide = {n: v.astype(np.float64) if np.asarray(v).dtype == np.float32 else v
            for n, v in made._fields().items() if n != "points_px"}  # fmt: skip
    wide["points_crop"] = np.asfortranarray(wide["points_crop"])
    np.savez(tmp_path / "wide.npz", **wide)
    assert same(LandmarkTrack.load(tmp_path / "wide.npz"), made)


def test_points_in_pixels_may_be_left_out_but_not_disagree(
    made: LandmarkTrack, tmp_path: Path
) -> None:
    path = tmp_path / "track.json"
    made.save(path)
    held = json.loads(path.read_text())
    held["points_px"][3][CHIN][1] += 1
    path.write_text(json.dumps(held))
    with pytest.raises(TrackError, match="points_px and points_crop of frame 3 do not agree"):
        LandmarkTrack.load(path)
    del held["points_px"]
    path.write_text(json.dumps(held))
    assert same(LandmarkTrack.load(path), made)


def test_a_track_that_cannot_be_written_leaves_nothing(
    made: LandmarkTrack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_json, "MAX_JSON_FRAMES", FRAMES - 1)
    with pytest.raises(TrackError, match="as JSON"):
        made.save(tmp_path / "track.json")
    with pytest.raises(MediaError, match="ends in"):
        made.save(tmp_path / "track.txt")
    assert list(tmp_path.iterdir()) == []


BAD_VALUES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "shape": ("points_crop", lambda v: v[:, :67], "points_crop is float32 of shape"),
    "fewer frames": ("found", lambda v: v[1:], "found is bool of shape"),
    "type": ("found", lambda v: v.astype(np.float32), "found is float32"),
    "not a number": ("points_crop", lambda v: v * np.nan, "points_crop of frame 0 is not finite"),
    "infinite": ("side_px", lambda v: v * np.inf, "side_px of frame 0 is not finite"),
    "overflow": ("side_px", lambda v: v.astype(np.float64) * 1e300, "side_px of frame 0"),
    "far away": ("points_crop", lambda v: v + 1e6, "points_crop of frame 0 lies far outside"),
    "times": ("times_s", lambda v: v[::-1], "times_s of frame 1 does not rise"),
    "before zero": ("times_s", lambda v: v - 0.5, "times_s of frame 0 does not rise"),
    "no side": ("side_px", lambda v: v * 0, "side_px of frame 0 is below one pixel"),
    "huge side": ("side_px", lambda v: v * 100, "side_px of frame 0 is far beyond"),
    "outside": ("centre_px", lambda v: v + 900, "centre_px of frame 0 puts the crop outside"),
    "off the grid": ("boxes", lambda v: v + 1, "boxes of frame 0 is no multiple of 8"),
    "box too large": ("boxes", lambda v: v.astype(np.int64) + 2**40, "boxes of frame 0"),
    "turned box": ("boxes", lambda v: v[:, ::-1], "boxes of frame 0 ends before"),
    "size": ("size_px", lambda v: v + 1, "size_px is 65"),
    "frame": ("frame_px", lambda v: (0, 80), r"frame_px is \(0, 80\)"),
    "hash": ("video_sha256", lambda v: "../" * 20, "video_sha256 is no sha256"),
    "control characters": ("avatar", lambda v: "a\x1b[2J", "avatar is no name"),
    "long name": ("video", lambda v: "a" * 256, "video is no name"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_bad_value_is_refused_in_one_line(
    case: str, suffix: str, made: LandmarkTrack, tmp_path: Path
) -> None:
    name, spoil, reason = BAD_VALUES[case]
    with pytest.raises(TrackError, match=reason):
        replace(made, **{name: spoil(getattr(made, name))})
    held = made._fields() | {name: spoil(getattr(made, name))}
    path = tmp_path / f"track{suffix}"
    if suffix == ".npz":
        np.savez(path, **held)
    else:
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in held.items()}
        path.write_text(json.dumps(plain))
    refused(path)


def refused(path: Path) -> str:
    """Loading ends in our own error, of one line that names the file."""
    with pytest.raises(TrackError) as caught:
        LandmarkTrack.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    assert caught.value.fix
    return text


def npy(header: str, data: bytes = b"") -> bytes:
    body = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + data


def repacked(made: LandmarkTrack, path: Path, changes: dict[str, bytes], **how: int) -> Path:
    """The track as .npz, some of its members other bytes."""
    whole = io.BytesIO()
    np.savez(whole, **made._fields())
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", **how) as new:  # type: ignore[call-overload]
        for name in old.namelist():
            new.writestr(name, changes.get(name.removesuffix(".npy"), old.read(name)))
    return path


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 68, 2), }"


def test_hostile_npz_files_are_refused(made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.npz"
    deflated = {"compression": zipfile.ZIP_DEFLATED}
    huge_times = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    assert "shape" in refused(repacked(made, path, {"times_s": npy(huge_times)}))
    assert "shape" in refused(repacked(made, path, {"points_crop": npy(HUGE % 10**12)}))
    assert "damaged" in refused(repacked(made, path, {"points_crop": npy(HUGE % FRAMES)}))
    trailing = npy(HUGE % FRAMES, bytes(made.points_crop.nbytes + 10**7))
    assert "followed" in refused(repacked(made, path, {"points_crop": trailing}, **deflated))
    pickled = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    assert "object" in refused(repacked(made, path, {"video": npy(pickled, b"cos\nsystem\n")}))
    nested = "(" * 110
    assert "damaged" in refused(repacked(made, path, {"boxes": npy(nested)}))
    assert "compressed" in refused(repacked(made, path, {}, compression=zipfile.ZIP_LZMA))


def test_archives_of_other_content_are_refused(made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.npz"
    with zipfile.ZipFile(path, "w") as many:
        for i in range(1000):
            many.writestr(f"{i}", b"")
    assert "too many files" in refused(path)
    np.savez(path, a=np.zeros(3))
    assert "it has no version" in refused(path)
    np.savez(path, **made._fields(), extra=1)
    assert "unknown" in refused(path)
    fine = repacked(made, path, {}).read_bytes()
    for damaged in (b"", b"PK", fine[: len(fine) // 2], fine[:-1], fine + b"x", bytes(len(fine))):
        path.write_bytes(damaged)
        refused(path)


def test_no_flipped_byte_ends_in_another_error(made: LandmarkTrack, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for suffix in track.SUFFIXES:
        path = tmp_path / f"track{suffix}"
        made.save(path)
        fine = path.read_bytes()
        for _ in range(60):
            spoilt = bytearray(fine)
            for place in rng.integers(0, len(fine), 3):
                spoilt[place] = rng.integers(256)
            path.write_bytes(spoilt)
            with contextlib.suppress(TrackError):
                LandmarkTrack.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("[" * 10_000, "no JSON"),
        ("[]," * 4_000_000, "too many lists"),
        ('"ab",' * 100, "too many lists or texts"),
        ("[1, 2]", "no object"),
        ("{}", "it has no version"),
        ('{"version": 1, "version": 1}', "twice"),
        ('{"version": NaN}', "holds NaN"),
        ('{"version": ' + "9" * 5000 + "}", "no JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_json_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "track.json"
    path.write_text(text)
    assert reason in refused(path)


BAD_JSON = {
    "version": 2, "size_px": True, "frame_px": [96, 80.5], "video": 7, "times_s": {"a": 1},
    "points_crop": [[[0, "0"]]], "boxes": [[10**30] * 4] * FRAMES, "side_px": [10**400] * FRAMES,
    "found": [1] * FRAMES,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_other_types_in_json_are_refused(name: str, made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.json"
    made.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: BAD_JSON[name]}))
    refused(path)


def test_files_beyond_the_limit_are_not_opened(tmp_path: Path) -> None:
    for suffix in track.SUFFIXES:
        path = tmp_path / f"track{suffix}"
        with path.open("wb") as file:
            file.truncate(1 << 30)
        assert "bytes" in refused(path)
    assert "no such file" in refused(tmp_path / "none.npz")
    assert "ends in" in refused(tmp_path / "track.pickle")


# --- edits -------------------------------------------------------------------------------------


def test_the_mouth_opens_about_its_midline() -> None:
    wide = open_mouth(still(1), 1.5)[0]
    moved = wide - FACE
    # The inner lips were 0.02 from the midline at y = 0.66; half as much again is 0.03.
    np.testing.assert_allclose(wide[[61, 62, 63], 1], 0.63, atol=1e-6)
    np.testing.assert_allclose(wide[[65, 66, 67], 1], 0.69, atol=1e-6)
    # Lips keep their thickness, corners their place; beside the corners half the way.
    np.testing.assert_allclose(moved[[50, 51, 52], 1], -0.01, atol=1e-6)
    np.testing.assert_allclose(moved[[56, 57, 58], 1], 0.01, atol=1e-6)
    np.testing.assert_allclose(moved[[49, 53], 1], -0.005, atol=1e-6)
    np.testing.assert_allclose(moved[[55, 59], 1], 0.005, atol=1e-6)
    assert not moved[[48, 54, 60, 64]].any()
    assert not moved[list(UPPER + CONTOUR)].any()
    closed = open_mouth(still(1), 0)
    np.testing.assert_allclose(closed[0, [61, 62, 63, 67, 66, 65], 1], 0.66, atol=1e-6)
    np.testing.assert_allclose(open_mouth(closed, 5), closed, atol=1e-6)


def test_the_jaw_drops_from_its_rest() -> None:
    points = still(20)
    points[10, list(CONTOUR), 1] += 0.04
    more = drop_jaw(points, 1.5)
    moved = more - points
    assert moved[10, CHIN, 1] == pytest.approx(0.02, abs=1e-6)
    assert moved[10, 3, 1] == pytest.approx(0.02 * np.sin(np.pi / 12), abs=1e-6)
    assert not moved[[i for i in range(20) if i != 10]].any()
    assert not moved[:, [i for i in range(68) if i not in CONTOUR]].any()
    np.testing.assert_allclose(moved[..., 0], 0, atol=1e-6)
    # A second change finds the rest where it was: 1.5 x 2 is 3 times the drop.
    assert drop_jaw(more, 2)[10, CHIN, 1] - FACE[CHIN, 1] == pytest.approx(0.12, abs=1e-6)


def test_smoothing_has_no_lag_and_does_not_cross_a_gap() -> None:
    points, found = still(41), np.ones(41, np.bool_)
    points[20, 57, 1] += 0.1
    points += np.linspace(0, 0.3, 41, dtype=np.float32)[:, None, None]  # the head moves
    smoothed = smooth_motion(points, times(41), found, 2 / FPS)
    bump = (
        smoothed - smoothed[:, UPPER].mean(1, keepdims=True) - FACE + FACE[list(UPPER)].mean(0)
    )[:, 57, 1]
    assert bump.argmax() == 20
    np.testing.assert_allclose(bump, bump[::-1], atol=1e-6)
    # The peak of a Gaussian of 2 frames: 1 / (2 sqrt(2 pi)) of what was there.
    assert bump[20] == pytest.approx(0.1 / (2 * np.sqrt(2 * np.pi)), rel=0.01)
    np.testing.assert_allclose(smoothed[:, UPPER], points[:, UPPER], atol=0)
    found[21] = False
    np.testing.assert_allclose(
        smooth_motion(points, times(41), found, 2 / FPS)[21:], points[21:], atol=1e-6
    )


def test_a_shift_moves_motion_and_not_the_head() -> None:
    points = still(20)
    points[8, 57, 1] += 0.1
    head = np.linspace(0, 0.2, 20, dtype=np.float32)[:, None, None]
    later = shift_time(points + head, times(20), 2 / FPS) - head
    assert later[10, 57, 1] - FACE[57, 1] == pytest.approx(0.1, abs=1e-5)
    np.testing.assert_allclose(np.delete(later, 10, 0), np.delete(still(20), 10, 0), atol=1e-5)
    half = shift_time(points, times(20), -0.5 / FPS)[:, 57, 1] - FACE[57, 1]
    np.testing.assert_allclose(half[[7, 8]], 0.05, atol=1e-5)


def test_no_edit_reaches_across_a_cut() -> None:
    """Two shots of quite other mouths: every edit of both is the edit of each by itself."""
    rng = np.random.default_rng(0)
    points = still(40) + rng.normal(0, 0.01, (40, 68, 2)).astype(np.float32)
    points[17:, list(LOWER), 1] += 0.1
    found, cuts = np.ones(40, np.bool_), np.array([17])
    for text in ("smooth=0.2", "shift=0.1", "shift=-0.1", "mouth=2"):
        edit = Edit.parse(text)
        whole = edit.apply(points, times(40), found, cuts)
        shots = [slice(0, 17), slice(17, 40)]
        alone = [edit.apply(points[one], times(40)[one], found[one]) for one in shots]
        np.testing.assert_allclose(whole, np.concatenate(alone), atol=1e-6, err_msg=text)
    blurred = Edit.parse("smooth=0.2").apply(points, times(40), found)
    assert np.abs(blurred - whole)[16].max() > 0.01, "without the cut they would mix"


def test_an_edit_fades_within_its_span_and_touches_nothing_else() -> None:
    edit = Edit(kind="mouth", amount=2, start_s=1.0, stop_s=2.0, soft_s=0.2)
    at = np.array([0, 0.99, 1.0, 1.1, 1.2, 1.5, 1.8, 1.9, 2.0, 3.0])
    wanted = [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]
    np.testing.assert_allclose(edit.weights(at), wanted, atol=1e-6)
    sharp = replace(edit, soft_s=0)
    np.testing.assert_array_equal(sharp.weights(at), [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(Edit(kind="jaw", amount=1).weights(at), np.ones(10))
    rng = np.random.default_rng(0)
    points = still(100) + rng.normal(0, 0.01, (100, 68, 2)).astype(np.float32)
    found = np.ones(100, np.bool_)
    for text in ("mouth=2", "jaw=2", "smooth=0.1", "shift=0.2"):
        out = Edit.parse(f"{text}@1-2").apply(points, times(100), found)
        changed = (out != points).any((1, 2))
        assert changed[26:50].mean() > 0.8, text  # a jaw at rest stays
        assert not np.delete(changed, range(26, 50)).any(), text
        assert not (out != points)[:, UPPER].any(), text
        assert (out != points)[30, list(LOWER)].any(), text


def test_edits_follow_one_another(made: LandmarkTrack) -> None:
    edits = [Edit.parse("mouth=2"), Edit.parse("mouth=1.5")]
    found = np.ones(1, np.bool_)
    twice = apply_edits(still(1), times(1), found, edits)
    np.testing.assert_allclose(twice, open_mouth(still(1), 3), atol=1e-6)
    np.testing.assert_array_equal(made.edited([]).points_crop, made.points_crop)


def test_edits_are_written_as_text() -> None:
    assert Edit.parse("mouth=1.3@1.0-2.5") == Edit(
        kind="mouth", amount=1.3, start_s=1.0, stop_s=2.5
    )
    assert Edit.parse("shift=-.04") == Edit(kind="shift", amount=-0.04)
    assert Edit.parse("smooth=0.05@3-") == Edit(kind="smooth", amount=0.05, start_s=3)
    assert Edit.parse("jaw=0@-3") == Edit(kind="jaw", amount=0, stop_s=3)


@pytest.mark.parametrize(
    "text",
    ["", "mouth", "mouth=", "mouth=1@", "mouth=1@2-1", "mouth=1@1-1", "nose=1", "mouth=-1",
     "mouth=11", "jaw=nan", "smooth=-1", "smooth=inf", "shift=1e3", "mouth=1@1.0", "mouth=1@a-b"],
)  # fmt: skip
def test_what_is_no_edit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Edit.parse(text)


# --- painting ----------------------------------------------------------------------------------


def pictures(path: Path) -> NDArray[np.uint8]:
    return np.stack([frame.image for frame in read_frames(path)])


def test_a_track_paints_what_a_dubbing_without_it_paints(
    avatar: Avatar,
    located: TrackedFootage,
    made: LandmarkTrack,
    footage: Path,
    speech: Path,
    folder: Path,
) -> None:
    made.save(folder / "made.json")
    again = LandmarkTrack.load(folder / "made.json")
    plain, painted, edited = (folder / f"{name}.mkv" for name in ("plain", "painted", "edited"))
    avatar.dub(footage, speech, located=located).save(plain, lossless=True)
    result = avatar.dub(footage, speech, landmarks=again).save(painted, lossless=True)
    np.testing.assert_array_equal(pictures(plain), pictures(painted))
    assert (pictures(plain) != pictures(footage)).any((1, 2, 3)).sum() == FRAMES - 1
    assert result.frames_driven == FRAMES - 1
    wide = again.edited([Edit(kind="mouth", amount=10, start_s=0.28, soft_s=0)])
    wide = wide.edited([Edit(kind="jaw", amount=10, start_s=0.28, soft_s=0)])
    avatar.dub(footage, speech, landmarks=wide).save(edited, lossless=True)
    differ = (pictures(plain) != pictures(edited)).any((1, 2, 3))
    assert not differ[:7].any()
    assert differ[7:].any()


@pytest.mark.parametrize(
    ("fit", "source"),
    [
        ("pad", [*range(FRAMES), *[FRAMES - 1] * 6]),
        ("loop", [*range(FRAMES), *range(6)]),
        ("pingpong", [*range(FRAMES), *range(FRAMES - 2, FRAMES - 8, -1)]),
    ],
)
def test_a_track_goes_with_the_frames_that_the_sound_asks_for(
    fit: Fit, source: list[int], avatar: Avatar, made: LandmarkTrack, footage: Path, folder: Path
) -> None:
    long = write_sound(folder / "long.wav", tone(16_000, (FRAMES + 6) / FPS), 16_000)
    once, fitted = folder / "once.mkv", folder / f"{fit}.mkv"
    wide = made.edited([Edit(kind="mouth", amount=3)])
    avatar.dub(footage, long, landmarks=wide).save(once, lossless=True)
    job = avatar.dub(footage, long, landmarks=wide)
    result = job.save(fitted, lossless=True, fit=fit, keep_journal=True)
    np.testing.assert_array_equal(result.landmarks_crop, wide.points_crop[source])
    np.testing.assert_array_equal(pictures(fitted)[:FRAMES], pictures(once))
    plain = pictures(footage)[source]
    driven = np.array(source) != FACELESS
    assert ((pictures(fitted) != plain).any((1, 2, 3)) == driven).all()
    assert result.frames_driven == driven.sum()

    whole, journal = fitted.read_bytes(), folder / f".{fit}.mkv.dubbing"
    chunks = {path.name for path in journal.glob("faces-*")}
    late = Edit(kind="mouth", amount=0, start_s=(FRAMES + 3.5) / FPS, soft_s=0)
    edited = avatar.dub(footage, long, landmarks=wide, edits=[late])
    edited.save(fitted, lossless=True, fit=fit, keep_journal=True)
    kept = {path.name for path in journal.glob("faces-*")}
    assert len(chunks) == len(kept) == 2
    assert len(kept - chunks) == 1, "the last chunk alone is painted anew"
    job.save(fitted, lossless=True, fit=fit)
    assert fitted.read_bytes() == whole


def test_an_edit_is_at_times_of_the_output(
    avatar: Avatar, located: TrackedFootage, footage: Path, folder: Path
) -> None:
    long = write_sound(folder / "long.wav", tone(16_000, 2 * FRAMES / FPS), 16_000)
    wide = Edit(kind="mouth", amount=9, start_s=FRAMES / FPS, soft_s=0)
    results = [
        avatar.dub(footage, long, located=located, edits=edits).save(path, fit="loop")
        for path, edits in ((folder / "plain.mp4", ()), (folder / "edited.mp4", (wide,)))
    ]
    moved = (results[0].landmarks_crop != results[1].landmarks_crop).any((1, 2))
    assert not moved[:FRAMES].any()
    assert moved[FRAMES:].any()
    far = avatar.dub(footage, long, located=located, edits=[Edit(kind="mouth", amount=10)] * 9)
    with pytest.raises(TrackError, match="far outside"):
        far.save(folder / "far.mp4", fit="loop")


def test_a_track_of_other_footage_is_refused(
    avatar: Avatar, made: LandmarkTrack, footage: Path, speech: Path, folder: Path
) -> None:
    other = folder / "other.mkv"
    other.write_bytes(footage.read_bytes() + b" ")
    with pytest.raises(TrackError, match=r"belong to other footage than .*other\.mkv"):
        avatar.dub(other, speech, landmarks=made)
    with pytest.raises(TrackError, match="belong to other footage"):
        avatar.dub(footage, speech, landmarks=replace(made, frame_px=(80, 96)))
    with pytest.raises(TrackError, match="for an avatar of 128 pixels"):
        avatar.dub(footage, speech, landmarks=replace(made, size_px=128))
    with pytest.raises(MediaError, match="no such file"):
        avatar.dub(folder / "none.mkv", speech, landmarks=made)


# --- the commands ------------------------------------------------------------------------------


@pytest.fixture
def person(
    avatar: Avatar, located: TrackedFootage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An avatar's folder; where the packaged footage is absent its face is told by hand."""
    home = folder / "nobody"
    if not home.exists():
        nets = avatar.networks
        avatar_files.write(
            home, name="nobody", config=avatar.config, architecture=nets.architecture(),
            weights=nets.state(), facts={}, card="Nobody.",
        )  # fmt: skip
    for module in (pipeline, dub):
        monkeypatch.setattr(module, "locate", lambda *_, **__: located)
    return home


def spoken(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*map(str, words), "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


def test_landmarks_are_written_drawn_edited_and_painted(
    person: Path, footage: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz, text, preview = (tmp_path / name for name in ("t.npz", "t.json", "preview.mp4"))
    common: list[str | Path] = [footage, speech, "--avatar", person]
    record = spoken(["landmarks", *common, "-o", npz, "--preview", preview], capsys)
    assert (record["frames"], record["frames_driven"]) == (FRAMES, FRAMES - 1)
    plain = LandmarkTrack.load(npz)
    assert plain.video_sha256 == sha256_of(footage)
    assert plain.avatar == "nobody"
    assert len(pictures(preview)) == FRAMES
    assert probe_audio(preview).rate_hz == 16_000
    drawn = np.abs(pictures(preview).astype(int) - pictures(footage)).mean((1, 2, 3))
    assert drawn[FACELESS] < 0.5 * np.delete(drawn, FACELESS).min()

    edit = ["--edit", "mouth=2@0.1-", "--edit", "shift=0.04"]
    assert spoken(["landmarks", *common, "-o", text, *edit], capsys)["edits"] == edit[1::2]
    edited = plain.edited([Edit.parse("mouth=2@0.1-"), Edit.parse("shift=0.04")])
    assert same(LandmarkTrack.load(text), edited)

    outs = [tmp_path / f"{name}.mkv" for name in "abc"]
    ways: list[list[str | Path]] = [["--landmarks", text], ["--landmarks", npz, *edit], [*edit]]
    for out, way in zip(outs, ways, strict=True):
        back = tmp_path / f"{out.stem}.npz"
        how: list[str | Path] = ["-o", out, "--lossless", "--landmarks-out", back]
        assert spoken(["dub", *common, *how, *way], capsys)["frames"] == FRAMES
        assert same(LandmarkTrack.load(back), edited)
    assert len({pictures(out).tobytes() for out in outs}) == 1


def test_wrong_use_is_one_line_and_leaves_nothing(
    person: Path, footage: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK")
    common: list[str | Path] = [footage, speech, "--avatar", person]
    for code, words in (
        (2, ["landmarks", *common, "-o", tmp_path / "t.npz", "--edit", "nose=2"]),
        (1, ["landmarks", *common, "-o", tmp_path / "t.txt"]),
        (1, ["landmarks", *common, "-o", tmp_path / "t.npz", "--preview", tmp_path / "t.gif"]),
        (1, ["dub", *common, "-o", tmp_path / "t.mkv", "--landmarks", bad]),
        (2, ["dub", *common, "-o", tmp_path / "t.mkv", "--landmarks", bad, "--landmarks-out", bad]),
        (2, ["dub", *common, "-o", tmp_path / "t.mkv", "--edit", "mouth=much"]),
        (
            2,
            [
                "dub",
                *common,
                "-o",
                tmp_path / "t.mkv",
                "--fit",
                "pad",
                "--landmarks-out",
                tmp_path / "t.npz",
            ],
        ),
    ):
        assert cli.main([*map(str, words)]) == code, words
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_landmarks_of_packaged_footage(avatar: Avatar, tmp_path: Path) -> None:
    try:
        video, audio = samples.footage(), samples.speech()
    except DiffTalkerError as error:
        pytest.skip(f"this checkout has no packaged samples: {error}")
    made = avatar.landmarks(video, audio)
    made.save(tmp_path / "track.npz")
    assert same(LandmarkTrack.load(tmp_path / "track.npz"), made)
    assert made.found.all()
